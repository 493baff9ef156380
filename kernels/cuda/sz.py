"""The operators of `sz` on a GPU: `tilepress::sz_decode` and `tilepress::sz_matmul`.

A product leaves blocks of decoded rows to PyTorch's matmul.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from tilepress.kernels.cpu.sz import OPERATORS

# The operators, which every device has.
from tilepress.kernels.cpu.sz import decode as decode
from tilepress.kernels.cpu.sz import matmul as matmul
from tilepress.kernels.cuda import payloads, registry
from tilepress.kernels.cuda.launch import Argument, Int, Launcher, Long, Pointer, launcher
from tilepress.kernels.encoded import PANEL_ROWS
from tilepress.kernels.errors import CodecError
from tilepress.kernels.layout.sz import LANES, PREDICTORS, TABLE_BYTES, TILE_COLUMNS, tiles_across

HIGH_PARTS = 1 << 24
"""High parts that are kept at a time: 32 MiB, which lie in the cache of a large GPU."""

_THREAD_VALUES = 8
"""Neighbouring values of a thread; rows of high parts are filled up to them."""


class Sz(NamedTuple):
    """A weight as the operators take it."""

    payload: torch.Tensor
    offsets: torch.Tensor
    table: torch.Tensor
    predictor: str
    source: torch.dtype
    height: int
    width: int

    def pointers(self) -> tuple[Argument, ...]:
        """What every kernel begins with."""
        return Pointer(self.payload), Long(self.payload.numel()), Pointer(self.offsets), Pointer(self.table)


def decode_on(
    device: Launcher, weight: Sz, rows: tuple[int, int], columns: tuple[int, int], dtype: torch.dtype
) -> torch.Tensor:
    """Values of a range, `dtype` [rows, columns]; NaN where a tile is damaged.

    Raises:
        CodecError: parts that don't fit each other or the range.
    """
    _check(weight, rows, columns)
    values = weight.payload.new_empty((rows[1] - rows[0], columns[1] - columns[0]), dtype=dtype)
    if not values.numel():
        return values
    across = tiles_across(columns[1]) - columns[0] // TILE_COLUMNS
    pitch = -(-min(weight.width, TILE_COLUMNS) // _THREAD_VALUES) * _THREAD_VALUES
    of_tile = PANEL_ROWS * pitch + LANES // 2
    together = max(1, HIGH_PARTS // (across * of_tile)) * PANEL_ROWS
    tiles = across * min(payloads.panels_of(rows), together // PANEL_ROWS)
    highs = weight.payload.new_empty(tiles * of_tile, dtype=torch.int16)
    a_word = 16 // dtype.itemsize
    is_aligned = all(side % max(a_word, _THREAD_VALUES) == 0 for side in columns)
    for first in range(rows[0] // PANEL_ROWS * PANEL_ROWS, rows[1], together):
        top, bottom = max(rows[0], first), min(rows[1], first + together)
        items = across * payloads.panels_of((top, bottom))
        piece = (*map(Int, (weight.height, weight.width, top, bottom, *columns)),)
        device.launch(
            registry.sz_high_parts(weight.source),
            (-(-items // registry.WARPS), 1),
            (*weight.pointers(), Pointer(highs), Int(items), *piece),
        )
        device.launch(
            registry.sz_values(weight.source, dtype),
            (items, 1),
            (
                *weight.pointers(),
                *map(Pointer, (highs, values[top - rows[0] :])),
                Int(PREDICTORS.index(weight.predictor)),
                *piece,
                Int(is_aligned),
            ),
        )
    return values


def matmul_on(
    device: Launcher, x: torch.Tensor, weight: Sz, bias: torch.Tensor | None, rows: tuple[int, int]
) -> torch.Tensor:
    """`x @ weight[rows].T + bias`: [..., columns] -> [..., rows] in the dtype of x; NaN where a tile is damaged.

    Raises:
        CodecError: parts or a bias that don't fit.
    """
    every = 0, weight.width
    _check(weight, rows, every)

    def dense(piece: tuple[int, int]) -> torch.Tensor:
        return decode_on(device, weight, piece, every, x.dtype)

    return payloads.matmul(device, x, weight.payload, bias, rows, dense, None)


def _check(weight: Sz, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    """Raise `CodecError` unless kernels may read these parts."""
    payloads.require_range((weight.height, weight.width), rows, columns)
    payloads.require_payload(weight.payload, weight.offsets, weight.table)
    pieces = payloads.panels_of((0, weight.height)) * tiles_across(weight.width)
    if weight.offsets.numel() <= pieces or weight.table.numel() != TABLE_BYTES:
        raise CodecError("codec sz: the offsets or the table do not fit the shape")
    if weight.predictor not in PREDICTORS:
        raise CodecError(f"codec sz: there is no predictor {weight.predictor}")


OPERATORS.implement(
    "CUDA",
    Sz,
    lambda weight, rows, columns, dtype: decode_on(launcher(weight.payload.device), weight, rows, columns, dtype),
    lambda x, weight, bias, rows: matmul_on(launcher(x.device), x, weight, bias, rows),
)
