"""How far a model is from the model that it was made from, over the same windows of text.

For each predicted token, with the next-token distributions p of the base and q of the candidate:

    KL(p || q) = sum over the vocabulary of p log(p / q), in nats
    agreement  = 1 where p and q have their maximum at the same token

and perplexity = exp(mean over tokens of -log q(token)). A window of n tokens predicts n - 1 of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from tilepress.kernels import RecipeError

_CHUNK_POSITIONS = 16
"""Positions whose distributions are in memory at a time: 6 MB each in float64 at a vocabulary of 49,152."""


@dataclass(frozen=True)
class Accuracy:
    """Figures of a candidate against its base.

    Attributes:
        perplexity: of the candidate.
        kl_mean: mean KL divergence a token, in nats.
        kl_median: its median.
        kl_p99: its 99th percentile.
        top1: share of tokens for which both rank the same token first.
    """

    perplexity: float
    kl_mean: float
    kl_median: float
    kl_p99: float
    top1: float


def predictions(model: PreTrainedModel, windows: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Run a causal language model over windows, one at a time.

    Args:
        model: gives logits for each position.
        windows: int64 vectors of n tokens.

    Yields:
        for each window the logits [n - 1, vocabulary] that predict its tokens 1 .. n - 1, in the model's own dtype.
    """
    for window in windows:
        with torch.inference_mode():
            logits = model(input_ids=window.to(model.device)[None], use_cache=False).logits
        yield logits[0, :-1]


def evaluate(
    candidate: Iterable[torch.Tensor], base: Iterable[torch.Tensor], windows: Sequence[torch.Tensor]
) -> Accuracy:
    """Compare predictions.

    Distributions are computed in float64: in float32 the sum over a vocabulary of 49,152 is wrong by 1e-5, which is
    more than some codecs cost.

    Args:
        candidate: logits [n - 1, vocabulary] for each window, as `predictions` gives them.
        base: the same of the base.
        windows: int64 vectors of n tokens.

    Raises:
        RecipeError: the two have different vocabularies.
    """
    count = sum(len(window) - 1 for window in windows)
    # Filled in place: small tensors allocated between large ones would keep the heap from being used again.
    losses, divergences = torch.empty(count, dtype=torch.float64), torch.empty(count, dtype=torch.float64)
    agreements = torch.empty(count, dtype=torch.bool)
    begin = 0
    for ours, theirs, window in zip(candidate, base, windows, strict=True):
        if ours.shape != theirs.shape:
            raise RecipeError(
                f"the candidate gives {ours.shape[-1]} logits a token, the base {theirs.shape[-1]}; "
                "compare models that share a vocabulary"
            )
        for first in range(0, len(ours), _CHUNK_POSITIONS):
            piece = slice(first, first + _CHUNK_POSITIONS)
            tokens = window[1:][piece].to(ours.device)
            log_q = ours[piece].double().log_softmax(-1)
            log_p = theirs[piece].to(ours.device).double().log_softmax(-1)
            here = slice(begin, begin + len(tokens))
            losses[here] = -log_q.gather(1, tokens[:, None])[:, 0]
            divergences[here] = _divergence(log_p, log_q)
            agreements[here] = log_p.argmax(-1) == log_q.argmax(-1)
            begin = here.stop
    return Accuracy(
        perplexity=losses.mean().exp().item(),
        kl_mean=divergences.mean().item(),
        kl_median=divergences.quantile(0.5).item(),
        kl_p99=divergences.quantile(0.99).item(),
        top1=agreements.double().mean().item(),
    )


def _divergence(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL divergence of each row; tokens that `p` rules out count nothing, nor does rounding below 0."""
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1).clamp_(min=0)
