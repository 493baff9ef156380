"""Encoder of `fp8`: the largest magnitude of each group gets the format's largest value, the others the nearest."""

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
from tilepress.kernels.layout.fp8 import Fp8Params
from tilepress.kernels.packing import pack_tiles


def encode(weight: torch.Tensor, params: Fp8Params) -> Encoded:
    """Round to the nearest value of the format, ties to even.

    Raises:
        CodecError: NaN or infinite values, or a dtype that can't be compressed.
    """
    shape, dtype = tuple(weight.shape), weight.dtype
    specs = params.part_specs(shape, dtype)
    pieces: dict[str, list[torch.Tensor]] = {name: [] for name in specs}
    largest = torch.finfo(params.code_dtype).max
    for values in padded_runs(as_matrix(weight), params.codec):
        scale = round_scale(reduce_groups(values.abs(), params.group, lambda grouped: grouped.amax(-1)) / largest)
        scaled = divide(values, spread_groups(scale.float(), params.group, values.shape[1]))
        codes = scaled.clamp_(-largest, largest).to(params.code_dtype).view(torch.uint8)
        pieces["codes"].append(pack_tiles(codes, 8))
        pieces["scales"].append(by_panel(scale))
    return Encoded(params, shape, dtype, join(pieces, specs))
