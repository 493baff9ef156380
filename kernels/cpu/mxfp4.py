"""Native encoding and decoding of `mxfp4`, and multiplication by it."""

from __future__ import annotations

from tilepress.kernels.cpu.tile_codec import TileCodec
from tilepress.kernels.cpu.tiles import TileCode
from tilepress.kernels.layout import e2m1
from tilepress.kernels.layout.mxfp4 import GROUP, Mxfp4Params


def _code(_: Mxfp4Params) -> TileCode:
    return TileCode("e2m1", e2m1.BITS, GROUP, "e8m0")


CODEC = TileCodec(_code)
decode, matmul, weight, encode = CODEC.decode, CODEC.matmul, CODEC.weight, CODEC.encode
