"""How far decoded values are from the true ones, in one native pass."""

from __future__ import annotations

import torch

from tilepress.kernels import _native
from tilepress.kernels.cpu.buffers import DTYPE_NAMES, buffer


def difference(truth: torch.Tensor, found: torch.Tensor) -> tuple[float, float, float]:
    """As `kernels.reference.difference` gives it, for contiguous tensors in main memory."""
    return _native.difference(buffer(truth), buffer(found), DTYPE_NAMES[truth.dtype])
