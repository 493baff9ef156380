"""Fixed-rate layout shared by `int`, `nf4`, `fp8`, `mxfp4` and `nvfp4`: tiles of codes and a scale a row and group.

A matrix of `rows` x `columns` is cut into panels of 16 rows and tiles of 16 columns, padded with zeros at the
bottom and at the right. Tile (p, t) holds the 256 codes of rows 16p.. and columns 16t.., numbered row by row:
code i = 16 * row + column. A code of b bits is cut into planes of 8, 4, 2 and 1 bits (b = 7 is 4 + 2 + 1, the
first plane holds the lowest bits), and a plane of k bits takes n = 32 k bytes:

    byte i % n of the plane holds bits of code i at bit k * (i // n)

        4-bit plane (n = 128)           2-bit plane (n = 64)
        byte 0   code 128 | code 0      byte 0   code 192 | 128 | 64 | 0
        byte 1   code 129 | code 1      byte 1   code 193 | 129 | 65 | 1
        ...                             ...

So 16 codes of one row are 16 neighbouring bytes, shifted alike; a tile of b bits is 32 b bytes, aligned to 16.

    codes         uint8              [panels, tiles, 32 b]
    scales        bfloat16 or uint8  [panels, groups, 16]     one for each row of the panel and group of columns
    global_scale  float32            [4]                      of `nvfp4` only: one a tensor, four times

Scales of a byte are the bits of an 8-bit format: E8M0 or E4M3.
"""

from __future__ import annotations

from tilepress.kernels.encoded import PANEL_ROWS, matrix_shape, panels
from tilepress.kernels.params import Shape

TILE = PANEL_ROWS
TILE_VALUES = TILE * TILE

GLOBAL_SCALE_COPIES = 4
"""Times that a tensor's own scale is stored: 16 bytes."""


def planes(bits: int) -> list[int]:
    """Widths of the planes of a code of `bits` bits, lowest bits first: 7 -> [4, 2, 1]."""
    return [width for width in (8, 4, 2, 1) if bits & width]


def groups(columns: int, group: int) -> int:
    """Number of groups of `group` columns; 0 means one group for the whole row."""
    return -(-columns // group) if group else 1


def codes_shape(shape: Shape, bits: int) -> Shape:
    """Shape of the codes of a tensor of `shape`: panels, tiles, bytes of a tile."""
    rows, columns = matrix_shape(shape)
    return panels(rows), -(-columns // TILE), TILE_VALUES * bits // 8


def scales_shape(shape: Shape, group: int) -> Shape:
    """Shape of the scales of a tensor of `shape`: panels, groups, rows of a panel."""
    rows, columns = matrix_shape(shape)
    return panels(rows), groups(columns, group), TILE


def group_is_valid(group: int) -> bool:
    """A group is a whole number of tiles, or 0 for the whole row: then a tile has one scale a row."""
    return group >= 0 and group % TILE == 0
