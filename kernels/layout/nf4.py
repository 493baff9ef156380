"""`nf4`: 4-bit codes into the NormalFloat code book, with one scale a row and group of columns.

    w = scale * CODE_BOOK[code]

computed in float32. The code book has the quantiles of the normal distribution, scaled to [-1, 1], with an exact
zero: Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", appendix E.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from tilepress.kernels.layout import tiles
from tilepress.kernels.params import ALWAYS_SHOWN, Params, PartSpec, Shape

CODE_BOOK: tuple[float, ...] = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


@dataclass(frozen=True)
class Nf4Params(Params):
    """Columns a group (a multiple of 16; 0: the whole row)."""

    codec: ClassVar[str] = "nf4"
    summary: ClassVar[str] = "4-bit NormalFloat codes (QLoRA)"
    group: int = field(default=64, metadata=ALWAYS_SHOWN)

    def __post_init__(self) -> None:
        self.require(
            tiles.group_is_valid(self.group), f"group={self.group} is neither a multiple of 16 nor 0 (the whole row)"
        )

    def part_specs(self, shape: Shape, dtype: torch.dtype) -> Mapping[str, PartSpec]:
        return {
            "codes": PartSpec(torch.uint8, tiles.codes_shape(shape, 4)),
            "scales": PartSpec(torch.bfloat16, tiles.scales_shape(shape, self.group)),
        }
