"""What the backends of all codecs of fixed-rate tiles are: one object a codec, which knows what its tiles hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tilepress.kernels import _native
from tilepress.kernels.cpu import tile_encoding, tiles
from tilepress.kernels.cpu.tiles import TileCode
from tilepress.kernels.encoded import Encoded


@dataclass(frozen=True)
class TileCodec:
    """Native encoding and decoding of a codec, and multiplication by it.

    Attributes:
        code_of: the codec's parameters -> what its tiles hold.
    """

    code_of: Callable[[Any], TileCode]

    def decode(self, encoded: Encoded, rows: range, columns: range, dtype: torch.dtype) -> torch.Tensor:
        """Values of the range in `dtype`, bit-identical with the reference."""
        return tiles.decode(encoded, self.code_of(encoded.params), rows, columns, dtype)

    def matmul(self, x: torch.Tensor, encoded: Encoded, bias: torch.Tensor | None, rows: range) -> torch.Tensor:
        """`x @ weight[rows].T + bias`, accumulated in float32."""
        return tiles.matmul(x, encoded, self.code_of(encoded.params), bias, rows)

    def weight(self, encoded: Encoded) -> _native.Weight:
        """The weight as a decoder reads it."""
        return tiles.native_weight(encoded, self.code_of(encoded.params))

    def encode(
        self, matrix: torch.Tensor, params: Any, of_tensor: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Parts of a contiguous matrix of values that the codec takes; `of_tensor` holds the parts that are given."""
        return tile_encoding.encode(matrix, params, self.code_of(params), of_tensor)
