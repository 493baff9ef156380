"""`int`: integers of 2..8 bits with a scale, and maybe a zero point, for each row and group of columns.

    symmetric   w = scale * (code - 2^(bits-1))
    affine      w = scale * (code - zero_point)

computed in float32. See `tiles` for the layout of codes and scales; zero points are laid out as scales are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from tilepress.kernels.layout import tiles
from tilepress.kernels.params import ALWAYS_SHOWN, Params, PartSpec, Shape


@dataclass(frozen=True)
class IntParams(Params):
    """Bits a code, columns a group (a multiple of 16; 0: the whole row), and whether zero points are left out."""

    codec: ClassVar[str] = "int"
    summary: ClassVar[str] = "integers of 2 to 8 bits with a scale a group of columns"
    bits: int = field(default=4, metadata=ALWAYS_SHOWN)
    group: int = field(default=64, metadata=ALWAYS_SHOWN)
    symmetric: bool = True

    def __post_init__(self) -> None:
        self.require(2 <= self.bits <= 8, f"bits={self.bits} is not within 2..8")
        self.require(
            tiles.group_is_valid(self.group), f"group={self.group} is neither a multiple of 16 nor 0 (the whole row)"
        )

    def part_specs(self, shape: Shape, dtype: torch.dtype) -> Mapping[str, PartSpec]:
        specs = {
            "codes": PartSpec(torch.uint8, tiles.codes_shape(shape, self.bits)),
            "scales": PartSpec(torch.bfloat16, tiles.scales_shape(shape, self.group)),
        }
        if not self.symmetric:
            specs["zero_points"] = PartSpec(torch.uint8, tiles.scales_shape(shape, self.group))
        return specs
