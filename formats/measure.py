"""The distance between a tensor and what its parts decode to."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from tilepress.formats.record import Error
from tilepress.kernels import DTYPES, PANEL_ROWS, Encoded, decode
from tilepress.kernels.difference import difference

_RUN_VALUES = 1 << 18
"""Values that are decoded and compared at a time, so that they stay in a cache."""
_DIGITS = 6


def measure_error(weight: torch.Tensor, encoded: Encoded) -> Error:
    """Largest absolute and relative root-mean-square difference, in float64; the latter to six digits.

    Values with the same bits, and pairs of NaN, count as equal, so that a bit-identical tensor has no error. Sums
    are taken run by run in one order: the figures do not depend on threads.

    Args:
        weight: the tensor that was encoded.
        encoded: what it became.
    """
    if encoded.codec == "none" or weight.dtype not in DTYPES.values():
        return Error(0.0, 0.0)
    matrix = weight.reshape(encoded.rows, encoded.columns)
    step = max(1, _RUN_VALUES // max(1, encoded.columns) // PANEL_ROWS) * PANEL_ROWS
    largest, squares, energy = 0.0, [], []
    for true, found in _runs(matrix, encoded, step):
        gap, gap_squares, true_squares = difference(true, found)
        largest = max(largest, gap)
        squares.append(gap_squares)
        energy.append(true_squares)
    noise = math.fsum(squares)
    relative = math.sqrt(noise / math.fsum(energy)) if noise else 0.0
    return Error(largest, float(f"{relative:.{_DIGITS}g}"))


def _runs(matrix: torch.Tensor, encoded: Encoded, step: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`step` rows of the original and of what was decoded at a time; rows that decode together do so once."""
    together = encoded.params.rows_together(encoded.shape)
    block = -(-step // together) * together
    for first in range(0, encoded.rows, block):
        decoded = decode(encoded, slice(first, first + block))
        for row in range(0, len(decoded), step):
            found = decoded[row : row + step]
            yield matrix[first + row : first + row + len(found)], found
