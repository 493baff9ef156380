"""Tensors as native code takes them: address and length in bytes, and the name of the dtype."""

from __future__ import annotations

import torch

from tilepress.kernels import _native
from tilepress.kernels.encoded import DTYPES

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
"""Names of dtypes, as native code knows them."""


def buffer(tensor: torch.Tensor | None) -> _native.Buffer:
    """Address and bytes of a contiguous tensor in main memory; what native code takes for none at all otherwise."""
    return (0, -1) if tensor is None else (tensor.data_ptr(), tensor.nbytes)
