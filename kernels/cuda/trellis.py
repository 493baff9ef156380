"""The operators of trellis codes on a GPU: `tilepress::trellis_decode` and `tilepress::trellis_matmul`.

As on the CPU, a product rotates x, multiplies by the codes in the rotated basis, and rotates the result back. Codes are
decoded as they are multiplied, for one to eight rows of x by one kernel, for more by another. More than eight rows in
float32 are left to PyTorch's matmul, with blocks of the rotated weight.
"""

from __future__ import annotations

import math
from functools import cache

import torch

from tilepress.kernels.cpu.trellis import OPERATORS, Trellis

# The operators, which every device has.
from tilepress.kernels.cpu.trellis import decode as decode
from tilepress.kernels.cpu.trellis import matmul as matmul
from tilepress.kernels.cuda import registry
from tilepress.kernels.cuda.launch import Float, Int, Launcher, Pointer, launcher
from tilepress.kernels.cuda.panels import matmul_by_blocks, require_on, require_parts, require_rows, splits_of
from tilepress.kernels.encoded import PANEL_ROWS
from tilepress.kernels.errors import CodecError
from tilepress.kernels.layout.rotation import hartley, rotation_of


def decode_on(
    device: Launcher, weight: Trellis, rows: tuple[int, int], columns: tuple[int, int], dtype: torch.dtype
) -> torch.Tensor:
    """Values of a range, `dtype` [rows, columns].

    Raises:
        CodecError: parts that don't fit each other or the range.
    """
    _check(weight, rows)
    if not 0 <= columns[0] <= columns[1] <= weight.width:
        raise CodecError(f"there are no columns {columns[0]} to {columns[1]} in {weight.width}")
    first, last = _panels(weight, rows)
    values = _decode_rotated(device, weight, (first, last), torch.float32)
    if weight.row_signs is not None:
        signs = weight.row_signs[2 * first : 2 * last]
        values = _rotate(device, values, signs, weight.panels, over_rows=True, back=True)
    if weight.column_signs is not None:
        values = _rotate(device, values, weight.column_signs, weight.codes.shape[1], back=True)
    skipped = first * PANEL_ROWS
    return values[rows[0] - skipped : rows[1] - skipped, columns[0] : columns[1]].to(dtype).contiguous()


