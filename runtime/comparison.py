"""A model and its compressed forms side by side: size, accuracy, speed and memory, one row each."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from tilepress.formats.text import (
    DEFAULT_TOKENS,
    DEFAULT_WINDOW,
    context_length,
    cut_windows,
    read_text,
    total_tokens,
)
from tilepress.kernels import RecipeError, dtype_name
from tilepress.runtime.base_logits import LogitsCache, logits_key
from tilepress.runtime.entrants import Entrant
from tilepress.runtime.evaluation import Accuracy, evaluate, predictions
from tilepress.runtime.speed import ModelRunner, measure_speed, resident_bytes

_WIDER = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.float32: torch.float64}
"""Dtype in which a model is run against itself to find the noise floor."""


@dataclass(frozen=True)
class Row:
    """One line of a comparison.

    Attributes:
        name: last part of the model's path.
        codec: spec of most of its weights, `none` for an uncompressed one, `mixed` where none has more than half.
        size_bytes: of all weight files.
        bits_per_weight: over all tensors of two or more dimensions, compressed or not.
        perplexity: on the text.
        kl_mean: mean KL divergence of the base to this model, in nats a token.
        kl_median: its median.
        kl_p99: its 99th percentile.
        top1: share of tokens for which both rank the same token first.
        noise_floor_kl: mean KL divergence of the base in its own dtype to itself in the next wider one; smaller
            divergences say nothing. Only the base's row has it.
        load_seconds: until the model can run.
        memory_bytes: of the weights once loaded.
        tokens_per_second_prefill: over a prompt of 256 tokens.
        tokens_per_second_decode: token by token after that prompt.
        tokens: of the text that were evaluated.
    """

    name: str
    codec: str
    size_bytes: int
    bits_per_weight: float
    perplexity: float
    kl_mean: float
    kl_median: float
    kl_p99: float
    top1: float
    noise_floor_kl: float | None
    load_seconds: float
    memory_bytes: int
    tokens_per_second_prefill: float
    tokens_per_second_decode: float
    tokens: int


class _Progress:
    """Counts windows for whoever wants to know."""

    def __init__(self, report: Callable[[int, int, str], None] | None, total: int) -> None:
        self._report, self._total, self._done, self._what = report, total, 0, ""

    def begin(self, what: str) -> None:
        self._what = what
        self._show()

    def through(self, pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The pieces, each counted when the next one is asked for."""
        for piece in pieces:
            yield piece
            self._done += 1
            self._show()

    def _show(self) -> None:
        if self._report is not None:
            self._report(self._done, self._total, self._what)


class LiveLogits:
    """Logits that a loaded model gives again each time they are asked for: for when they can't be stored."""

    def __init__(self, model: PreTrainedModel, windows: Sequence[torch.Tensor]) -> None:
        """Keep the model."""
        self._model, self._windows = model, windows

    def __iter__(self) -> Iterator[torch.Tensor]:
        return predictions(self._model, self._windows)


def compare(
    source: str | Path,
    candidates: Sequence[str | Path],
    text: str | Path | None = None,
    tokens: int | None = None,
    *,
    window: int = DEFAULT_WINDOW,
    cache: LogitsCache | None = None,
    report: Callable[[int, int, str], None] | None = None,
) -> list[dict[str, Any]]:
    """Compare models that were made from one model with it, on the same text, in its own dtype.

    Models are loaded one after the other. The base's logits go through a cache on disk; where the disk has no room for
    them, the base stays loaded instead.

    Args:
        source: the base: a folder with safetensors, a safetensors or GGUF file, or a Hub name.
        candidates: compressed checkpoints, or uncompressed ones.
        text: a file in UTF-8; by default Python's own language reference.
        tokens: most tokens of the text to evaluate, 3,072 by default.
        window: tokens that are evaluated together; no more than the models can take.
        cache: of the base's logits, by default in the user's cache folder.
        report: called with windows done, windows in all, and what is being done.

    Returns:
        a dictionary with the fields of `Row` for the base and for each candidate, in their order.

    Raises:
        TilepressError: a model or text that can't be read, or models that can't be compared.
    """
    base = Entrant(source)
    others = [Entrant(candidate) for candidate in _as_list(candidates)]
    length = DEFAULT_TOKENS if tokens is None else tokens
    windows = _common_windows([base, *others], read_text(text), length, window)

    progress = _Progress(report, len(windows) * (2 + len(others)))

    model, seconds = _load(base, base.dtype, progress)
    logits = logits_of_base(base, model, windows, cache)
    row = _row(base, model, seconds, evaluate(progress.through(logits), logits, windows), windows)
    del model
    floor = _noise_floor(base, logits, windows, progress)
    rows = [replace(row, noise_floor_kl=floor)]
    for entrant in others:
        model, seconds = _load(entrant, base.dtype, progress)
        seen = progress.through(predictions(model, windows))
        rows.append(_row(entrant, model, seconds, evaluate(seen, logits, windows), windows))
        del model, seen
        gc.collect()
    return [asdict(row) for row in rows]


def divergence(source: str | Path, candidate: str | Path, windows: Sequence[torch.Tensor]) -> float:
    """Mean KL divergence of a model to one that was made from it, in nats a token.

    Args:
        source: the base, as for `compare`.
        candidate: the other.
        windows: int64 vectors of the base's tokens.
    """
    base, other = Entrant(source), Entrant(candidate)
    logits = logits_of_base(base, base.load(base.dtype), windows)
    return evaluate(predictions(other.load(base.dtype), windows), logits, windows).kl_mean


def headings() -> list[str]:
    """Headings of the table: two columns of words, then figures."""
    return list(_COLUMNS)


