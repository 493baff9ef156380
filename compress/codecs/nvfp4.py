"""Encoder of `nvfp4`: of two scales, each group takes the one that leaves less squared error.

The tensor's own scale brings its largest magnitude to 6 * 448, the largest product of a code and a group's scale
(NVIDIA, "Pretraining Large Language Models with NVFP4", 2025, appendix C). A group's scale brings its largest magnitude
to 6, as there, or to 4, below which codes lie denser (Cook et al. 2025, "Four Over Six").
"""

from __future__ import annotations

import torch

from tilepress.compress.calibration.statistics import Statistics
from tilepress.compress.codecs.columns import Scales, feedback_run
from tilepress.compress.codecs.e2m1 import round_to_codes, squared_error, values_of
from tilepress.compress.codecs.groups import (
    divide,
    encode_tiles,
    encode_with_feedback,
    largest_magnitude,
    reduce_groups,
    spread_groups,
)
from tilepress.kernels import Encoded, matrix_shape
from tilepress.kernels.layout import e2m1
from tilepress.kernels.layout.nvfp4 import GROUP, Nvfp4Params
from tilepress.kernels.layout.tiles import GLOBAL_SCALE_COPIES
from tilepress.kernels.reference.tiles import e4m3_values

_LARGEST_SCALE = torch.finfo(torch.float8_e4m3fn).max

USES_STATISTICS = True


def encode(weight: torch.Tensor, params: Nvfp4Params, statistics: Statistics | None = None) -> Encoded:
    """Round to the nearest value, ties to even; with error feedback where statistics are given.

    Raises:
        CodecError: NaN or infinite values, or a dtype that can't be compressed.
    """
    global_scale = choose_global_scale(weight)
    if statistics is not None:
        with_feedback = feedback_run(_Book(global_scale), GROUP, matrix_shape(tuple(weight.shape))[1], statistics)
        return encode_with_feedback(weight, params, e2m1.BITS, with_feedback, {"global_scale": global_scale})

    def encode_run(values: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        scales = choose_scales(values, global_scale)
        return codes_of(values, scales, global_scale), {"scales": scales}

    return encode_tiles(weight, params, e2m1.BITS, encode_run, {"global_scale": global_scale})


def choose_global_scale(weight: torch.Tensor) -> torch.Tensor:
    """The tensor's own scale as it is stored, float32 [4]; 0 where nothing in the tensor is large enough for one."""
    largest = largest_magnitude(weight).float()
    return (largest / (e2m1.MAGNITUDES[-1] * _LARGEST_SCALE)).expand(GLOBAL_SCALE_COPIES).contiguous()


def choose_scales(values: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    """Scales of float32 values [rows, columns]: uint8 [rows, groups]."""
    values = divide(values, global_scale[0])
    largest = reduce_groups(values.abs(), GROUP, lambda grouped: grouped.amax(-1))
    candidates = [_round_scale(largest / magnitude) for magnitude in (6.0, 4.0)]
    errors = []
    for candidate in candidates:
        scale = spread_groups(e4m3_values(candidate), GROUP, values.shape[1])
        rounded = values_of(round_to_codes(divide(values, scale))) * scale
        errors.append(reduce_groups(rounded - values, GROUP, squared_error))
    return torch.where(errors[1] < errors[0], candidates[1], candidates[0])


def codes_of(values: torch.Tensor, scales: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    """Nearest codes of float32 values [rows, columns] under the scales of their groups: uint8 [rows, columns]."""
    scale = spread_groups(e4m3_values(scales), GROUP, values.shape[1])
    return round_to_codes(divide(divide(values, global_scale[0]), scale))


def _round_scale(scale: torch.Tensor) -> torch.Tensor:
    return scale.clamp(max=_LARGEST_SCALE).to(torch.float8_e4m3fn).view(torch.uint8)


class _Book:
    """The code as error feedback sees it; see `columns.ScaledCode`."""

    def __init__(self, global_scale: torch.Tensor) -> None:
        self._global = global_scale

    def start(self, values: torch.Tensor) -> Scales:
        return {"scales": choose_scales(values.T, self._global)[:, 0]}

    def rescale(self, scales: Scales, factor: torch.Tensor | float) -> Scales:
        return {"scales": _round_scale(e4m3_values(scales["scales"]) * factor)}

    def code(self, values: torch.Tensor, scales: Scales) -> torch.Tensor:
        return round_to_codes(divide(divide(values, self._global[0]), e4m3_values(scales["scales"])))

    def decode(self, codes: torch.Tensor, scales: Scales) -> torch.Tensor:
        return values_of(codes) * e4m3_values(scales["scales"]) * self._global[0]
