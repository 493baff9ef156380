"""Attention over pieces of a sequence, one after the other, by an online softmax.

Milakov and Gimelshein 2018, "Online normalizer calculation for softmax": a row keeps the largest score that it has
seen, the sum of exp(score - largest) and the sum of the values weighted so; when a larger score comes, both sums are
scaled down.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Attention:
    """What attention does besides softmax(scaling * q k^T) v.

    Attributes:
        scaling: of the scores.
        is_causal: a query sees nothing after its own token; the queries are those of the last tokens.
        window: tokens that a query sees, counted back from its own; 0: all of them.
        mask: bool (True: seen) or additive, shape [sequences or 1, heads or 1, queries or 1, tokens].
        slopes: ALiBi's, [heads]: slope * (token - the query's own token) is added to scores (Press et al. 2021).
        softcap: scores become softcap * tanh(score / softcap), before anything is added to them.
        sinks: [heads]: a score that takes part in the softmax and has no value.
    """

    scaling: float
    is_causal: bool = True
    window: int = 0
    mask: torch.Tensor | None = None
    slopes: torch.Tensor | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None


def attend(
    query: torch.Tensor,
    pieces: Iterable[tuple[int, torch.Tensor, torch.Tensor]],
    tokens: int,
    attention: Attention,
) -> torch.Tensor:
    """Attention of queries over a sequence of `tokens` tokens that comes in pieces.

    Args:
        query: [sequences, heads, queries, key channels].
        pieces: the first token of each piece, its keys and values, float32 [sequences, KV heads, tokens, channels]; a
            KV head serves as many consecutive heads as there are heads a KV head.
        tokens: of all pieces.
        attention: everything else.

    Returns:
        [sequences, heads, queries, value channels] in the dtype of `query`; zeros where a query sees nothing.
    """
    sequences, heads, queries, _ = query.shape
    scaled = query.float() * attention.scaling
    own = torch.arange(tokens - queries, tokens, device=query.device)[:, None]
    highest = scaled.new_full((sequences, heads, queries, 1), -torch.inf)
    total = torch.zeros_like(highest)
    if attention.sinks is not None:
        highest = attention.sinks.float().view(1, heads, 1, 1).expand_as(highest)
        total = torch.ones_like(highest)
    result = torch.zeros((), device=query.device)
    for first, keys, values in pieces:
        token = torch.arange(first, first + keys.shape[2], device=query.device)
        scores = _product(scaled, keys.mT)
        scores = _adjusted(scores, token, own, attention)
        higher = torch.maximum(highest, scores.amax(-1, keepdim=True))
        base = higher.masked_fill(higher == -torch.inf, 0.0)
        weights, kept = torch.exp(scores - base), torch.exp(highest - base)
        total = total * kept + weights.sum(-1, keepdim=True)
        result = result * kept + _product(weights, values)
        highest = higher
    return (result / total.masked_fill(total == 0, 1.0)).to(query.dtype)


def _product(rows: torch.Tensor, of_kv_heads: torch.Tensor) -> torch.Tensor:
    """[sequences, heads, queries, n] times [sequences, KV heads, n, m]."""
    grouped = rows.reshape(rows.shape[0], of_kv_heads.shape[1], -1, rows.shape[-1])
    return (grouped @ of_kv_heads).view(*rows.shape[:3], -1)


def _adjusted(scores: torch.Tensor, token: torch.Tensor, own: torch.Tensor, attention: Attention) -> torch.Tensor:
    if attention.softcap is not None:
        scores = attention.softcap * torch.tanh(scores / attention.softcap)
    if attention.slopes is not None:
        scores = scores + attention.slopes.float().view(1, -1, 1, 1) * (token - own)
    if attention.mask is not None:
        mask = attention.mask[..., token[0] : token[-1] + 1]
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if attention.is_causal:
        scores = scores.masked_fill(token > own, -torch.inf)
    if attention.window:
        scores = scores.masked_fill(token <= own - attention.window, -torch.inf)
    return scores
