"""Gathering second moments from a running model, by hooks on its linear layers and on products by experts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from typing_extensions import Self

from tilepress.compress.calibration.experts import Expert, ExpertProducts
from tilepress.compress.calibration.statistics import Statistics


class MomentCollector:
    """While it is entered, what each layer multiplies is added up. Layers that are given one input share one sum."""

    def __init__(self, layers: Mapping[str, nn.Module], experts: Mapping[str, Expert] = MappingProxyType({})) -> None:
        """Watch layers and experts, each called by the name of its weight in the checkpoint."""
        self._layers = layers
        self._experts = experts
        self._open = ExitStack()
        self._sums: dict[str, torch.Tensor] = {}
        self._tokens: dict[str, int] = {}
        self._owners: dict[str, str] = {}
        self._last: tuple[str, torch.Tensor] | None = None

    def __enter__(self) -> Self:
        for name, layer in self._layers.items():
            self._open.callback(layer.register_forward_pre_hook(self._hook(name)).remove)
        if self._experts:
            self._open.enter_context(ExpertProducts(self._experts, self._add_expert))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._last = None

    def statistics(self) -> dict[str, Statistics]:
        """Name -> statistics, without layers that were never called, and experts that have seen too little."""
        means = {owner: Statistics(total / self._tokens[owner]) for owner, total in self._sums.items()}
        return {
            name: means[owner]
            for name, owner in self._owners.items()
            if name not in self._experts or has_seen_enough(self._tokens[owner], means[owner].columns)
        }

    def _hook(self, name: str) -> Any:
        def add(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            inputs = arguments[0]
            owner = self._last[0] if self._last is not None and self._last[1] is inputs else name
            if self._owners.setdefault(name, owner) == name:
                self._add(name, inputs)
            self._last = self._owners[name], inputs

        return add

    def _add_expert(self, names: list[str], inputs: torch.Tensor, output: torch.Tensor) -> None:
        self._owners |= dict.fromkeys(names, names[0])
        self._add(names[0], inputs)

    def _add(self, owner: str, inputs: torch.Tensor) -> None:
        rows = inputs.detach().reshape(-1, inputs.shape[-1]).float()
        total = self._sums.setdefault(owner, torch.zeros(rows.shape[1], rows.shape[1]))
        total.addmm_(rows.T, rows)
        self._tokens[owner] = self._tokens.get(owner, 0) + len(rows)


def has_seen_enough(tokens: int, columns: int) -> bool:
    """Whether so many tokens tell what an expert's inputs have in common: fewer than its columns only tell of them."""
    return tokens >= columns
