"""Native encoding and decoding of `nvfp4`, and multiplication by it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from tilepress.kernels import _native
from tilepress.kernels.cpu import tile_encoding, tiles
from tilepress.kernels.encoded import Encoded
from tilepress.kernels.layout import e2m1
from tilepress.kernels.layout.nvfp4 import GROUP, Nvfp4Params


def decode(encoded: Encoded, rows: range, columns: range, dtype: torch.dtype) -> torch.Tensor:
    """Values of the range in `dtype`, bit-identical with the reference."""
    return tiles.decode(encoded, code_of(encoded), rows, columns, dtype)


def matmul(x: torch.Tensor, encoded: Encoded, bias: torch.Tensor | None, rows: range) -> torch.Tensor:
    """`x @ weight[rows].T + bias`, accumulated in float32."""
    return tiles.matmul(x, encoded, code_of(encoded), bias, rows)


def weight(encoded: Encoded) -> _native.Weight:
    """The weight as a decoder reads it."""
    return tiles.native_weight(encoded, code_of(encoded))


def encode(matrix: torch.Tensor, params: Nvfp4Params, of_tensor: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parts of a contiguous matrix of values that the codec takes; `of_tensor` holds the parts that are given."""
    return tile_encoding.encode(matrix, params, _code(params), of_tensor)


def code_of(encoded: Encoded) -> tiles.TileCode:
    """What the tiles hold."""
    params = encoded.params
    assert isinstance(params, Nvfp4Params)
    return _code(params)


def _code(params: Nvfp4Params) -> tiles.TileCode:
    return tiles.TileCode("e2m1", e2m1.BITS, GROUP, "e4m3")
