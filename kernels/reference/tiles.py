"""Decoding of fixed-rate tiles: codes and scales of a range, side by side."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tilepress.kernels.encoded import Encoded
from tilepress.kernels.layout import e2m1
from tilepress.kernels.layout.tiles import TILE
from tilepress.kernels.packing import unpack_tiles


def codes_of(encoded: Encoded, bits: int, rows: range, columns: range) -> torch.Tensor:
    """Codes of the range, uint8 [len(rows), len(columns)]."""
    panel_first, panel_last = rows.start // TILE, -(-rows.stop // TILE)
    tile_first, tile_last = columns.start // TILE, -(-columns.stop // TILE)
    codes = unpack_tiles(encoded.parts["codes"][panel_first:panel_last, tile_first:tile_last], bits)
    row, column = rows.start - panel_first * TILE, columns.start - tile_first * TILE
    return codes[row : row + len(rows), column : column + len(columns)]


def e2m1_values(codes: torch.Tensor) -> torch.Tensor:
    """4-bit floating codes -> float32 values."""
    return torch.tensor(e2m1.CODE_BOOK, dtype=torch.float32, device=codes.device)[codes.long()]


def e8m0_values(bits: torch.Tensor) -> torch.Tensor:
    """Bytes of the format E8M0 -> float32: 2^(byte - 127), and NaN for 255."""
    exponents = bits.int() << 23
    least = torch.full_like(exponents, 1 << 22)  # 2^-127 is subnormal
    return torch.where(bits == 255, torch.nan, torch.where(bits == 0, least, exponents).view(torch.float32))


def e4m3_values(bits: torch.Tensor) -> torch.Tensor:
    """Bytes of the format E4M3 -> float32."""
    return bits.view(torch.float8_e4m3fn).float()


def of_groups(
    encoded: Encoded,
    part: str,
    group: int,
    rows: range,
    columns: range,
    value: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.float,
) -> torch.Tensor:
    """A part laid out as scales are, spread over the range: float32 [len(rows), len(columns)].

    `value` turns what is stored into float32.
    """
    panel_first, panel_last = rows.start // TILE, -(-rows.stop // TILE)
    values = value(encoded.parts[part][panel_first:panel_last])
    row = rows.start - panel_first * TILE
    by_row = values.permute(0, 2, 1).flatten(0, 1)[row : row + len(rows)]
    columns_index = torch.arange(columns.start, columns.stop, device=by_row.device)
    return by_row[:, columns_index // group if group else torch.zeros_like(columns_index)]
