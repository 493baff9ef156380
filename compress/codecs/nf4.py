"""Encoder of `nf4`: the largest magnitude of each group scales it to [-1, 1], then the nearest value of the book."""

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
from tilepress.kernels.layout.nf4 import CODE_BOOK, Nf4Params
from tilepress.kernels.packing import pack_tiles


def encode(weight: torch.Tensor, params: Nf4Params) -> Encoded:
    """Round to the nearest value of the code book.

    Raises:
        CodecError: NaN or infinite values, or a dtype that can't be compressed.
    """
    shape, dtype = tuple(weight.shape), weight.dtype
    specs = params.part_specs(shape, dtype)
    pieces: dict[str, list[torch.Tensor]] = {name: [] for name in specs}
    book = torch.tensor(CODE_BOOK)
    boundaries = (book[1:] + book[:-1]) / 2
    for values in padded_runs(as_matrix(weight), params.codec):
        scale = round_scale(reduce_groups(values.abs(), params.group, lambda grouped: grouped.amax(-1)))
        scaled = divide(values, spread_groups(scale.float(), params.group, values.shape[1]))
        codes = torch.bucketize(scaled, boundaries, out_int32=True).to(torch.uint8)
        pieces["codes"].append(pack_tiles(codes, 4))
        pieces["scales"].append(by_panel(scale))
    return Encoded(params, shape, dtype, join(pieces, specs))
