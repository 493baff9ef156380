"""`none`: the tensor as it is."""

from __future__ import annotations

import torch

from tilepress.compress.calibration.statistics import Statistics
from tilepress.kernels import Encoded
from tilepress.kernels.layout.none import NoneParams


def encode(weight: torch.Tensor, params: NoneParams, statistics: Statistics | None = None) -> Encoded:
    """Wrap the tensor, of any dtype, without a copy where it is contiguous."""
    return Encoded(params, tuple(weight.shape), weight.dtype, {"": weight.contiguous()})
