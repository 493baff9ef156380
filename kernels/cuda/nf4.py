"""Decoding of `nf4` on a GPU, and multiplication by it."""

from __future__ import annotations

# The operators, which every device has; tiles implements them.
from tilepress.kernels.cpu.nf4 import decode as decode
from tilepress.kernels.cpu.nf4 import matmul as matmul
from tilepress.kernels.cuda import tiles as tiles
