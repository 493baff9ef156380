"""What the operators of all native codecs share: a product is one kernel's for few rows of x, and PyTorch's for many.

A few rows of x are multiplied as the weight is decoded, in registers or a near cache. Of many rows, each decoded weight
is used so often that a block of them is decoded into cache and left to PyTorch's matmul. Neither ever holds the whole
weight.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch

from tilepress.kernels import _native
from tilepress.kernels.cpu.buffers import DTYPE_NAMES, buffer
from tilepress.kernels.encoded import PANEL_ROWS

BLOCK_VALUES = 1 << 21
"""Weights that are decoded at a time for many rows of x: 4 MiB in bfloat16, which the last cache holds."""


class NativeWeight(Protocol):
    """One encoded weight, as its codec's native functions see it. Both raise `CodecError` for parts that don't fit."""

    def decode_into(self, values: torch.Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> None:
        """Write a range to `values`, contiguous [rows, columns] of any dtype that can be compressed."""

    def multiply(
        self, rows: tuple[int, int], x: _native.Buffer, bias: _native.Buffer, y: _native.Buffer, dtype: str, count: int
    ) -> None:
        """Write x @ weight[rows].T + bias to `y`, for 1..MOST_VECTORS rows of x; all are of `dtype`."""


def decode(weight: NativeWeight, rows: tuple[int, int], columns: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """Values of a range, `dtype` [rows, columns].

    Raises:
        CodecError: parts that don't fit the tensor's shape.
    """
    values = torch.empty(rows[1] - rows[0], columns[1] - columns[0], dtype=dtype)
    weight.decode_into(values, rows, columns)
    return values


def matmul(x: torch.Tensor, weight: NativeWeight, bias: torch.Tensor | None, rows: tuple[int, int]) -> torch.Tensor:
    """`x @ weight[rows].T + bias`: [..., columns] -> [..., rows] in the dtype of x.

    Raises:
        CodecError: parts or a bias that don't fit the weight's shape.
    """
    columns, height = x.shape[-1], rows[1] - rows[0]
    y = torch.empty(*x.shape[:-1], height, dtype=x.dtype)
    count = math.prod(x.shape[:-1])
    if count > _native.MOST_VECTORS:
        _multiply_many(x.reshape(count, columns), weight, bias, rows, y.view(count, height))
    elif count:
        vectors = x.contiguous()
        addend = None if bias is None else bias.to(x.dtype).contiguous()
        weight.multiply(rows, buffer(vectors), buffer(addend), buffer(y), DTYPE_NAMES[x.dtype], count)
    return y


def _multiply_many(
    vectors: torch.Tensor, weight: NativeWeight, bias: torch.Tensor | None, rows: tuple[int, int], y: torch.Tensor
) -> None:
    columns = vectors.shape[1]
    step = max(1, BLOCK_VALUES // max(1, columns) // PANEL_ROWS) * PANEL_ROWS
    block = torch.empty(min(step, rows[1] - rows[0]), columns, dtype=vectors.dtype)
    for first in range(rows[0], rows[1], step):
        last = min(first + step, rows[1])
        values = block[: last - first]
        weight.decode_into(values, (first, last), (0, columns))
        piece = slice(first - rows[0], last - rows[0])
        y[:, piece] = torch.nn.functional.linear(vectors, values, None if bias is None else bias[piece].to(y.dtype))
