"""Encoder of `fp8`: the largest magnitude of each group gets the format's largest value, the others the nearest."""

from __future__ import annotations

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
from tilepress.kernels.layout.fp8 import Fp8Params

USES_STATISTICS = True


def encode(weight: torch.Tensor, params: Fp8Params, statistics: Statistics | None = None) -> Encoded:
    """Round to the nearest value of the format, ties to even; with error feedback where statistics are given.

    Raises:
        CodecError: NaN or infinite values, or a dtype that can't be compressed.
    """
    if statistics is not None:
        with_feedback = feedback_run(_Book(params), params.group, matrix_shape(tuple(weight.shape))[1], statistics)
        return encode_with_feedback(weight, params, 8, with_feedback)
    largest = torch.finfo(params.code_dtype).max

    def encode_run(values: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        scale = round_scale(reduce_groups(values.abs(), params.group, lambda grouped: grouped.amax(-1)) / largest)
        scaled = divide(values, spread_groups(scale.float(), params.group, values.shape[1]))
        return scaled.clamp_(-largest, largest).to(params.code_dtype).view(torch.uint8), {"scales": scale}

    return encode_tiles(weight, params, 8, encode_run)


class _Book:
    """The code as error feedback sees it; see `columns.ScaledCode`."""

    def __init__(self, params: Fp8Params) -> None:
        self._dtype = params.code_dtype
        self._largest = torch.finfo(params.code_dtype).max

    def start(self, values: torch.Tensor) -> Scales:
        return {"scales": round_scale(values.abs().amax(0) / self._largest)}

    def rescale(self, scales: Scales, factor: torch.Tensor | float) -> Scales:
        return {"scales": (scales["scales"].float() * factor).bfloat16()}

    def code(self, values: torch.Tensor, scales: Scales) -> torch.Tensor:
        scaled = divide(values, scales["scales"].float())
        return scaled.clamp_(-self._largest, self._largest).to(self._dtype).view(torch.uint8)

    def decode(self, codes: torch.Tensor, scales: Scales) -> torch.Tensor:
        return codes.view(self._dtype).float() * scales["scales"].float()
