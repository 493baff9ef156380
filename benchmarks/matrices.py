"""The matrices that coders are compared on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from tilepress.formats.checkpoint import open_checkpoint

MOST_VALUES = 1 << 23
"""Larger matrices, embeddings and heads, are left out."""


def matrices(checkpoint: Path | None, values: int, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Matrices of a checkpoint, of `values` weights in all or a few more; Gaussian ones without a checkpoint."""
    if checkpoint is None:
        for seed in range(max(1, values >> 20)):
            generator = torch.Generator().manual_seed(seed)
            yield torch.randn(1024, 1024, generator=generator).mul_(0.05).to(dtype)
        return
    opened = open_checkpoint(checkpoint)
    for name, info in opened.infos.items():
        if values > 0 and len(info.shape) == 2 and info.shape[0] * info.shape[1] < MOST_VALUES:
            matrix = opened.tensor(name).to(dtype).contiguous()
            values -= matrix.numel()
            yield matrix
