"""What is known of a checkpoint's tensor before it is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a checkpoint.

    Attributes:
        name: as in the checkpoint.
        shape: of the tensor.
        dtype: of the tensor.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor in memory."""
        return math.prod(self.shape) * self.dtype.itemsize
