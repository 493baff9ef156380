"""Encoder of `mxfp4`: of two neighbouring powers of two, each group takes the one that leaves less squared error.

The smaller one is that of the OCP Microscaling Formats (MX) Specification 1.0, section 6.3: it brings the largest
magnitude into [4, 8), where values beyond 6 are cut off. The other brings it into [2, 4).
"""

from __future__ import annotations

import torch

from tilepress.compress.calibration.statistics import Statistics
from tilepress.compress.codecs.columns import Scales, feedback_run
from tilepress.compress.codecs.e2m1 import round_to_codes, squared_error, values_of
from tilepress.compress.codecs.groups import encode_tiles, encode_with_feedback, reduce_groups, spread_groups
from tilepress.kernels import Encoded, matrix_shape
from tilepress.kernels.layout import e2m1
from tilepress.kernels.layout.mxfp4 import GROUP, Mxfp4Params
from tilepress.kernels.reference.tiles import e8m0_values

USES_STATISTICS = True
_EXPONENTS = 253
"""Largest stored exponent with which no value is infinite."""


def encode(weight: torch.Tensor, params: Mxfp4Params, statistics: Statistics | None = None) -> Encoded:
    """Round to the nearest value, ties to even; with error feedback where statistics are given.

    Raises:
        CodecError: NaN or infinite values, or a dtype that can't be compressed.
    """

    if statistics is not None:
        with_feedback = feedback_run(_Book(), GROUP, matrix_shape(tuple(weight.shape))[1], statistics)
        return encode_with_feedback(weight, params, e2m1.BITS, with_feedback)

    def encode_run(values: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        scales = choose_scales(values)
        return codes_of(values, scales), {"scales": scales}

    return encode_tiles(weight, params, e2m1.BITS, encode_run)


def choose_scales(values: torch.Tensor) -> torch.Tensor:
    """Scales of float32 values [rows, columns]: uint8 [rows, groups]."""
    largest = reduce_groups(values.abs(), GROUP, lambda grouped: grouped.amax(-1))
    exponents = (largest.view(torch.int32) >> 23) - 2
    smaller = exponents.clamp_(min=0).to(torch.uint8)
    scaled = values / spread_groups(e8m0_values(smaller), GROUP, values.shape[1])
    errors = [
        reduce_groups(values_of(round_to_codes(scaled / factor)) * factor - scaled, GROUP, squared_error)
        for factor in (1.0, 2.0)
    ]
    return smaller + (errors[1] < errors[0]).to(torch.uint8)


def codes_of(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Nearest codes of float32 values [rows, columns] under the scales of their groups: uint8 [rows, columns]."""
    return round_to_codes(values / spread_groups(e8m0_values(scales), GROUP, values.shape[1]))


class _Book:
    """The code as error feedback sees it; see `columns.ScaledCode`."""

    def start(self, values: torch.Tensor) -> Scales:
        return {"scales": choose_scales(values.T)[:, 0]}

    def rescale(self, scales: Scales, factor: torch.Tensor | float) -> Scales:
        steps = torch.as_tensor(factor).log2().nan_to_num_(0.0).round_().clamp_(-_EXPONENTS, _EXPONENTS)
        return {"scales": (scales["scales"] + steps).clamp_(0, _EXPONENTS).to(torch.uint8)}

    def code(self, values: torch.Tensor, scales: Scales) -> torch.Tensor:
        return round_to_codes(values / e8m0_values(scales["scales"]))

    def decode(self, codes: torch.Tensor, scales: Scales) -> torch.Tensor:
        return values_of(codes) * e8m0_values(scales["scales"])
