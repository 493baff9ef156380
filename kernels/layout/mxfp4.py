"""`mxfp4`: 4-bit floating codes with a power of two as the scale of each row and group of 32 columns.

    w = 2^(scale - 127) * E2M1[code]        NaN where scale = 255

computed in float32: MXFP4 of the OCP Microscaling Formats (MX) Specification 1.0 (2023). Scales are stored as their
E8M0 bits. See `tiles` for the layout of codes and scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from tilepress.kernels.layout import e2m1, tiles
from tilepress.kernels.params import Params, PartSpec, Shape

GROUP = 32
"""Columns that share a scale."""


@dataclass(frozen=True)
class Mxfp4Params(Params):
    """There is nothing to choose."""

    codec: ClassVar[str] = "mxfp4"
    summary: ClassVar[str] = "4-bit floating codes, a power of two for 32 columns (OCP MX)"

    def part_specs(self, shape: Shape, dtype: torch.dtype) -> Mapping[str, PartSpec]:
        return {
            "codes": PartSpec(torch.uint8, tiles.codes_shape(shape, e2m1.BITS)),
            "scales": PartSpec(torch.uint8, tiles.scales_shape(shape, GROUP)),
        }
