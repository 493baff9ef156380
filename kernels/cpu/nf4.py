"""Native encoding and decoding of `nf4`, and multiplication by it."""

from __future__ import annotations

from tilepress.kernels.cpu.tile_codec import TileCodec
from tilepress.kernels.cpu.tiles import TileCode
from tilepress.kernels.layout.nf4 import Nf4Params


def _code(params: Nf4Params) -> TileCode:
    return TileCode("nf4", 4, params.group)


CODEC = TileCodec(_code)
decode, matmul, weight, encode = CODEC.decode, CODEC.matmul, CODEC.weight, CODEC.encode
