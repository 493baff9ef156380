"""`nvfp4`: 4-bit floating codes with an 8-bit floating scale for each row and group of 16 columns, and one a tensor.

    w = (global_scale * E4M3[scale]) * E2M1[code]

computed in float32, the parenthesis first: NVIDIA, "Pretraining Large Language Models with NVFP4" (2025), section 2.
Scales are stored as their E4M3 bits; the tensor's own scale is stored four times, so that the part is as long as files
align parts. See `tiles` for the layout of codes and scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from tilepress.kernels.layout import e2m1, tiles
from tilepress.kernels.params import Params, PartSpec, Shape

GROUP = 16
"""Columns that share a scale."""


@dataclass(frozen=True)
class Nvfp4Params(Params):
    """There is nothing to choose."""

    codec: ClassVar[str] = "nvfp4"
    summary: ClassVar[str] = "4-bit floating codes, an 8-bit floating scale for 16 columns (NVIDIA)"

    def part_specs(self, shape: Shape, dtype: torch.dtype) -> Mapping[str, PartSpec]:
        return {
            "codes": PartSpec(torch.uint8, tiles.codes_shape(shape, e2m1.BITS)),
            "scales": PartSpec(torch.uint8, tiles.scales_shape(shape, GROUP)),
            "global_scale": PartSpec(torch.float32, (tiles.GLOBAL_SCALE_COPIES,)),
        }

    def check_parts(self, shape: Shape, dtype: torch.dtype, parts: Mapping[str, torch.Tensor]) -> None:
        bits = parts["global_scale"].view(torch.int32)
        self.require(bool((bits == bits[0]).all()), "the copies of the global scale differ")
