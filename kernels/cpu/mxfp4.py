"""Native decoding of `mxfp4` and multiplication by it."""

from __future__ import annotations

import torch

from tilepress.kernels.cpu import tiles
from tilepress.kernels.encoded import Encoded
from tilepress.kernels.layout import e2m1
from tilepress.kernels.layout.mxfp4 import GROUP


def decode(encoded: Encoded, rows: range, columns: range, dtype: torch.dtype) -> torch.Tensor:
    """Values of the range in `dtype`, bit-identical with the reference."""
    return tiles.decode(encoded, code_of(encoded), rows, columns, dtype)


def matmul(x: torch.Tensor, encoded: Encoded, bias: torch.Tensor | None, rows: range) -> torch.Tensor:
    """`x @ weight[rows].T + bias`, accumulated in float32."""
    return tiles.matmul(x, encoded, code_of(encoded), bias, rows)


def code_of(encoded: Encoded) -> tiles.TileCode:
    """What the tiles hold."""
    return tiles.TileCode("e2m1", e2m1.BITS, GROUP, "e8m0")
