"""Codes of a value each with scales a group of columns (`int`, `nf4`, `fp8`), coded with error feedback.

The scales of a group are searched when its first column is reached: those that plain rounding would take, a little
smaller ones, and the least-squares fit to the best of these; squared errors are weighted by what they cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

import torch

from tilepress.compress.calibration.statistics import Statistics
from tilepress.compress.error_feedback import feed_back
from tilepress.kernels import CodecError

SHRINKS = tuple(1 - 0.035 * step for step in range(13))
"""Factors by which scales are tried: values of large magnitude are clipped for the sake of all others."""

Scales: TypeAlias = Mapping[str, torch.Tensor]
"""Part -> what is stored of a group for each row, [rows]."""


class ScaledCode(Protocol):
    """A code book and its scales. Matrices are transposed: [columns, rows]."""

    def start(self, values: torch.Tensor) -> Scales:
        """Scales of a group as plain rounding takes them."""
        ...

    def rescale(self, scales: Scales, factor: torch.Tensor | float) -> Scales:
        """Scales times a factor, or one for each row, rounded to what can be stored."""
        ...

    def code(self, values: torch.Tensor, scales: Scales) -> torch.Tensor:
        """Nearest codes, uint8."""
        ...

    def decode(self, codes: torch.Tensor, scales: Scales) -> torch.Tensor:
        """Values of codes, float32."""
        ...


class ScaledColumns:
    """The `ColumnQuantizer` of a `ScaledCode`."""

    step = 1

    def __init__(self, book: ScaledCode, group: int) -> None:
        """Begin a matrix whose groups have `group` columns, 0 for one group."""
        self.group = group
        self._book = book
        self._scales: list[Scales] = []
        self._codes: list[torch.Tensor] = []

    def begin_group(self, values: torch.Tensor, importance: torch.Tensor) -> None:
        """Search the scales; see `ColumnQuantizer`."""
        self._scales.append(search_scales(self._book, values, importance))

    def quantize(self, values: torch.Tensor) -> torch.Tensor:
        """Round one column; see `ColumnQuantizer`."""
        codes = self._book.code(values, self._scales[-1])
        self._codes.append(codes)
        return self._book.decode(codes, self._scales[-1])

    def result(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Codes [rows, columns], and what is stored of the groups, [rows, groups] each."""
        stored = {part: torch.stack([scales[part] for scales in self._scales], 1) for part in self._scales[0]}
        return torch.cat(self._codes).T.contiguous(), stored


def search_scales(book: ScaledCode, values: torch.Tensor, importance: torch.Tensor) -> Scales:
    """The scales of a group with the least weighted squared error.

    Args:
        book: the code.
        values: float32 [columns, rows].
        importance: float32 [columns].
    """
    start = book.start(values)
    # Relative, so that neither large values nor large importances overflow.
    weights = (importance / importance.mean())[None]
    best, best_cost = start, _cost(book, values, start, weights)
    for shrink in SHRINKS[1:]:
        best, best_cost = _better(book, values, weights, book.rescale(start, shrink), best, best_cost)
    decoded = book.decode(book.code(values, best), best)
    energy = (weights @ decoded.square())[0]
    fit = torch.where(energy > 0, (weights @ (decoded * values))[0] / energy, 1.0)
    return _better(book, values, weights, book.rescale(best, fit), best, best_cost)[0]


def _cost(book: ScaledCode, values: torch.Tensor, scales: Scales, weights: torch.Tensor) -> torch.Tensor:
    return (weights @ (book.decode(book.code(values, scales), scales) - values).square_())[0]


def _better(
    book: ScaledCode, values: torch.Tensor, weights: torch.Tensor, scales: Scales, best: Scales, cost: torch.Tensor
) -> tuple[Scales, torch.Tensor]:
    """Of two choices the better one for each row, and its cost."""
    other = _cost(book, values, scales, weights)
    wins = other < cost
    return {part: torch.where(wins, scales[part], best[part]) for part in best}, torch.where(wins, other, cost)


def feedback_run(
    book: ScaledCode, group: int, columns: int, statistics: Statistics
) -> Callable[[torch.Tensor], tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """What `groups.encode_tiles` calls for each run of rows, with error feedback.

    Args:
        book: the code.
        group: columns that share scales, 0 for all.
        columns: of the matrix, before it is filled up to whole tiles.
        statistics: of its inputs.

    Raises:
        CodecError: statistics of a layer with another number of inputs.
    """
    if statistics.columns != columns:
        raise CodecError(f"the statistics are of {statistics.columns} inputs, but the matrix has {columns} columns")

    def encode_run(values: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        padding = values.shape[1] - columns
        factor = statistics.factor
        if padding:
            factor = torch.nn.functional.pad(factor, (0, padding, 0, padding))
            factor.diagonal()[columns:] = factor.diagonal()[:columns].mean()
        quantizer = ScaledColumns(book, group)
        feed_back(values, factor, quantizer)
        return quantizer.result()

    return encode_run
