"""`trellis`: bitshift-trellis-coded quantization of a rotated matrix, at a fixed rate.

    w = rotate(scale * value(state))          rotate: see `rotation`; over the columns, and over the rows

The matrix, padded with zeros to whole tiles of 16 x 16 before it is rotated, has for each tile a cyclic string of
256 * bits bits, little-endian: bit i of the string is bit i % 8 of byte i // 8. The state of step t is the number that
the `window` bits from bit t * bits on make, lowest first:

    bits=4, window=16    byte    0       1       2       3   ...      127
                         step  0   1   2   3   4   5   6   7     254 255    (then byte 0 again)
                               |-- state 0 --|
                                   |-- state 1 --|
                                       |-- state 2 --|

so that neighbouring states share all but `bits` bits. The value of a state is the sum of the four bytes of
MULTIPLIER * state mod 2^32, minus 510: an integer of nearly normal distribution with a standard deviation of 147.8.
Step t = 8 l + j is the weight in

    row l // 4 + 8 * (j // 2 % 2), column 2 * (l % 4) + j % 2 + 8 * (j // 4)

of the tile: what thread l of a warp holds as half j of the A fragment of mma.m16n8k16.

    codes          uint8     [panels, tiles, 32 bits]
    scales         bfloat16  [panels, 16]
    column_signs   uint8     [columns / 8]     where columns are rotated; columns are padded to a multiple of 16
    row_signs      uint8     [rows / 8]        where rows are rotated; likewise

Tseng et al. 2024, "QTIP: Quantization with Trellises and Incoherence Processing"; the multiplier is that of
ExLlamaV3's `mul1` code book, and better than QTIP's 1MAD at 2, 3 and 4 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch

from tilepress.kernels.encoded import PANEL_ROWS, matrix_shape, panels
from tilepress.kernels.layout import tiles
from tilepress.kernels.layout.rotation import packed_bytes, rotation_of
from tilepress.kernels.params import ALWAYS_SHOWN, Params, PartSpec, Shape

STEPS = tiles.TILE_VALUES
MULTIPLIER = 0x83DCD12D
OFFSET = 510
CODE_SPREAD = 147.8
"""Standard deviation of the values of all states."""

MOST_ROTATED_ROWS = 1 << 14
"""Matrices of more rows are embeddings and heads: there, single rows are looked up."""

_EFFORTS = ("fast", "normal", "exact")


class Sides(NamedTuple):
    """Which sides of the matrix are rotated."""

    rows: bool
    columns: bool


@dataclass(frozen=True)
class TrellisParams(Params):
    """Bits a weight, bits of a state, the sides that are rotated, and how hard to search.

    `rotate` is "both", "columns" or "none"; when it isn't given, matrices of up to 16,384 rows are rotated on both
    sides, larger ones and stacks of matrices over the columns only, so that any row decodes alone.
    """

    codec: ClassVar[str] = "trellis"
    summary: ClassVar[str] = "trellis-coded quantization of a rotated matrix (QTIP)"
    bits: int = field(default=4, metadata=ALWAYS_SHOWN)
    window: int = 16
    rotate: str | None = None
    effort: str = "normal"

    def __post_init__(self) -> None:
        self.require(1 <= self.bits <= 8, f"bits={self.bits} is not within 1..8")
        self.require(12 <= self.window <= 16, f"window={self.window} is not within 12..16")
        self.require(self.rotate in (None, "both", "columns", "none"), f"rotate={self.rotate} is no choice of sides")
        self.require(self.effort in _EFFORTS, f"effort={self.effort} is none of {', '.join(_EFFORTS)}")

    def sides(self, shape: Shape) -> Sides:
        """The sides that are rotated of a tensor of `shape`."""
        by_default = "both" if len(shape) <= 2 and matrix_shape(shape)[0] <= MOST_ROTATED_ROWS else "columns"
        choice = self.rotate or by_default
        return Sides(choice == "both", choice != "none")

    def rows_together(self, shape: Shape) -> int:
        return rotation_of(padded_shape(shape)[0]).block if self.sides(shape).rows else 1

    def part_specs(self, shape: Shape, dtype: torch.dtype) -> Mapping[str, PartSpec]:
        rows, columns = padded_shape(shape)
        sides = self.sides(shape)
        specs = {
            "codes": PartSpec(torch.uint8, tiles.codes_shape(shape, self.bits)),
            "scales": PartSpec(torch.bfloat16, (rows // PANEL_ROWS, PANEL_ROWS)),
        }
        if sides.columns:
            specs["column_signs"] = PartSpec(torch.uint8, (packed_bytes(columns),))
        if sides.rows:
            specs["row_signs"] = PartSpec(torch.uint8, (packed_bytes(rows),))
        return specs


def padded_shape(shape: Shape) -> tuple[int, int]:
    """Rows and columns of the matrix in whole tiles."""
    rows, columns = matrix_shape(shape)
    return panels(rows) * PANEL_ROWS, -(-columns // PANEL_ROWS) * PANEL_ROWS


def places() -> tuple[list[int], list[int]]:
    """Row and column within the tile of each step."""
    rows = [t // 8 // 4 + 8 * (t % 8 // 2 % 2) for t in range(STEPS)]
    columns = [2 * (t // 8 % 4) + t % 2 + 8 * (t % 8 // 4) for t in range(STEPS)]
    return rows, columns
