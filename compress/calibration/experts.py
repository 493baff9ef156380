"""What experts multiply: Transformers merges their matrices into one parameter, of which each is a slice.

A checkpoint has a tensor an expert and matrix; merged, the experts of a block lie behind each other, and matrices that
share their input (gate and up) below each other. There is no module to hook, so products by a slice are caught where
they are made, in `torch.nn.functional.linear`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers.core_model_loading import Concatenate, MergeModulelist

from tilepress.formats.names import Target
from tilepress.formats.skeleton import Skeleton


@dataclass(frozen=True)
class Expert:
    """Where the matrix of an expert lies.

    Attributes:
        module: that has the merged parameter.
        parameter: its name there, [experts, rows, columns].
        number: of the expert.
        rows: of the expert's slice that are this matrix, as the n-th of so many equal parts.
    """

    module: nn.Module
    parameter: str
    number: int
    rows: tuple[int, int] = (0, 1)

    def of_output(self, output: torch.Tensor) -> torch.Tensor:
        """The columns of a product by the expert's whole slice that are due to this matrix."""
        part, parts = self.rows
        width = output.shape[-1] // parts
        return output[..., part * width : (part + 1) * width]


Seen = Callable[[list[str], torch.Tensor, torch.Tensor], None]
"""Takes the names of an expert's matrices, what they multiply and the product."""


class ExpertProducts(TorchFunctionMode):
    """While it is entered, products by experts' slices are shown to `seen`.

    From the first product on, the experts' parameters must stay where they are.
    """

    def __init__(self, experts: Mapping[str, Expert], seen: Seen) -> None:
        """Watch experts, each called by the name of its matrix in the checkpoint."""
        super().__init__()
        self._experts, self._seen = experts, seen
        self._places: dict[int, list[str]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Carry out `func`, and look at it if it is a product."""
        result = func(*args, **(kwargs or {}))
        if func is nn.functional.linear:
            names = self._names(args[1])
            if names:
                self._seen(names, args[0], result)
        return result

    def _names(self, weight: torch.Tensor) -> list[str]:
        if not self._places:
            for name, expert in self._experts.items():
                merged = getattr(expert.module, expert.parameter)
                address = merged.data_ptr() + expert.number * merged.stride(0) * merged.element_size()
                self._places.setdefault(address, []).append(name)
        return self._places.get(weight.data_ptr(), [])


def places_of_experts(skeleton: Skeleton, names: Iterable[str]) -> dict[str, Expert]:
    """Tensors of a checkpoint that are merged, and nothing else -> their places."""
    found: dict[str, Expert] = {}
    before: Counter[tuple[str, str]] = Counter()
    for name in sorted(names, key=by_numbers):
        place = skeleton.find(name)
        if place is None or not place.is_expert:
            continue
        target = skeleton.target(name)
        pattern, patterns = source_pattern(target), list(target.converter.source_patterns)
        number = before[target.name, pattern]
        before[target.name, pattern] += 1
        if all(isinstance(operation, (MergeModulelist, Concatenate)) for operation in target.converter.operations):
            found[name] = Expert(place.module, place.parameter, number, (patterns.index(pattern), len(patterns)))
    return found


def source_pattern(target: Target) -> str:
    """The converter's source pattern that the name matched."""
    pattern: str = target.converter.rename_source_key(target.plain)[1]
    return pattern


def by_numbers(name: str) -> list[tuple[int, str]]:
    """Sort key that puts expert 10 behind expert 9."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", name)]
