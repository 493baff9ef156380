"""The operators of fixed-rate tiles on a GPU: `tilepress::tiles_decode` and `tilepress::tiles_matmul`.

Codes are decoded as they are multiplied, for one to eight rows of x by one kernel, for more by another. More than eight
rows in float32 are left to PyTorch's matmul, with blocks of decoded rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from tilepress.kernels.cpu.tiles import OPERATORS, Parts, TileCode
from tilepress.kernels.cuda import registry
from tilepress.kernels.cuda.launch import Int, Launcher, Pointer, launcher
from tilepress.kernels.cuda.panels import (
    matmul_by_blocks,
    require_on,
    require_parts,
    require_rows,
    splits_of,
    whole_tiles,
)
from tilepress.kernels.encoded import PANEL_ROWS
from tilepress.kernels.errors import CodecError
from tilepress.kernels.layout import tiles as layout

_SCALE_DTYPES = {"bfloat16": torch.bfloat16, "e8m0": torch.uint8, "e4m3": torch.uint8}


class Tiles(NamedTuple):
    """A weight as the operators take it."""

    parts: Parts
    code: TileCode
    width: int

    @classmethod
    def built(cls, *described: Any) -> Tiles:
        """From what `Described` holds."""
        return cls(Parts(*described[:4]), TileCode(*described[4:8]), described[8])


def decode_on(
    device: Launcher, weight: Tiles, rows: tuple[int, int], columns: tuple[int, int], dtype: torch.dtype
) -> torch.Tensor:
    """Values of a range, `dtype` [rows, columns].

    Raises:
        CodecError: parts that don't fit each other or the range.
    """
    _check(weight, rows)
    parts, code, width = weight
    if not 0 <= columns[0] <= columns[1] <= width:
        raise CodecError(f"there are no columns {columns[0]} to {columns[1]} in {width}")
    height, count = rows[1] - rows[0], columns[1] - columns[0]
    values = parts.codes.new_empty((height, count), dtype=dtype)
    if not values.numel():
        return values
    tiles = parts.codes.shape[1]
    strips = -(-(-(-columns[1] // layout.TILE) - columns[0] // layout.TILE) // registry.STRIP_TILES)
    panels = -(-rows[1] // PANEL_ROWS) - rows[0] // PANEL_ROWS
    a_word = 16 // dtype.itemsize
    is_aligned = columns[0] % a_word == 0 and count % a_word == 0
    for first in range(0, panels, registry.MOST_GRID_Y):
        top = max(rows[0], (rows[0] // PANEL_ROWS + first) * PANEL_ROWS)
        bottom = min(rows[1], (rows[0] // PANEL_ROWS + first + registry.MOST_GRID_Y) * PANEL_ROWS)
        device.launch(
            registry.tiles_decode(code, dtype),
            (strips, -(-bottom // PANEL_ROWS) - top // PANEL_ROWS),
            (
                *_pointers(parts),
                Pointer(values[top - rows[0] :]),
                Int(tiles),
                Int(layout.groups(width, code.group)),
                Int(code.group // layout.TILE or tiles),
                Int(top),
                Int(bottom),
                Int(columns[0]),
                Int(columns[1]),
                Int(is_aligned),
            ),
        )
    return values


def matmul_on(
    device: Launcher, x: torch.Tensor, weight: Tiles, bias: torch.Tensor | None, rows: tuple[int, int]
) -> torch.Tensor:
    """`x @ weight[rows].T + bias`: [..., columns] -> [..., rows] in the dtype of x.

    Raises:
        CodecError: parts or a bias that don't fit.
    """
    batch, width, height, codes = x.shape[:-1], weight.width, rows[1] - rows[0], weight.parts.codes
    _check(weight, rows)
    if bias is not None:
        require_on(codes, "the bias", bias)
        if bias.shape != (height,):
            raise CodecError(f"a bias of shape {tuple(bias.shape)} does not fit {height} rows")
        bias = bias.to(x.dtype).contiguous()
    require_on(codes, "x", x)
    vectors = x.reshape(batch.numel(), width).contiguous()
    count = len(vectors)
    if count > registry.MOST_VECTORS and x.dtype not in registry.HALF_DTYPES:
        y = matmul_by_blocks(vectors, lambda piece: decode_on(device, weight, piece, (0, width), x.dtype), bias, rows)
    else:
        y = x.new_empty((count, height))
        if y.numel():
            _multiply(device, vectors, weight, bias, rows, y)
    return y.reshape(*batch, height)


def _multiply(
    device: Launcher,
    x: torch.Tensor,
    weight: Tiles,
    bias: torch.Tensor | None,
    rows: tuple[int, int],
    y: torch.Tensor,
) -> None:
    parts, code, width = weight
    count, tiles, height = len(x), parts.codes.shape[1], rows[1] - rows[0]
    blocks = -(-rows[1] // PANEL_ROWS) - rows[0] // PANEL_ROWS
    kernel = registry.tiles_multiply(code, x.dtype)
    if count > registry.MOST_VECTORS:
        blocks = -(-blocks // registry.BLOCK_PANELS) * -(-count // registry.TILES_BLOCK_VECTORS)
        kernel = registry.tiles_multiply_many(code, x.dtype)
    splits = splits_of(blocks, -(-tiles // registry.STAGE_TILES), device.multiprocessors)
    partials = x.new_empty((splits, count, height), dtype=torch.float32) if splits > 1 else None
    x = whole_tiles(x, tiles)
    device.launch(
        kernel,
        (blocks, splits),
        (
            Pointer(x),
            *_pointers(parts),
            Pointer(bias),
            Pointer(y),
            Pointer(partials),
            Int(count),
            Int(tiles),
            Int(layout.groups(width, code.group)),
            Int(code.group // layout.TILE or max(1, tiles)),
            Int(rows[0]),
            Int(rows[1]),
        ),
    )
    if partials is not None:
        _add_splits(device, partials, bias, y)


def _add_splits(device: Launcher, partials: torch.Tensor, bias: torch.Tensor | None, y: torch.Tensor) -> None:
    device.launch(
        registry.add_splits(y.dtype),
        (-(-y.numel() // registry.THREADS), 1),
        (Pointer(partials), Pointer(bias), Pointer(y), *map(Int, partials.shape)),
    )


def _pointers(parts: Parts) -> tuple[Pointer, ...]:
    return tuple(map(Pointer, parts))


def _check(weight: Tiles, rows: tuple[int, int]) -> None:
    """Raise `CodecError` unless kernels may read these parts."""
    parts, code, width = weight
    panels = parts.codes.shape[0] if parts.codes.ndim else 0
    require_rows(rows, panels)
    if code.group % layout.TILE or code.group < 0:
        raise CodecError(f"a group of {code.group} columns is not a whole number of tiles")
    shape = (panels * PANEL_ROWS, width)
    constants = layout.scales_shape(shape, code.group)
    wanted = (
        ("codes", parts.codes, torch.uint8, layout.codes_shape(shape, code.bits)),
        ("scales", parts.scales, _SCALE_DTYPES.get(code.scale_format), constants),
        ("zero_points", parts.zero_points, torch.uint8, constants),
        ("global_scale", parts.global_scale, torch.float32, (layout.GLOBAL_SCALE_COPIES,)),
    )
    require_parts(parts.codes, wanted)
    if (code.scale_format == "e4m3") != (parts.global_scale is not None):
        raise CodecError("e4m3 scales, and no others, come with a global scale")


OPERATORS.implement(
    "CUDA",
    Tiles.built,
    lambda weight, rows, columns, dtype: decode_on(launcher(weight.parts.codes.device), weight, rows, columns, dtype),
    lambda x, weight, bias, rows: matmul_on(launcher(x.device), x, weight, bias, rows),
)
