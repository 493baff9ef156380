"""What attention over a KV cache is tried with, by whichever kernels."""

from __future__ import annotations

from typing import Any

import torch


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers, always the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def extras(shape: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """What attention does besides softmax(q k^T) v, by name.

    Args:
        shape: sequences, heads, KV heads, queries, tokens, and channels of keys and values.
    """
    sequences, heads, _, queries, tokens, _, _ = shape
    seen = random(sequences, 1, queries, tokens, seed=4) > 0
    padding = torch.ones(sequences, 1, 1, tokens, dtype=torch.bool)
    padding[0, ..., : tokens // 2] = False
    nothing = torch.ones(1, heads, queries, tokens, dtype=torch.bool)
    nothing[:, 0, 0] = False
    return {
        "bidirectional": {"is_causal": False},
        "window": {"window": 70},
        "narrow window": {"window": 1},
        "left padding": {"mask": padding, "is_causal": False},
        "padding and causal": {"mask": padding},
        "bool mask": {"mask": seen, "is_causal": False},
        "additive mask": {"mask": random(sequences, heads, queries, tokens, seed=5), "is_causal": False},
        "nothing seen": {"mask": nothing, "is_causal": False},
        "additive minus infinity": {"mask": torch.zeros(nothing.shape).masked_fill(~nothing, -torch.inf)},
        "alibi": {"slopes": 2.0 ** -torch.arange(1.0, heads + 1)},
        "softcap": {"softcap": 3.0},
        "sinks": {"sinks": random(heads, seed=6)},
        "all": {
            "mask": padding,
            "window": 40,
            "slopes": random(heads, seed=7).abs() / 9,
            "softcap": 5.0,
            "sinks": random(heads, seed=8),
        },
    }
