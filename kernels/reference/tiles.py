"""Decoding of the fixed-rate tiles that `int`, `nf4` and `fp8` share: codes and scales of a range, side by side."""

from __future__ import annotations

import torch

from tilepress.kernels.encoded import Encoded
from tilepress.kernels.layout.tiles import TILE
from tilepress.kernels.packing import unpack_tiles


def codes_of(encoded: Encoded, bits: int, rows: range, columns: range) -> torch.Tensor:
    """Codes of the range, uint8 [len(rows), len(columns)]."""
    panel_first, panel_last = rows.start // TILE, -(-rows.stop // TILE)
    tile_first, tile_last = columns.start // TILE, -(-columns.stop // TILE)
    codes = unpack_tiles(encoded.parts["codes"][panel_first:panel_last, tile_first:tile_last], bits)
    row, column = rows.start - panel_first * TILE, columns.start - tile_first * TILE
    return codes[row : row + len(rows), column : column + len(columns)]


def of_groups(encoded: Encoded, part: str, group: int, rows: range, columns: range) -> torch.Tensor:
    """A part laid out as scales are, spread over the range: float32 [len(rows), len(columns)]."""
    panel_first, panel_last = rows.start // TILE, -(-rows.stop // TILE)
    values = encoded.parts[part][panel_first:panel_last].float()
    row = rows.start - panel_first * TILE
    by_row = values.permute(0, 2, 1).flatten(0, 1)[row : row + len(rows)]
    columns_index = torch.arange(columns.start, columns.stop, device=by_row.device)
    return by_row[:, columns_index // group if group else torch.zeros_like(columns_index)]
