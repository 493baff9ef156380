"""Encoder of `fp8`: the largest magnitude of each group gets the format's largest value, the others the nearest."""

from __future__ import annotations

import torch

from tilepress.compress.codecs.groups import divide, encode_tiles, reduce_groups, round_scale, spread_groups
from tilepress.kernels import Encoded
from tilepress.kernels.layout.fp8 import Fp8Params


def encode(weight: torch.Tensor, params: Fp8Params) -> Encoded:
    """Round to the nearest value of the format, ties to even.

    Raises:
        CodecError: NaN or infinite values, or a dtype that can't be compressed.
    """
    largest = torch.finfo(params.code_dtype).max

    def encode_run(values: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        scale = round_scale(reduce_groups(values.abs(), params.group, lambda grouped: grouped.amax(-1)) / largest)
        scaled = divide(values, spread_groups(scale.float(), params.group, values.shape[1]))
        return scaled.clamp_(-largest, largest).to(params.code_dtype).view(torch.uint8), {"scales": scale}

    return encode_tiles(weight, params, 8, encode_run)
