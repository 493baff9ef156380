"""`zfp`: one zfp stream a panel (LLNL zfp 1.0, 2-D, float32, without header), so that every panel decodes alone.

bfloat16 and float16 go through float32. Exactly one mode is given:

    rate=R            16 R bits for each block of 4 x 4 values; every whole panel has the same length
    precision=P       P bit planes a block
    tolerance=T       absolute error at most T for each value
    reversible=true   bit-identical

zfp's bit stream is a sequence of 64-bit little-endian words, so each panel is a multiple of 8 bytes.

    payload   uint8     the streams of all panels
    offsets   int64     where each panel begins (see `offsets`)

Source: Lindstrom 2014, "Fixed-Rate Compressed Floating-Point Arrays"; the zfp 1.0 documentation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from tilepress.kernels.encoded import PANEL_ROWS, matrix_shape, panels
from tilepress.kernels.layout.offsets import aligned, check_offsets, offsets_length
from tilepress.kernels.params import Params, PartSpec, Shape

BLOCK = 4
BLOCK_VALUES = BLOCK * BLOCK
MOST_BLOCK_BYTES = 160
"""More than a block of 16 float32 values can take, or make a decoder read, in any mode."""


def blocks(rows: int, columns: int) -> int:
    """Number of 4 x 4 blocks of a panel of `rows` x `columns`."""
    return -(-rows // BLOCK) * -(-columns // BLOCK)


@dataclass(frozen=True)
class ZfpParams(Params):
    """Exactly one of rate (bits a value), precision (bit planes), tolerance (absolute) and reversible=true."""

    codec: ClassVar[str] = "zfp"
    guarantee: ClassVar[str] = "tolerance: every value within it; reversible: bit-identical"
    summary: ClassVar[str] = "LLNL zfp, a stream a panel of 16 rows"
    rate: float | None = None
    precision: int | None = None
    tolerance: float | None = None
    reversible: bool | None = None

    def __post_init__(self) -> None:
        given = [name for name, value in self.as_dict().items() if value is not False]
        self.require(
            len(given) == 1,
            f"takes exactly one of rate, precision, tolerance and reversible=true, not {', '.join(given) or 'none'}",
        )
        if self.rate is not None:
            self.require(1 <= self.rate <= 32, f"rate={self.rate} is not within 1..32 bits a value")
        if self.precision is not None:
            self.require(1 <= self.precision <= 32, f"precision={self.precision} is not within 1..32 bit planes")
        if self.tolerance is not None:
            self.require(
                math.isfinite(self.tolerance) and self.tolerance > 0,
                f"tolerance={self.tolerance} is not a positive number",
            )

    @property
    def is_bit_identical(self) -> bool:
        return bool(self.reversible)

    @property
    def keeps_a_promise(self) -> bool:
        return self.is_bit_identical or self.tolerance is not None

    def part_specs(self, shape: Shape, dtype: torch.dtype) -> Mapping[str, PartSpec]:
        rows, columns = matrix_shape(shape)
        count = panels(rows)
        if self.rate is not None:
            size = sum(self.panel_bytes(min(PANEL_ROWS, rows - first), columns) for first in _two_panels(rows))
            size += (count - 2) * self.panel_bytes(PANEL_ROWS, columns) if count > 2 else 0
            payload = PartSpec(torch.uint8, (aligned(size),))
        else:
            size = count * blocks(PANEL_ROWS, columns) * MOST_BLOCK_BYTES
            payload = PartSpec(torch.uint8, (aligned(size),), exact=False)
        return {"payload": payload, "offsets": PartSpec(torch.int64, (offsets_length(count),))}

    def panel_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a panel at fixed rate: all blocks, filled up to whole words."""
        assert self.rate is not None
        block_bits = math.floor(BLOCK_VALUES * self.rate + 0.5)
        return -(-blocks(rows, columns) * block_bits // 64) * 8

    def check_parts(self, shape: Shape, dtype: torch.dtype, parts: Mapping[str, torch.Tensor]) -> None:
        check_offsets(self.codec, parts["offsets"], parts["payload"])


def _two_panels(rows: int) -> list[int]:
    """First rows of the first and the last panel; all that differ in length."""
    return sorted({0, (panels(rows) - 1) * PANEL_ROWS}) if rows else []
