"""`lossless`: exponents entropy-coded, signs and mantissas as they are, so that every bit comes back.

Version 2. A value is cut into planes. The upper 16 bits are turned left by one, so that the exponent of bfloat16 and
float32 fills a byte and the sign lies below the mantissa:

    bfloat16   s eeeeeeee mmmmmmm    ->  plane 0 [mmmmmmm s]              plane 1 [eeeeeeee]
    float16    s eeeee mmmmmmmmmm    ->  plane 0 [mmmmmmm s]  plane 1 [mm]  plane 2 [eeeee m]
    float32    s eeeeeeee m*7 m*16   ->  planes 0 and 1, the lowest bytes; planes 2 and 3 as bfloat16's 0 and 1

A panel is cut into blocks of 1024 columns. Each block stands alone and holds its values row by row, plane by plane:

    heads       of each coded plane, 2 bytes each: number of exceptions; bytes of the stream. The number 65535 says
                that this block stores the plane as it is
    stored      the planes that the tensor stores as they are, lowest first
    coded       of each coded plane, lowest first: the rANS stream (see `reference.rans`), then its exceptions, values
                that have no entry in the model: their positions, 2 bytes each, and then their bytes
    zeros       up to a multiple of 4 bytes

A plane of w < 8 bits that is stored as it is consists of planes of 4, 2 and 1 bits (6 is 4 + 2), lowest bits first: a
plane of k bits and n values is m = ceil(n k / 8) bytes, and the field f of byte b holds value f m + b. The lowest plane
of whole bytes that the tensor stores as it is lacks its last 32 values where the highest plane is coded: each of them
is the cargo of its lane of that stream.

    payload   uint8   the blocks, panel by panel
    offsets   int64   where each block begins (see `offsets`)
    table     uint8   bytes 0..3: mode of each plane, 0 one value, 1 as it is, 2 coded; bytes 4..7: the one value;
                      8..15: zeros; then of each plane 32 symbols and their 32 frequencies, zeros unless it is coded

Version 1 is read, and written where it is asked for. All bits are turned left by one; each byte of the result is a
plane of its panel, lowest first. A plane that is as long as it was is stored as it is, a shorter one is a zstd frame
(RFC 8878). `offsets` says where each of the panels * planes begins, and there is no table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from tilepress.kernels.encoded import PANEL_ROWS, matrix_shape, panels
from tilepress.kernels.errors import CodecError
from tilepress.kernels.layout.offsets import aligned, check_offsets, offsets_length
from tilepress.kernels.params import Params, PartSpec, Shape

BLOCK_COLUMNS = 1024
BLOCK_ALIGNMENT = 4
HEAD_BYTES = 4
STORED = 0xFFFF
"""The number of exceptions that says that a block stores a plane as it is."""

TABLE_HEAD = 16
ENTRIES = 32
CONSTANT, AS_IT_IS, CODED = range(3)
LANES = 32

PLANE_WIDTHS: Mapping[torch.dtype, tuple[int, ...]] = {
    torch.bfloat16: (8, 8),
    torch.float16: (8, 2, 6),
    torch.float32: (8, 8, 8, 8),
}
"""Bits of each plane, lowest first."""


@dataclass(frozen=True)
class LosslessParams(Params):
    """The version of the payload's format."""

    codec: ClassVar[str] = "lossless"
    guarantee: ClassVar[str] = "bit-identical"
    summary: ClassVar[str] = "exponents entropy-coded, bit for bit"
    version: int = 2

    def __post_init__(self) -> None:
        self.require(self.version >= 1, f"there is no version {self.version}")
        self.require(self.version <= 2, f"version {self.version} is newer than this program; upgrade tilepress")

    @property
    def is_bit_identical(self) -> bool:
        return True

    def part_specs(self, shape: Shape, dtype: torch.dtype) -> Mapping[str, PartSpec]:
        rows, columns = matrix_shape(shape)
        if self.version == 1:
            return {
                "payload": PartSpec(torch.uint8, (aligned(rows * columns * dtype.itemsize),), exact=False),
                "offsets": PartSpec(torch.int64, (offsets_length(panels(rows) * dtype.itemsize),)),
            }
        blocks = -(-columns // BLOCK_COLUMNS)
        most = most_block_bytes(dtype, PANEL_ROWS * min(columns, BLOCK_COLUMNS))
        return {
            "payload": PartSpec(torch.uint8, (aligned(panels(rows) * blocks * most),), exact=False),
            "offsets": PartSpec(torch.int64, (offsets_length(panels(rows) * blocks),)),
            "table": PartSpec(torch.uint8, (table_bytes(dtype),)),
        }

    def check_parts(self, shape: Shape, dtype: torch.dtype, parts: Mapping[str, torch.Tensor]) -> None:
        check_offsets(self.codec, parts["offsets"], parts["payload"])
        if self.version == 2:
            read_table(dtype, parts["table"])


@dataclass(frozen=True)
class PlaneCode:
    """How a tensor codes one plane.

    Attributes:
        mode: CONSTANT, AS_IT_IS or CODED.
        constant: the byte of all values of a constant plane.
        symbols, frequencies: the rANS model of a coded plane.
    """

    mode: int
    constant: int
    symbols: list[int]
    frequencies: list[int]


def table_bytes(dtype: torch.dtype) -> int:
    """Bytes of the table."""
    return TABLE_HEAD + len(PLANE_WIDTHS[dtype]) * 2 * ENTRIES


def read_table(dtype: torch.dtype, table: torch.Tensor) -> list[PlaneCode]:
    """What the table says about each plane.

    Raises:
        CodecError: a mode that there is not, or frequencies that don't add up to 256.
    """
    numbers: list[int] = table.tolist()
    codes = []
    for plane in range(len(PLANE_WIDTHS[dtype])):
        first = TABLE_HEAD + plane * 2 * ENTRIES
        code = PlaneCode(
            numbers[plane],
            numbers[4 + plane],
            numbers[first : first + ENTRIES],
            numbers[first + ENTRIES : first + 2 * ENTRIES],
        )
        is_complete = sum(code.frequencies) == 256 and code.frequencies[-1] > 0
        if code.mode > CODED or (code.mode == CODED and not is_complete):
            raise CodecError("codec lossless: the table is damaged")
        codes.append(code)
    return codes


def stored_bytes(width: int, count: int) -> int:
    """Bytes of a plane of `count` values of `width` bits that is stored as it is."""
    return sum(-(-count * bits // 8) for bits in (8, 4, 2, 1) if width & bits)


def most_block_bytes(dtype: torch.dtype, count: int) -> int:
    """The most that a block of `count` values takes."""
    widths = PLANE_WIDTHS[dtype]
    size = len(widths) * HEAD_BYTES + sum(stored_bytes(width, count) for width in widths)
    return -(-size // BLOCK_ALIGNMENT) * BLOCK_ALIGNMENT