def matmul_on(
    device: Launcher, x: torch.Tensor, weight: Trellis, bias: torch.Tensor | None, rows: tuple[int, int]
) -> torch.Tensor:
    """`x @ weight[rows].T + bias`: [..., columns] -> [..., rows] in the dtype of x.

    Raises:
        CodecError: parts or a bias that don't fit.
    """
    _check(weight, rows)
    require_on(weight.codes, "x", x)
    batch, columns, width = x.shape[:-1], x.shape[-1], weight.width
    count = batch.numel()
    if not width - PANEL_ROWS < columns <= width and columns:
        raise CodecError(f"x has {columns} columns, the codes of the weight {width}")
    first, last = _panels(weight, rows)
    vectors = x.reshape(count, columns).contiguous()
    if weight.column_signs is not None:
        rotated = x.new_empty((count, width), dtype=torch.float32)
        rotated = _rotate(device, rotated, weight.column_signs, weight.codes.shape[1], source=vectors)
    else:
        rotated = torch.nn.functional.pad(vectors.float(), (0, width - columns))
    if count <= registry.MOST_VECTORS:
        y = _multiply(device, rotated, weight, (first, last))
    elif x.dtype in registry.HALF_DTYPES:
        y = _multiply_many(device, rotated, weight, (first, last))
    else:
        y = matmul_by_blocks(
            rotated,
            lambda piece: _decode_rotated(device, weight, (piece[0] // PANEL_ROWS, piece[1] // PANEL_ROWS), x.dtype),
            None,
            (first * PANEL_ROWS, last * PANEL_ROWS),
        )
    if weight.row_signs is not None:
        y = _rotate(device, y, weight.row_signs[2 * first : 2 * last], weight.panels, back=True)
    y = y[:, rows[0] - first * PANEL_ROWS : rows[1] - first * PANEL_ROWS]
    if bias is not None:
        require_on(weight.codes, "the bias", bias)
        if bias.shape != y.shape[1:]:
            raise CodecError(f"a bias of shape {tuple(bias.shape)} does not fit {y.shape[1]} rows")
        y = y + bias
    return y.to(x.dtype).reshape(*batch, rows[1] - rows[0]).contiguous()


def _multiply(device: Launcher, x: torch.Tensor, weight: Trellis, panels: tuple[int, int]) -> torch.Tensor:
    """x [count, width] in float32, rotated -> [count, rows of the panels], in the rotated basis."""
    count, tiles, height = len(x), weight.codes.shape[1], (panels[1] - panels[0]) * PANEL_ROWS
    stage_tiles = registry.trellis_stage_tiles(weight.bits)
    stages = -(-tiles // stage_tiles)
    splits = splits_of(panels[1] - panels[0], stages, device.multiprocessors)
    y = x.new_empty((splits, count, height))
    if not y.numel():
        return y[0]
    sets = 1 if count <= registry.MOST_PAIRED else 2
    prepared = x.new_empty((sets, stages * stage_tiles, 64), dtype=torch.int32)
    unscale = x.new_empty(count)
    sizes = Int(count), Int(tiles), Int(stages * stage_tiles)
    device.launch(registry.trellis_prepare(), (count, 1), (*map(Pointer, (x, prepared, unscale)), *sizes))
    codes, scales = weight.codes[panels[0] :], weight.scales[panels[0] :]
    device.launch(
        registry.trellis_multiply(weight.bits, weight.window, count),
        (panels[1] - panels[0], splits),
        (*map(Pointer, (prepared, unscale, codes, scales, y)), *sizes, Int(weight.window)),
    )
    return _add_splits(device, y)


def _multiply_many(device: Launcher, x: torch.Tensor, weight: Trellis, panels: tuple[int, int]) -> torch.Tensor:
    """As `_multiply`, of many rows."""
    count, tiles, height = len(x), weight.codes.shape[1], (panels[1] - panels[0]) * PANEL_ROWS
    blocks = -(-(panels[1] - panels[0]) // registry.BLOCK_PANELS) * -(-count // registry.TRELLIS_BLOCK_VECTORS)
    splits = splits_of(blocks, -(-tiles // registry.STAGE_TILES), device.multiprocessors)
    y = x.new_empty((splits, count, height))
    if not y.numel():
        return y[0]
    prepared, unscale = torch.empty_like(x, dtype=torch.float16), x.new_empty(count)
    device.launch(
        registry.trellis_prepare_many(),
        (count, 1),
        (*map(Pointer, (x, prepared, unscale)), Int(weight.width)),
    )
    codes, scales = weight.codes[panels[0] :], weight.scales[panels[0] :]
    device.launch(
        registry.trellis_multiply_many(weight.bits, weight.window),
        (blocks, splits),
        (
            *map(Pointer, (prepared, unscale, codes, scales, y)),
            *map(Int, (count, panels[1] - panels[0], tiles, weight.window)),
        ),
    )
    return _add_splits(device, y)


def _add_splits(device: Launcher, partials: torch.Tensor) -> torch.Tensor:
    """[splits, count, height] -> [count, height]."""
    if len(partials) == 1:
        return partials[0]
    total = torch.empty_like(partials[0])
    device.launch(
        registry.add_splits(torch.float32),
        (-(-total.numel() // registry.THREADS), 1),
        (Pointer(partials), Pointer(None), Pointer(total), *map(Int, partials.shape)),
    )
    return total


def _decode_rotated(device: Launcher, weight: Trellis, panels: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """Values of whole panels before they are rotated back."""
    tiles = weight.codes.shape[1]
    values = weight.codes.new_empty(((panels[1] - panels[0]) * PANEL_ROWS, weight.width), dtype=dtype)
    for first in range(panels[0], panels[1] if tiles else panels[0], registry.MOST_GRID_Y):
        last = min(first + registry.MOST_GRID_Y, panels[1])
        place = values[(first - panels[0]) * PANEL_ROWS :]
        device.launch(
            registry.trellis_decode(weight.bits, dtype),
            (-(-tiles // registry.WARPS), last - first),
            (
                *map(Pointer, (weight.codes[first:], weight.scales[first:], place)),
                *map(Int, (tiles, weight.window)),
            ),
        )
    return values


def _rotate(
    device: Launcher,
    values: torch.Tensor,
    signs: torch.Tensor,
    panels: int,
    *,
    over_rows: bool = False,
    back: bool = False,
    source: torch.Tensor | None = None,
) -> torch.Tensor:
    """Rotate whole blocks of a side that has `panels` times 16 values in all; may overwrite `values`.

    With `source`, values come from there, of any dtype and padded with columns of zeros.
    """
    odd, power = rotation_of(panels * PANEL_ROWS)
    rows, columns = values.shape
    side, length, lines = ("Rows", rows, columns) if over_rows else ("Columns", columns, rows)
    if not values.numel():
        return values
    source = values if source is None else source
    scale = float(torch.tensor(1.0 / math.sqrt(power), dtype=torch.float32))
    pieces = length // power
    device.launch(
        registry.walsh_hadamard(side, source.dtype),
        (-(-lines // registry.lines_together(side, power)) * pieces, 1),
        (
            *map(Pointer, (source, values, signs)),
            *map(Int, (source.shape[1], columns, lines, pieces, power)),
            Float(scale),
            *map(Int, (not back, back and odd == 1)),
        ),
    )
    if odd == 1:
        return values
    mixed, table, blocks = torch.empty_like(values), _table(odd, values.device), pieces // odd
    together = registry.SIDE_LINES[side]
    device.launch(
        registry.hartley(side),
        (-(-lines // together) * blocks * -(-power * together // registry.THREADS), 1),
        (
            *map(Pointer, (values, mixed, table, signs)),
            *map(Int, (lines, blocks, odd, power, columns, back)),
        ),
    )
    return mixed


@cache
def _table(odd: int, device: torch.device) -> torch.Tensor:
    """The Hartley matrix on a device, where it stays: a copy for each call would be no part of a CUDA graph."""
    return hartley(odd).to(device)


def _panels(weight: Trellis, rows: tuple[int, int]) -> tuple[int, int]:
    """Panels that rows depend on: those that hold them, or, of rotated rows, their blocks."""
    unit = rotation_of(weight.panels * PANEL_ROWS).block if weight.row_signs is not None else PANEL_ROWS
    return rows[0] // unit * unit // PANEL_ROWS, -(-rows[1] // unit) * unit // PANEL_ROWS


def _check(weight: Trellis, rows: tuple[int, int]) -> None:
    """Raise `CodecError` unless kernels may read these parts."""
    codes = weight.codes
    if codes.dtype != torch.uint8 or codes.ndim != 3 or codes.shape[2] != 32 * weight.bits:
        raise CodecError(f"the codes are not tiles of {weight.bits} bits a weight")
    if not 12 <= weight.window <= 16:
        raise CodecError(f"a window of {weight.window} bits is not within 12..16")
    wanted = (
        ("codes", codes, torch.uint8, tuple(codes.shape)),
        ("scales", weight.scales, torch.bfloat16, (weight.panels, PANEL_ROWS)),
        ("column_signs", weight.column_signs, torch.uint8, (2 * codes.shape[1],)),
        ("row_signs", weight.row_signs, torch.uint8, (2 * weight.panels,)),
    )
    require_parts(codes, wanted)
    require_rows(rows, weight.panels)


OPERATORS.implement(
    "CUDA",
    Trellis.built,
    lambda weight, rows, columns, dtype: decode_on(launcher(weight.codes.device), weight, rows, columns, dtype),
    lambda x, weight, bias, rows: matmul_on(launcher(x.device), x, weight, bias, rows),
)
