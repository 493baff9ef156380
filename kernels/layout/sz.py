"""`sz`: values quantized to a step of twice the error bound, predicted, and entropy-coded; what misses the bound aside.

    q = round(value / step)              an integer of at most 2^22 (cuSZ's dual quantization: prediction sees integers)
    residual = q - prediction            of the same tile; neighbours outside of it count as 0
        none       prediction = 0
        lorenzo1   the value to the left
        lorenzo2   left + above - above left
    decoded = float32(q) * step, rounded to the tensor's dtype

A residual is cut into its lowest `shift` bits and a high part, residual = high * 2^shift + low. A tile is a panel of 16
rows by at most 2048 columns. It stands alone and holds its values row by row:

    head         number of exceptions, number of outliers, bytes of the stream: 2 bytes each
    low          the low parts as planes of 8, 4, 2 and 1 bits (11 bits are 8 + 2 + 1), lowest bits first: a plane of k
                 bits and n values is m = ceil(n k / 8) bytes, and the field f of byte b holds value f m + b. The last
                 32 bytes of all planes, where there are so many, are left out: they are the cargo of the stream
    stream       the high parts + 128, by rANS (see `reference.rans`)
    exceptions   high parts that have no entry in the model: positions, 2 bytes each, then high parts, int16 each
    outliers     values that would miss the bound, as they are: positions, 2 bytes each, then the values
    zeros        up to a multiple of 4 bytes

    payload   uint8   the tiles, panel by panel
    offsets   int64   where each tile begins (see `offsets`)
    table     uint8   the step, float32; the shift; 11 zeros; the 32 symbols and the 32 frequencies of the rANS model

Sources: Tian et al. 2020, "cuSZ"; Di and Cappello 2016 (SZ); Ibarria et al. 2003 (Lorenzo predictor).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from tilepress.kernels.encoded import PANEL_ROWS, matrix_shape, panels
from tilepress.kernels.errors import CodecError
from tilepress.kernels.layout.offsets import aligned, check_offsets, offsets_length
from tilepress.kernels.params import Params, PartSpec, Shape

TILE_COLUMNS = 2048
TILE_ALIGNMENT = 4
HEAD_BYTES = 6
PREDICTORS = ("none", "lorenzo1", "lorenzo2")
LANES = 32
MOST_SHIFT = 16

TABLE_HEAD = 16
ENTRIES = 32
TABLE_BYTES = TABLE_HEAD + 2 * ENTRIES


@dataclass(frozen=True)
class SzParams(Params):
    """Exactly one bound: abs (absolute) or rel (times the difference of the largest and the smallest finite value)."""

    codec: ClassVar[str] = "sz"
    guarantee: ClassVar[str] = "every finite value within the bound; NaN and infinities bit for bit"
    summary: ClassVar[str] = "quantized to an error bound, predicted and entropy-coded"
    abs: float | None = None
    rel: float | None = None
    predictor: str = "none"

    def __post_init__(self) -> None:
        given = [name for name in ("abs", "rel") if getattr(self, name) is not None]
        self.require(len(given) == 1, f"takes exactly one of abs and rel, not {', '.join(given) or 'none'}")
        bound = getattr(self, given[0])
        self.require(math.isfinite(bound) and bound > 0, f"{given[0]}={bound} is not a positive number")
        self.require(self.predictor in PREDICTORS, f"predictor={self.predictor} is not one of {', '.join(PREDICTORS)}")

    @property
    def keeps_a_promise(self) -> bool:
        return True

    def part_specs(self, shape: Shape, dtype: torch.dtype) -> Mapping[str, PartSpec]:
        rows, columns = matrix_shape(shape)
        tiles = panels(rows) * tiles_across(columns)
        most = tiles * most_tile_bytes(dtype, PANEL_ROWS * min(columns, TILE_COLUMNS))
        return {
            "payload": PartSpec(torch.uint8, (aligned(most),), exact=False),
            "offsets": PartSpec(torch.int64, (offsets_length(tiles),)),
            "table": PartSpec(torch.uint8, (TABLE_BYTES,)),
        }

    def check_parts(self, shape: Shape, dtype: torch.dtype, parts: Mapping[str, torch.Tensor]) -> None:
        check_offsets(self.codec, parts["offsets"], parts["payload"])
        read_table(parts["table"])


@dataclass(frozen=True)
class SzTable:
    """What all tiles of a tensor have in common; see the module."""

    step: float
    shift: int
    symbols: Sequence[int]
    frequencies: Sequence[int]


def read_table(table: torch.Tensor) -> SzTable:
    """What the part `table` says.

    Raises:
        CodecError: a step that is no positive number, a shift out of range, or frequencies that don't add up to 256.
    """
    numbers: list[int] = table.tolist()
    step = float(table[:4].clone().view(torch.float32))
    symbols, frequencies = numbers[TABLE_HEAD : TABLE_HEAD + ENTRIES], numbers[TABLE_HEAD + ENTRIES :]
    is_complete = sum(frequencies) == 256 and frequencies[-1] > 0
    if not (math.isfinite(step) and step > 0 and numbers[4] <= MOST_SHIFT and is_complete):
        raise CodecError("codec sz: the table is damaged")
    return SzTable(step, numbers[4], symbols, frequencies)


def tiles_across(columns: int) -> int:
    """Tiles of a panel."""
    return -(-columns // TILE_COLUMNS)


def planes(shift: int) -> list[int]:
    """Bits of each plane of the low parts, lowest first."""
    return [8] * (shift // 8) + [width for width in (4, 2, 1) if shift % 8 & width]


def low_bytes(shift: int, count: int) -> int:
    """Bytes of the low parts of `count` values, cargo included."""
    return sum(-(-count * width // 8) for width in planes(shift))


def most_tile_bytes(dtype: torch.dtype, count: int) -> int:
    """The most that a tile of `count` values takes."""
    stream, exceptions, outliers = 2 * LANES + count, 4 * count, (2 + dtype.itemsize) * count
    size = HEAD_BYTES + low_bytes(MOST_SHIFT, count) + stream + exceptions + outliers
    return -(-size // TILE_ALIGNMENT) * TILE_ALIGNMENT
