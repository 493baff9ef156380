"""Gathering second moments from a running model, by hooks on its linear layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from typing_extensions import Self

from tilepress.compress.calibration.statistics import Statistics


class MomentCollector:
    """While it is entered, what each layer multiplies is added up. Layers that are given one input share one sum."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        """Watch layers, each called by the name of its weight in the checkpoint."""
        self._layers = layers
        self._sums: dict[str, torch.Tensor] = {}
        self._tokens: dict[str, int] = {}
        self._owners: dict[str, str] = {}
        self._last: tuple[str, torch.Tensor] | None = None
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        for name, layer in self._layers.items():
            self._hooks.append(layer.register_forward_pre_hook(self._hook(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._last = None

    def statistics(self) -> dict[str, Statistics]:
        """Name -> statistics, without layers that were never called."""
        means = {owner: Statistics(total / self._tokens[owner]) for owner, total in self._sums.items()}
        return {name: means[owner] for name, owner in self._owners.items()}

    def _hook(self, name: str) -> Any:
        def add(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            inputs = arguments[0]
            owner = self._last[0] if self._last is not None and self._last[1] is inputs else name
            if self._owners.setdefault(name, owner) == name:
                rows = inputs.detach().reshape(-1, inputs.shape[-1]).float()
                total = self._sums.setdefault(name, torch.zeros(rows.shape[1], rows.shape[1]))
                total.addmm_(rows.T, rows)
                self._tokens[name] = self._tokens.get(name, 0) + len(rows)
            self._last = self._owners[name], inputs

        return add
