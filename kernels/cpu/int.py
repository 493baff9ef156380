"""Native encoding and decoding of `int`, and multiplication by it."""

from __future__ import annotations

from tilepress.kernels.cpu.tile_codec import TileCodec
from tilepress.kernels.cpu.tiles import TileCode
from tilepress.kernels.layout.int import IntParams


def _code(params: IntParams) -> TileCode:
    return TileCode("int", params.bits, params.group)


CODEC = TileCodec(_code)
decode, matmul, weight, encode = CODEC.decode, CODEC.matmul, CODEC.weight, CODEC.encode