def table_rows(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """What `compare` returned as the texts of a table: a line a model, and the noise floor below the base."""
    lines = []
    for row in rows:
        lines.append([_COLUMNS[header](row) for header in _COLUMNS])
        if row["noise_floor_kl"] is not None:
            floor = {"model": "  its noise floor", "KL mean": _small(row["noise_floor_kl"])}
            lines.append([floor.get(header, "") for header in _COLUMNS])
    return lines


def notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the table's reader should know, a sentence a line."""
    floors = [row["noise_floor_kl"] for row in rows if row["noise_floor_kl"] is not None]
    return [
        f"KL is in nats a token, over {rows[0]['tokens']:,} tokens. The noise floor, KL {_small(floors[0])}, is what "
        "the base's own rounding does: a smaller figure can't be told from 0."
    ]


def _small(value: float) -> str:
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.4f}" if value else "0"


_COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "model": lambda row: str(row["name"]),
    "codec": lambda row: str(row["codec"]),
    "MB": lambda row: f"{row['size_bytes'] / 1e6:.1f}",
    "bits/weight": lambda row: f"{row['bits_per_weight']:.2f}",
    "perplexity": lambda row: f"{row['perplexity']:.3f}",
    "KL mean": lambda row: _small(row["kl_mean"]),
    "KL median": lambda row: _small(row["kl_median"]),
    "KL 99 %": lambda row: _small(row["kl_p99"]),
    "top-1": lambda row: f"{row['top1']:.4f}",
    "load s": lambda row: f"{row['load_seconds']:.1f}",
    "memory MB": lambda row: f"{row['memory_bytes'] / 1e6:.1f}",
    "prefill tok/s": lambda row: f"{row['tokens_per_second_prefill']:.3g}",
    "decode tok/s": lambda row: f"{row['tokens_per_second_decode']:.3g}",
}
"""Heading of each column of a table, and the text of its cells."""


def _as_list(candidates: Sequence[str | Path] | str | Path) -> Sequence[str | Path]:
    """A single path is a sequence too, of its letters: surely not what was meant."""
    return [candidates] if isinstance(candidates, (str, Path)) else candidates


def _common_windows(entrants: Sequence[Entrant], text: str, tokens: int, window: int) -> list[torch.Tensor]:
    """The windows that all models see, or a sentence on why they can't be compared."""
    base = entrants[0]
    limits = [context_length(entrant.config) for entrant in entrants]
    window = min([window, *(limit for limit in limits if limit is not None)])
    windows = cut_windows(base.tokenizer(), text, tokens, window)
    for entrant in entrants[1:]:
        if _vocabulary(entrant) != _vocabulary(base):
            raise RecipeError(
                f"{entrant.source}: has a vocabulary of {_vocabulary(entrant)} tokens, {base.source} one of "
                f"{_vocabulary(base)}; compare models that share a tokenizer"
            )
        others = cut_windows(entrant.tokenizer(), text, tokens, window)
        if len(windows) != len(others) or not all(map(torch.equal, windows, others)):
            raise RecipeError(
                f"{entrant.source}: its tokenizer makes other tokens of this text than that of {base.source}; "
                "compare models that share a tokenizer"
            )
    return windows


def _vocabulary(entrant: Entrant) -> int:
    return int(entrant.config.get_text_config().vocab_size)


def _load(entrant: Entrant, dtype: torch.dtype, progress: _Progress) -> tuple[PreTrainedModel, float]:
    progress.begin(entrant.name)
    begin = time.perf_counter()
    model = entrant.load(dtype)
    return model, time.perf_counter() - begin


def logits_of_base(
    base: Entrant, model: PreTrainedModel, windows: Sequence[torch.Tensor], cache: LogitsCache | None = None
) -> Iterable[torch.Tensor]:
    """Logits from the cache, else computed and stored; from the model each time if there is no room for them.

    Args:
        base: what the model was loaded from.
        model: of the base, in the dtype in which it is compared.
        windows: int64 vectors of tokens.
        cache: that may have them, by default in the user's cache folder.
    """
    cache = cache or LogitsCache()
    facts = {
        "weights": base.weights.digest,
        "dtype": dtype_name(model.dtype),
        "device": str(model.device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    key = logits_key(windows, facts)
    rows = [len(window) - 1 for window in windows]
    stored = cache.find(key)
    # Some models give float32 logits whatever their own dtype is.
    if stored is None and cache.has_room_for(sum(rows) * _vocabulary(base) * torch.float32.itemsize):
        stored = cache.store(key, predictions(model, windows), rows)
    return stored or LiveLogits(model, windows)


def _noise_floor(
    base: Entrant, logits: Iterable[torch.Tensor], windows: Sequence[torch.Tensor], progress: _Progress
) -> float:
    progress.begin(f"noise floor of {base.name}")
    wide = base.load(_WIDER[base.dtype])
    return evaluate(progress.through(predictions(wide, windows)), logits, windows).kl_mean


def _row(
    entrant: Entrant, model: PreTrainedModel, load_seconds: float, accuracy: Accuracy, windows: Sequence[torch.Tensor]
) -> Row:
    speed = measure_speed(ModelRunner(model), windows[0])
    return Row(
        name=entrant.name,
        codec=entrant.weights.codec,
        size_bytes=entrant.weights.size_bytes,
        bits_per_weight=entrant.weights.bits_per_weight,
        **asdict(accuracy),
        noise_floor_kl=None,
        load_seconds=load_seconds,
        memory_bytes=resident_bytes(model),
        tokens_per_second_prefill=speed.prefill,
        tokens_per_second_decode=speed.decode,
        tokens=total_tokens(windows),
    )
