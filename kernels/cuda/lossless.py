"""The operators of `lossless` on a GPU: `tilepress::lossless_decode` and `tilepress::lossless_matmul`.

One to eight rows of x are multiplied as the blocks are decoded; for more, blocks of decoded rows are left to PyTorch's
matmul. Version 1, which only early files have, is decoded by the reference.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch

from tilepress.kernels.cpu.lossless import OPERATORS, described
from tilepress.kernels.cpu.lossless import decode as decode  # the operator, which every device has
from tilepress.kernels.cuda import payloads, registry
from tilepress.kernels.cuda.launch import Int, Launcher, Long, Pointer, launcher
from tilepress.kernels.cuda.panels import matmul_by_blocks
from tilepress.kernels.encoded import Encoded
from tilepress.kernels.errors import CodecError
from tilepress.kernels.layout.lossless import BLOCK_COLUMNS, LosslessParams, table_bytes


class Lossless(NamedTuple):
    """A weight of version 2, as the operators take it."""

    payload: torch.Tensor
    offsets: torch.Tensor
    table: torch.Tensor
    source: torch.dtype
    height: int
    width: int

    def pointers(self) -> tuple[Pointer | Long, ...]:
        """What every kernel begins with."""
        return Pointer(self.payload), Long(self.payload.numel()), Pointer(self.offsets), Pointer(self.table)


def matmul(x: torch.Tensor, encoded: Encoded, bias: torch.Tensor | None, rows: range) -> torch.Tensor:
    """`x @ weight[rows].T + bias`, accumulated in float32."""
    if cast(LosslessParams, encoded.params).version == 1:
        every = range(encoded.columns)
        vectors = x.reshape(-1, encoded.columns)
        y = matmul_by_blocks(
            vectors, lambda piece: decode(encoded, range(*piece), every, x.dtype), bias, (rows.start, rows.stop)
        )
        return y.reshape(*x.shape[:-1], len(rows))
    return OPERATORS.matmul(x, described(encoded), bias, rows)


def decode_on(
    device: Launcher, weight: Lossless, rows: tuple[int, int], columns: tuple[int, int], dtype: torch.dtype
) -> torch.Tensor:
    """Values of a range, `dtype` [rows, columns]; NaN where a block is damaged.

    Raises:
        CodecError: parts that don't fit each other or the range.
    """
    _check(weight, rows, columns)
    values = weight.payload.new_empty((rows[1] - rows[0], columns[1] - columns[0]), dtype=dtype)
    if not values.numel():
        return values
    items = payloads.panels_of(rows) * (-(-columns[1] // BLOCK_COLUMNS) - columns[0] // BLOCK_COLUMNS)
    device.launch(
        registry.lossless_decode(weight.source, dtype),
        (-(-items // registry.WARPS), 1),
        (
            *weight.pointers(),
            Pointer(values),
            *map(Int, (items, weight.height, weight.width, *rows, *columns)),
        ),
    )
    return values


def matmul_on(
    device: Launcher, x: torch.Tensor, weight: Lossless, bias: torch.Tensor | None, rows: tuple[int, int]
) -> torch.Tensor:
    """`x @ weight[rows].T + bias`: [..., columns] -> [..., rows] in the dtype of x; NaN where a block is damaged.

    Raises:
        CodecError: parts or a bias that don't fit.
    """
    every = 0, weight.width
    _check(weight, rows, every)

    def partial_sums(vectors: torch.Tensor) -> torch.Tensor:
        blocks = -(-weight.width // BLOCK_COLUMNS)
        items = payloads.panels_of(rows) * blocks
        partials = x.new_empty((blocks, len(vectors), rows[1] - rows[0]), dtype=torch.float32)
        if not items:
            return partials
        device.launch(
            registry.lossless_multiply(weight.source, x.dtype),
            (-(-items // registry.WARPS), 1),
            (
                *weight.pointers(),
                *map(Pointer, (vectors, partials)),
                *map(Int, (items, len(vectors), weight.height, weight.width, *rows)),
            ),
        )
        return partials

    def dense(piece: tuple[int, int]) -> torch.Tensor:
        return decode_on(device, weight, piece, every, x.dtype)

    return payloads.matmul(device, x, weight.payload, bias, rows, dense, partial_sums)


def _check(weight: Lossless, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    """Raise `CodecError` unless kernels may read these parts."""
    payloads.require_range((weight.height, weight.width), rows, columns)
    payloads.require_payload(weight.payload, weight.offsets, weight.table)
    pieces = payloads.panels_of((0, weight.height)) * -(-weight.width // BLOCK_COLUMNS)
    if weight.offsets.numel() <= pieces or weight.table.numel() != table_bytes(weight.source):
        raise CodecError("codec lossless: the offsets or the table do not fit the shape and dtype")


OPERATORS.implement(
    "CUDA",
    Lossless,
    lambda weight, rows, columns, dtype: decode_on(launcher(weight.payload.device), weight, rows, columns, dtype),
    lambda x, weight, bias, rows: matmul_on(launcher(x.device), x, weight, bias, rows),
)
