"""Masks, slopes and sinks of attention as kernels take them, on any device."""

from __future__ import annotations

import torch


def floats(values: torch.Tensor | None) -> torch.Tensor | None:
    """Slopes or sinks, float32 contiguous."""
    return None if values is None else values.detach().float().contiguous()


def bias_of(mask: torch.Tensor | None) -> torch.Tensor | None:
    """What is added to scores, float32 contiguous in the shape of the mask, bool or additive."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -torch.inf)
    return floats(mask)


def bias_steps(bias: torch.Tensor | None) -> tuple[int, int, int]:
    """Values from one sequence, head or query to the next; none where all share them."""
    if bias is None:
        return 0, 0, 0
    steps = [stride if size > 1 else 0 for size, stride in zip(bias.shape, bias.stride(), strict=True)]
    return steps[0], steps[1], steps[2]
