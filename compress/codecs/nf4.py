"""Encoder of `nf4`: the largest magnitude of each group scales it to [-1, 1], then the nearest value of the book."""

from __future__ import annotations

import torch

from tilepress.compress.codecs.groups import divide, encode_tiles, reduce_groups, round_scale, spread_groups
from tilepress.kernels import Encoded
from tilepress.kernels.layout.nf4 import CODE_BOOK, Nf4Params


def encode(weight: torch.Tensor, params: Nf4Params) -> Encoded:
    """Round to the nearest value of the code book.

    Raises:
        CodecError: NaN or infinite values, or a dtype that can't be compressed.
    """
    book = torch.tensor(CODE_BOOK)
    boundaries = (book[1:] + book[:-1]) / 2

    def encode_run(values: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        scale = round_scale(reduce_groups(values.abs(), params.group, lambda grouped: grouped.amax(-1)))
        scaled = divide(values, spread_groups(scale.float(), params.group, values.shape[1]))
        return torch.bucketize(scaled, boundaries, out_int32=True).to(torch.uint8), {"scales": scale}

    return encode_tiles(weight, params, 4, encode_run)
