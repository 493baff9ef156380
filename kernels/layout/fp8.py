"""`fp8`: 8-bit floating codes, e4m3 (no infinities) or e5m2, with one scale a row and group of columns.

    w = scale * value(code)

computed in float32. The formats are those of the OCP 8-bit Floating Point Specification 1.0 (2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from tilepress.kernels.layout import tiles
from tilepress.kernels.params import ALWAYS_SHOWN, Params, PartSpec, Shape

FORMATS: Mapping[str, torch.dtype] = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


@dataclass(frozen=True)
class Fp8Params(Params):
    """Which of the two formats, and columns a group (a multiple of 16; 0: the whole row)."""

    codec: ClassVar[str] = "fp8"
    summary: ClassVar[str] = "8-bit floating codes, e4m3 or e5m2"
    format: str = field(default="e4m3", metadata=ALWAYS_SHOWN)
    group: int = 0

    def __post_init__(self) -> None:
        self.require(self.format in FORMATS, f"format={self.format} is not one of {', '.join(FORMATS)}")
        self.require(
            tiles.group_is_valid(self.group), f"group={self.group} is neither a multiple of 16 nor 0 (the whole row)"
        )

    @property
    def code_dtype(self) -> torch.dtype:
        """PyTorch's dtype of the codes."""
        return FORMATS[self.format]

    def part_specs(self, shape: Shape, dtype: torch.dtype) -> Mapping[str, PartSpec]:
        return {
            "codes": PartSpec(torch.uint8, tiles.codes_shape(shape, 8)),
            "scales": PartSpec(torch.bfloat16, tiles.scales_shape(shape, self.group)),
        }
