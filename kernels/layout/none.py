"""`none`: the tensor as it is. Its only part has an empty name, so that it keeps its own name in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from tilepress.kernels.params import Params, PartSpec, Shape


@dataclass(frozen=True)
class NoneParams(Params):
    """No options. Takes every dtype that safetensors has."""

    codec: ClassVar[str] = "none"
    guarantee: ClassVar[str] = "bit-identical"
    summary: ClassVar[str] = "the tensor as it is"

    @property
    def is_bit_identical(self) -> bool:
        return True

    def part_specs(self, shape: Shape, dtype: torch.dtype) -> Mapping[str, PartSpec]:
        return {"": PartSpec(dtype, shape)}
