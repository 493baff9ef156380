"""How fast models run, one after the other: `tilepress bench`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tilepress.runtime.entrants import Entrant
from tilepress.runtime.speed import DECODED_TOKENS, PROMPT_TOKENS, measure_speed, resident_bytes

Report = Callable[[int, int, str], None]

HEADINGS = (
    *("model", "codec", "size MB", "memory MB", "load s", "prefill tok/s", "decode tok/s"),
    *("token ms", "native ms", "other ms"),
)


@dataclass(frozen=True)
class Bench:
    """One model.

    Attributes:
        name: of its folder or file.
        codec: spec of most of its weights.
        size_bytes: of its weight files.
        memory_bytes: of its parameters and buffers.
        load_seconds: until the model can run.
        tokens_per_second_prefill: of a prompt of 256 tokens, the best of a few passes.
        tokens_per_second_decode: token by token after it.
        native_share: of a token's time that native steps take; 0 where the model takes none.
    """

    name: str
    codec: str
    size_bytes: int
    memory_bytes: int
    load_seconds: float
    tokens_per_second_prefill: float
    tokens_per_second_decode: float
    native_share: float

    def cells(self) -> tuple[str, ...]:
        """As `HEADINGS` call them."""
        token = 1e3 / self.tokens_per_second_decode
        return (
            self.name,
            self.codec,
            *(f"{size / 1e6:,.1f}" for size in (self.size_bytes, self.memory_bytes)),
            *(f"{figure:.1f}" for figure in (self.load_seconds, self.tokens_per_second_prefill)),
            *(f"{figure:.1f}" for figure in (self.tokens_per_second_decode, token)),
            *(f"{share * token:.1f}" for share in (self.native_share, 1 - self.native_share)),
        )


def bench(models: Sequence[str | Path], report: Report = lambda done, total, what: None) -> list[Bench]:
    """Load and time causal language models, each alone in memory.

    Args:
        models: compressed or uncompressed checkpoints.
        report: called with models done, all of them, and the name of the next.

    Raises:
        TilepressError: there is no such model, it is damaged, or it doesn't generate text.
    """
    entrants = [Entrant(model) for model in models]
    rows = []
    for number, entrant in enumerate(entrants):
        report(number, len(entrants), entrant.name)
        rows.append(_measure(entrant))
    report(len(entrants), len(entrants), "")
    return rows


def _measure(entrant: Entrant) -> Bench:
    begin = time.perf_counter()
    model = entrant.load(entrant.dtype)
    load_seconds = time.perf_counter() - begin
    vocabulary = int(entrant.config.get_text_config().vocab_size)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary, (PROMPT_TOKENS + DECODED_TOKENS,), generator=generator)
    speed = measure_speed(model, tokens)
    return Bench(
        name=entrant.name,
        codec=entrant.weights.codec,
        size_bytes=entrant.weights.size_bytes,
        memory_bytes=resident_bytes(model),
        load_seconds=load_seconds,
        tokens_per_second_prefill=speed.prefill,
        tokens_per_second_decode=speed.decode,
        native_share=speed.native_share,
    )
