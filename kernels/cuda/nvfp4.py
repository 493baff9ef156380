"""Decoding of `nvfp4` on a GPU, and multiplication by it."""

from __future__ import annotations

import torch

from tilepress.kernels.cpu.nvfp4 import code_of
from tilepress.kernels.cuda import tiles
from tilepress.kernels.encoded import Encoded


def decode(encoded: Encoded, rows: range, columns: range, dtype: torch.dtype) -> torch.Tensor:
    """Values of the range in `dtype`, bit-identical with the reference."""
    return tiles.decode_encoded(encoded, code_of(encoded), rows, columns, dtype)


def matmul(x: torch.Tensor, encoded: Encoded, bias: torch.Tensor | None, rows: range) -> torch.Tensor:
    """`x @ weight[rows].T + bias`, accumulated in float32."""
    return tiles.matmul_encoded(x, encoded, code_of(encoded), bias, rows)
