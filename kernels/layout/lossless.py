"""`lossless`, version 1: byte planes of each panel, compressed with zstd where that helps.

Each value's bits are turned left by one, so that the exponent of bfloat16 and float32 fills one byte:

    bfloat16   s eeeeeeee mmmmmmm   ->  [mmmmmmm s] [eeeeeeee]                 low byte first
    float32    s eeeeeeee m*23      ->  [m.. s] [m..] [m..] [eeeeeeee]
    float16    s eeeee mmmmmmmmmm   ->  [mmmmmmm s] [eeeee mmm]

A panel's values, row by row, give one plane a byte; the planes follow each other, lowest byte first. A plane that
is as long as it was is stored as it is, a shorter one is a zstd frame (RFC 8878).

    payload   uint8     the planes of all panels
    offsets   int64     where each of the panels * planes begins (see `offsets`)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from tilepress.kernels.encoded import matrix_shape, panels
from tilepress.kernels.layout.offsets import aligned, check_offsets, offsets_length
from tilepress.kernels.params import Params, PartSpec, Shape


@dataclass(frozen=True)
class LosslessParams(Params):
    """The version of the payload's format."""

    codec: ClassVar[str] = "lossless"
    guarantee: ClassVar[str] = "bit-identical"
    summary: ClassVar[str] = "exponents and mantissas entropy-coded, bit for bit"
    version: int = 1

    def __post_init__(self) -> None:
        self.require(self.version == 1, f"version {self.version} is newer than this program; upgrade tilepress")

    @property
    def is_bit_identical(self) -> bool:
        return True

    def part_specs(self, shape: Shape, dtype: torch.dtype) -> Mapping[str, PartSpec]:
        rows, columns = matrix_shape(shape)
        return {
            "payload": PartSpec(torch.uint8, (aligned(rows * columns * dtype.itemsize),), exact=False),
            "offsets": PartSpec(torch.int64, (offsets_length(panels(rows) * dtype.itemsize),)),
        }

    def check_parts(self, shape: Shape, dtype: torch.dtype, parts: Mapping[str, torch.Tensor]) -> None:
        check_offsets(self.codec, parts["offsets"], parts["payload"])
