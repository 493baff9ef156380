"""Encoder of `int`: round each value to the nearest step of its group.

symmetric   scale = -m / 2^(bits-1) for the value m of largest magnitude, so that m has the code 0
affine      scale = (max - min) / (2^bits - 1) over the group's values and 0; zero_point = round(-min / scale)
"""

from __future__ import annotations

import torch

from tilepress.compress.codecs.groups import (
    by_panel,
    divide,
    join,
    padded_runs,
    reduce_groups,
    round_scale,
    spread_groups,
)
from tilepress.compress.codecs.panels import as_matrix
from tilepress.kernels import Encoded
from tilepress.kernels.layout.int import IntParams
from tilepress.kernels.packing import pack_tiles


def encode(weight: torch.Tensor, params: IntParams) -> Encoded:
    """Round to nearest, without calibration.

    Raises:
        CodecError: NaN or infinite values, or a dtype that can't be compressed.
    """
    shape, dtype = tuple(weight.shape), weight.dtype
    specs = params.part_specs(shape, dtype)
    pieces: dict[str, list[torch.Tensor]] = {name: [] for name in specs}
    for values in padded_runs(as_matrix(weight), params.codec):
        scale, zero_point = (_symmetric if params.symmetric else _affine)(values, params)
        spread = spread_groups(scale.float(), params.group, values.shape[1])
        codes = divide(values, spread).round_()
        codes += spread_groups(zero_point, params.group, values.shape[1])
        pieces["codes"].append(pack_tiles(codes.clamp_(0, (1 << params.bits) - 1).to(torch.uint8), params.bits))
        pieces["scales"].append(by_panel(scale))
        if not params.symmetric:
            pieces["zero_points"].append(by_panel(zero_point.to(torch.uint8)))
    return Encoded(params, shape, dtype, join(pieces, specs))


def _symmetric(values: torch.Tensor, params: IntParams) -> tuple[torch.Tensor, torch.Tensor]:
    half = 1 << (params.bits - 1)
    highest = reduce_groups(values, params.group, lambda grouped: grouped.amax(-1))
    lowest = reduce_groups(values, params.group, lambda grouped: grouped.amin(-1))
    extreme = torch.where(-lowest > highest, lowest, highest)
    scale = round_scale(-extreme / half)
    return scale, torch.full_like(extreme, half)


def _affine(values: torch.Tensor, params: IntParams) -> tuple[torch.Tensor, torch.Tensor]:
    top = (1 << params.bits) - 1
    highest = reduce_groups(values, params.group, lambda grouped: grouped.amax(-1)).clamp_(min=0)
    lowest = reduce_groups(values, params.group, lambda grouped: grouped.amin(-1)).clamp_(max=0)
    scale = round_scale(highest / top - lowest / top)
    zero_point = divide(-lowest, scale.float()).round_().clamp_(0, top)
    return scale, zero_point
