"""Packing of small codes into the tiles that `layout.tiles` draws, and back. Exact inverses."""

from __future__ import annotations

import torch

from tilepress.kernels.layout.tiles import TILE, TILE_VALUES, planes


def pack_tiles(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes [rows, columns] uint8, both multiples of 16 -> tiles [panels, tiles, 32 bits] uint8."""
    rows, columns = codes.shape
    tiled = codes.reshape(rows // TILE, TILE, columns // TILE, TILE).permute(0, 2, 1, 3)
    tiled = tiled.reshape(rows // TILE, columns // TILE, TILE_VALUES)
    packed, low = [], 0
    for width in planes(bits):
        fields = ((tiled >> low) & ((1 << width) - 1)).view(*tiled.shape[:2], 8 // width, -1)
        plane = fields[..., 0, :].clone()
        for position in range(1, 8 // width):
            plane |= fields[..., position, :] << (width * position)
        packed.append(plane)
        low += width
    return torch.cat(packed, dim=-1)


def unpack_tiles(tiles: torch.Tensor, bits: int) -> torch.Tensor:
    """Tiles [panels, tiles, 32 bits] uint8 -> codes [16 panels, 16 tiles] uint8."""
    count, across, _ = tiles.shape
    codes = torch.zeros(count, across, TILE_VALUES, dtype=torch.uint8, device=tiles.device)
    begin, low = 0, 0
    for width in planes(bits):
        size = TILE_VALUES * width // 8
        plane = tiles[..., begin : begin + size]
        fields = [(plane >> (width * position)) & ((1 << width) - 1) for position in range(8 // width)]
        codes |= torch.cat(fields, dim=-1) << low
        begin += size
        low += width
    return codes.view(count, across, TILE, TILE).permute(0, 2, 1, 3).reshape(count * TILE, across * TILE)
