"""Decoding and multiplication: one table that says which backend runs a codec on a device.

A tensor in main memory runs `cpu` where that backend has the codec, else `reference`; one on a GPU runs `cuda`, else
`reference` there. Nothing moves between devices by itself.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Protocol, cast

import torch

from tilepress.kernels.encoded import PANEL_ROWS, Encoded
from tilepress.kernels.errors import CodecError
from tilepress.kernels.registry import CODECS

BLOCK_VALUES = 1 << 20
"""Values that `matmul` decodes at a time: 4 MiB in float32, so that they stay in a core's cache."""


class Backend(Protocol):
    """What a backend's module of a codec offers."""

    def decode(self, encoded: Encoded, rows: range, columns: range) -> torch.Tensor:
        """Values of the range [len(rows), len(columns)], in float32 or the tensor's own dtype."""


@cache
def backend_of(codec: str, device_type: str) -> tuple[str, Backend]:
    """Name and module of the backend that runs `codec` on devices of this type ("cpu", "cuda")."""
    return "reference", cast(Backend, importlib.import_module(f"tilepress.kernels.reference.{codec}"))


def table() -> list[tuple[str, str, str]]:
    """(codec, device type, backend) for every codec, as `tilepress doctor` prints it."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return [(codec, device, backend_of(codec, device)[0]) for codec in CODECS for device in devices]


def decode(
    encoded: Encoded,
    rows: slice | None = None,
    columns: slice | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Dense values of an encoded tensor, or of a range of it; only the panels and tiles of the range are decoded.

    Args:
        encoded: the tensor.
        rows: a slice (step 1) of the matrix's rows; of a stack of matrices, rows of the tall matrix.
        columns: a slice (step 1) of its columns.
        dtype: of the result; the dtype of the tensor that was encoded when left out.

    Returns:
        The tensor in its own shape, or a matrix [rows, columns] when a range was asked for.

    Raises:
        CodecError: a slice with a step, or parts that are damaged.
    """
    row_range, column_range = _range(rows, encoded.rows), _range(columns, encoded.columns)
    _, backend = backend_of(encoded.codec, encoded.device.type)
    if len(row_range) and len(column_range):
        values = backend.decode(encoded, row_range, column_range)
    else:
        values = torch.empty(len(row_range), len(column_range), dtype=encoded.dtype, device=encoded.device)
    values = values.to(dtype or encoded.dtype)
    return values.reshape(encoded.shape) if rows is None and columns is None else values


def matmul(
    x: torch.Tensor, encoded: Encoded, bias: torch.Tensor | None = None, rows: slice | None = None
) -> torch.Tensor:
    """`x @ weight.T + bias`, where at most a block of rows of the weight is dense at any time.

    Args:
        x: [..., columns], float32, float16 or bfloat16, on the device of the parts.
        encoded: the weight, [rows, columns].
        bias: [rows], added to the result.
        rows: multiply by these rows of the weight only (step 1).

    Returns:
        [..., rows] in the dtype of `x`.

    Raises:
        CodecError: shapes that don't match, or parts that are damaged.
    """
    if x.shape[-1] != encoded.columns:
        raise CodecError(f"x has {x.shape[-1]} columns, the weight {encoded.columns}")
    row_range = _range(rows, encoded.rows)
    y = x.new_empty(*x.shape[:-1], len(row_range))
    step = max(1, BLOCK_VALUES // max(1, encoded.columns) // PANEL_ROWS) * PANEL_ROWS
    for first in range(row_range.start, row_range.stop, step):
        block = slice(first, min(first + step, row_range.stop))
        weight = decode(encoded, block, dtype=x.dtype)
        y[..., block.start - row_range.start : block.stop - row_range.start] = x @ weight.T
    return y if bias is None else y + bias


def _range(piece: slice | None, length: int) -> range:
    wanted = range(length)[piece if piece is not None else slice(None)]
    if wanted.step != 1:
        raise CodecError(f"only slices of step 1 can be decoded, not {piece}")
    return wanted
