"""Encoder of `int`: round each value to the nearest step of its group.

symmetric   scale = -m / 2^(bits-1) for the value m of largest magnitude, so that m has the code 0
affine      scale = (max - min) / (2^bits - 1) over the group's values and 0; zero_point = round(-min / scale)
"""

from __future__ import annotations

from dataclasses import replace

import torch

from tilepress.compress.calibration.statistics import Statistics
from tilepress.compress.codecs.columns import Scales, feedback_run
from tilepress.compress.codecs.groups import (
    divide,
    encode_tiles,
    encode_with_feedback,
    reduce_groups,
    round_scale,
    spread_groups,
)
from tilepress.kernels import Encoded, matrix_shape
from tilepress.kernels.layout.int import IntParams

USES_STATISTICS = True


def encode(weight: torch.Tensor, params: IntParams, statistics: Statistics | None = None) -> Encoded:
    """Round to nearest, or with error feedback where statistics of the inputs are given.

    Raises:
        CodecError: NaN or infinite values, or a dtype that can't be compressed.
    """
    if statistics is not None:
        with_feedback = feedback_run(_Book(params), params.group, matrix_shape(tuple(weight.shape))[1], statistics)
        return encode_with_feedback(weight, params, params.bits, with_feedback)
    top = (1 << params.bits) - 1

    def encode_run(values: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        scale, zero_point = (_symmetric if params.symmetric else _affine)(values, params)
        codes = divide(values, spread_groups(scale.float(), params.group, values.shape[1])).round_()
        codes += spread_groups(zero_point, params.group, values.shape[1])
        of_groups = {"scales": scale}
        if not params.symmetric:
            of_groups["zero_points"] = zero_point.to(torch.uint8)
        return codes.clamp_(0, top).to(torch.uint8), of_groups

    return encode_tiles(weight, params, params.bits, encode_run)


def _symmetric(values: torch.Tensor, params: IntParams) -> tuple[torch.Tensor, torch.Tensor]:
    half = 1 << (params.bits - 1)
    highest = reduce_groups(values, params.group, lambda grouped: grouped.amax(-1))
    lowest = reduce_groups(values, params.group, lambda grouped: grouped.amin(-1))
    extreme = torch.where(-lowest > highest, lowest, highest) + 0.0  # -0 becomes 0
    scale = round_scale(-extreme / half)
    return scale, torch.full_like(extreme, half)


def _affine(values: torch.Tensor, params: IntParams) -> tuple[torch.Tensor, torch.Tensor]:
    top = (1 << params.bits) - 1
    highest = reduce_groups(values, params.group, lambda grouped: grouped.amax(-1)).clamp_(min=0)
    lowest = reduce_groups(values, params.group, lambda grouped: grouped.amin(-1)).clamp_(max=0)
    scale = round_scale(highest / top - lowest / top)
    zero_point = divide(-lowest, scale.float()).round_().clamp_(0, top)
    return scale, zero_point


class _Book:
    """The code as error feedback sees it; see `columns.ScaledCode`."""

    def __init__(self, params: IntParams) -> None:
        self._group = replace(params, group=0)
        self._top = (1 << params.bits) - 1

    def start(self, values: torch.Tensor) -> Scales:
        scale, zero_point = (_symmetric if self._group.symmetric else _affine)(values.T, self._group)
        scales = {"scales": scale[:, 0]}
        if not self._group.symmetric:
            scales["zero_points"] = zero_point[:, 0].to(torch.uint8)
        return scales

    def rescale(self, scales: Scales, factor: torch.Tensor | float) -> Scales:
        return {**scales, "scales": (scales["scales"].float() * factor).bfloat16()}

    def code(self, values: torch.Tensor, scales: Scales) -> torch.Tensor:
        codes = divide(values, scales["scales"].float()).round_() + self._zero_point(scales)
        return codes.clamp_(0, self._top).to(torch.uint8)

    def decode(self, codes: torch.Tensor, scales: Scales) -> torch.Tensor:
        return (codes.float() - self._zero_point(scales)) * scales["scales"].float()

    def _zero_point(self, scales: Scales) -> torch.Tensor | float:
        return float(self._top // 2 + 1) if self._group.symmetric else scales["zero_points"].float()
