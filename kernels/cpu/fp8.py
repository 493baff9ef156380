"""Native encoding and decoding of `fp8`, and multiplication by it."""

from __future__ import annotations

from tilepress.kernels.cpu.tile_codec import TileCodec
from tilepress.kernels.cpu.tiles import TileCode
from tilepress.kernels.layout.fp8 import Fp8Params


def _code(params: Fp8Params) -> TileCode:
    return TileCode(params.format, 8, params.group)


CODEC = TileCodec(_code)
decode, matmul, weight, encode = CODEC.decode, CODEC.matmul, CODEC.weight, CODEC.encode
