"""How fast models run, in turns: `tilepress bench`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from tilepress.formats.checkpoint import GGUF_SUFFIX
from tilepress.kernels import RecipeError
from tilepress.runtime import llama_cpp
from tilepress.runtime.entrants import Entrant
from tilepress.runtime.speed import PROMPT_TOKENS, Contestant, ModelRunner, Runner, Speed, measure_speed

Report = Callable[[int, int, str], None]

HEADINGS = (
    *("model", "codec", "size MB", "memory MB", "load s", "prefill tok/s", "decode tok/s"),
    *("token ms", "native ms", "other ms"),
)
ROUNDS = 3
"""Turns of each model, of which the fastest counts: other work on the machine only adds to times."""


@dataclass(frozen=True)
class Bench:
    """One model.

    Attributes:
        name: of its folder or file.
        codec: spec of most of its weights; of a peer, its name and type of file.
        size_bytes: of its weight files.
        memory_bytes: of its parameters and buffers.
        load_seconds: until the model can run.
        tokens_per_second_prefill: of a prompt of 256 tokens, the best of a few passes.
        tokens_per_second_decode: token by token after it, of the fastest of a few turns.
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


def bench(
    models: Sequence[str | Path],
    peers: Sequence[str] = (),
    report: Report = lambda done, total, what: None,
) -> list[Bench]:
    """Load and time causal language models, all in memory at once, in turns.

    Args:
        models: compressed or uncompressed checkpoints. With a peer, it runs those that are GGUF files.
        peers: "llama.cpp", or none. Where no GGUF file is among the models, it runs files made of the first one.
        report: called with steps done, all of them, and what is next.

    Raises:
        TilepressError: there is no such model, it is damaged, or it doesn't generate text; no such peer, or it is not
            installed.
    """
    with TemporaryDirectory(prefix="tilepress-") as folder, ExitStack() as loaded:
        entered = contestants(models, peers, Path(folder))
        total = len(entered) * (1 + ROUNDS)
        runners: list[tuple[Runner, float]] = []
        for number, contestant in enumerate(entered):
            report(number, total, contestant.name)
            begin = time.perf_counter()
            runner = loaded.enter_context(contestant.load())
            runners.append((runner, time.perf_counter() - begin))
        speeds: list[list[Speed]] = [[] for _ in entered]
        for turn in range(ROUNDS * len(entered)):
            number = turn % len(entered)
            report(len(entered) + turn, total, entered[number].name)
            speeds[number].append(_measure(runners[number][0]))
        report(total, total, "")
        return [
            _row(contestant, *runner, of_turns)
            for contestant, runner, of_turns in zip(entered, runners, speeds, strict=True)
        ]


def contestants(models: Sequence[str | Path], peers: Sequence[str], folder: Path) -> list[Contestant]:
    """Who takes part in `bench`, with these arguments; files that are made for peers lie in `folder`.

    Raises:
        TilepressError: as `bench`.
    """
    unknown = next((peer for peer in peers if peer != llama_cpp.NAME), None)
    if unknown is not None:
        raise RecipeError(f"no peer is called {unknown!r}; there is {llama_cpp.NAME}")
    if peers:
        llama_cpp.library()
    files = [Path(model) for model in models if peers and Path(model).suffix == GGUF_SUFFIX]
    entrants = [Entrant(model) for model in models if Path(model) not in files]
    ours = [_contestant(entrant) for entrant in entrants]
    if peers and not files:
        files = llama_cpp.files_of(entrants[0], folder)
    return ours + [llama_cpp.contestant(file) for file in files]


def _contestant(entrant: Entrant) -> Contestant:
    weights = entrant.weights
    return Contestant(
        entrant.name, weights.codec, weights.size_bytes, lambda: nullcontext(ModelRunner(entrant.load(entrant.dtype)))
    )


def _measure(runner: Runner) -> Speed:
    generator = torch.Generator().manual_seed(0)
    return measure_speed(runner, torch.randint(runner.vocabulary, (PROMPT_TOKENS,), generator=generator))


def _row(contestant: Contestant, runner: Runner, load_seconds: float, speeds: Sequence[Speed]) -> Bench:
    fastest = max(speeds, key=lambda speed: speed.decode)
    return Bench(
        name=contestant.name,
        codec=contestant.codec,
        size_bytes=contestant.size_bytes,
        memory_bytes=runner.memory_bytes,
        load_seconds=load_seconds,
        tokens_per_second_prefill=max(speed.prefill for speed in speeds),
        tokens_per_second_decode=fastest.decode,
        native_share=fastest.native_share,
    )
