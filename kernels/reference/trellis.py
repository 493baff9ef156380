"""Decoding of `trellis`: states from a cyclic string of bits, their values, scales, and the rotation back."""

from __future__ import annotations

import torch

from tilepress.kernels.encoded import PANEL_ROWS, Encoded
from tilepress.kernels.layout.rotation import rotation_of
from tilepress.kernels.layout.trellis import MULTIPLIER, OFFSET, STEPS, TrellisParams, padded_shape, places
from tilepress.kernels.reference.rotation import rotate_back


def decode(encoded: Encoded, rows: range, columns: range) -> torch.Tensor:
    """Values of the range in float32. Where rows are rotated, whole blocks of rows are decoded for it."""
    params = encoded.params
    assert isinstance(params, TrellisParams)
    height = padded_shape(encoded.shape)[0]
    sides = params.sides(encoded.shape)
    unit = rotation_of(height).block if sides.rows else PANEL_ROWS
    first, last = rows.start // unit * unit, -(-rows.stop // unit) * unit
    panels = slice(first // PANEL_ROWS, last // PANEL_ROWS)
    integers = integers_of(encoded.parts["codes"][panels], params.bits, params.window)
    values = integers.float() * encoded.parts["scales"][panels].float().reshape(-1, 1)
    if sides.rows:
        # Blocks do not depend on each other, so those of the range are rotated as if they were all.
        values = _rotate_blocks(values.T, encoded.parts["row_signs"][first // 8 : last // 8], unit).T
    if sides.columns:
        values = rotate_back(values, encoded.parts["column_signs"])
    return values[rows.start - first : rows.stop - first, columns.start : columns.stop].contiguous()


def integers_of(codes: torch.Tensor, bits: int, window: int) -> torch.Tensor:
    """Tiles [panels, tiles, 32 bits] -> byte sums minus 510, int64 [16 panels, 16 tiles]."""
    cyclic = torch.cat((codes, codes[..., :4]), dim=-1).long()
    begin = torch.arange(STEPS, device=codes.device) * bits
    word = sum(cyclic[..., begin // 8 + i] << (8 * i) for i in range(4))
    assert isinstance(word, torch.Tensor)
    state = (word >> (begin % 8)) & ((1 << window) - 1)
    mixed = (state * MULTIPLIER) & 0xFFFFFFFF
    values = (mixed & 255) + (mixed >> 8 & 255) + (mixed >> 16 & 255) + (mixed >> 24) - OFFSET
    count, across, _ = codes.shape
    tiles = values.new_empty(count, across, PANEL_ROWS, PANEL_ROWS)
    tile_rows, tile_columns = places()
    tiles[..., tile_rows, tile_columns] = values
    return tiles.permute(0, 2, 1, 3).reshape(count * PANEL_ROWS, across * PANEL_ROWS)


def _rotate_blocks(values: torch.Tensor, signs: torch.Tensor, block: int) -> torch.Tensor:
    pieces = values.reshape(values.shape[0], -1, block)
    signs_of = signs.view(-1, block // 8)
    return torch.stack([rotate_back(pieces[:, i], signs_of[i]) for i in range(pieces.shape[1])], 1).reshape(
        values.shape
    )
