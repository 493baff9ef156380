"""Cutting a tensor into runs of whole panels, so that encoders need little memory beside their input."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tilepress.kernels import PANEL_ROWS, CodecError, matrix_shape
from tilepress.kernels.encoded import require_codable

RUN_VALUES = 1 << 21
"""Values that an encoder works on at a time (8 MiB in float32)."""


def as_matrix(weight: torch.Tensor) -> torch.Tensor:
    """The matrix under which `weight` is coded.

    Raises:
        CodecError: a dtype that can't be compressed.
    """
    require_codable(weight)
    return weight.reshape(matrix_shape(tuple(weight.shape)))


def runs(matrix: torch.Tensor) -> Iterator[torch.Tensor]:
    """Consecutive runs of whole panels (the last panel may be short), each of about `RUN_VALUES` values."""
    rows, columns = matrix.shape
    step = max(1, RUN_VALUES // max(1, columns) // PANEL_ROWS) * PANEL_ROWS
    for first in range(0, rows, step):
        yield matrix[first : first + step]


def require_finite(values: torch.Tensor, codec: str) -> None:
    """Raise `CodecError` if `values` holds a NaN or an infinity."""
    if not bool(torch.isfinite(values).all()):
        raise CodecError(
            f"codec {codec} has no code for the NaN or infinite values of this tensor; "
            "give it the codec lossless or none"
        )
