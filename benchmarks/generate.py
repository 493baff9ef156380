"""Time `generate` of a checkpoint in bfloat16 and compressed, in one run, and say how much of a token is native code.

    python benchmarks/generate.py CHECKPOINT [codec spec or container ...] [--tokens N] [--threads N] [--runs N]
                                  [--processor] [--json OUT]

Greedy, token by token; models take turns, and the fastest run of each counts, since other work on the machine can only
add to a time. Where much other work runs, --processor with one thread counts the processor's seconds. Compressed models
run natively, and once more with TILEPRESS_NATIVE=0, layer by layer.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

# Transformers takes any module `kernels` on the path for a package that it can use, and imports it: this one must not
# import Transformers then.
if __name__ == "__main__":
    from timing import seconds_a_token
    from transformers import AutoModelForCausalLM

    import tilepress
    from tilepress.kernels.cpu.decoder import Decoder
    from tilepress.kernels.cpu.instruction_set import instruction_set
    from tilepress.runtime.native_forward import SWITCH

SPECS = ("int:bits=4", "nf4", "fp8", "lossless", "none")
DENSE = "bfloat16"

Clock = Callable[[], float]


@dataclass(frozen=True)
class Figures:
    """One model.

    Attributes:
        weights: codec spec or container, or "bfloat16" for the checkpoint in Transformers.
        tokens_a_second: of the fastest run.
        of_dense: the same, divided by that of the checkpoint in Transformers.
        token_ms: time of a token.
        step_ms: of which native steps take this; 0 where there are none.
        layers_ms: time of a token without native steps.
    """

    weights: str
    tokens_a_second: float
    of_dense: float
    token_ms: float
    step_ms: float
    layers_ms: float


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("specs", nargs="*", default=SPECS, metavar="codec spec or container")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--processor", action="store_true", help="seconds of the processor, not of the clock")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.processor else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        models = {DENSE: AutoModelForCausalLM.from_pretrained(options.checkpoint, dtype=torch.bfloat16)}
        for number, spec in enumerate(options.specs):
            container = Path(spec)
            if not container.is_dir():
                container = Path(folder, str(number))
                tilepress.compress(options.checkpoint, container, spec)
            models[spec] = tilepress.load(container)
        figures = measure(models, options.tokens, options.runs, clock)
    print(f"{options.checkpoint.name}, {options.threads} threads, instruction set {instruction_set()}")
    print(f"{'weights':26} {'tokens/s':>8} {'/dense':>7} {'token':>9} {'step':>9} {'layers':>9}")
    for figure in figures:
        print(
            f"{Path(figure.weights).name:26} {figure.tokens_a_second:8.1f} {figure.of_dense:7.2f} "
            f"{figure.token_ms:6.1f} ms {figure.step_ms:6.1f} ms {figure.layers_ms:6.1f} ms"
        )
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n", encoding="utf-8")


def measure(models: dict[str, Any], tokens: int, runs: int, clock: Clock) -> list[Figures]:
    """Time all models in turns."""
    native, layers = (dict.fromkeys(models, (float("inf"), 0.0)) for _ in range(2))
    for _ in range(runs):
        for name, model in models.items():
            layers[name] = min(layers[name], times_of_token(model, tokens, clock, native=False))
            if name != DENSE:
                native[name] = min(native[name], times_of_token(model, tokens, clock, native=True))
    native[DENSE] = layers[DENSE]
    return [
        Figures(
            weights=name,
            tokens_a_second=1 / seconds,
            of_dense=native[DENSE][0] / seconds,
            token_ms=seconds * 1e3,
            step_ms=steps * 1e3,
            layers_ms=layers[name][0] * 1e3,
        )
        for name, (seconds, steps) in native.items()
    ]


def times_of_token(model: Any, tokens: int, clock: Clock, native: bool) -> tuple[float, float]:
    """Seconds of a token after the first, which waits for the prompt, and those of its native step."""
    with mock.patch.dict(os.environ, {SWITCH: str(int(native))}), watched_steps(clock) as steps:
        return seconds_a_token(model, tokens, clock), sum(steps) / tokens


@contextmanager
def watched_steps(clock: Clock) -> Iterator[list[float]]:
    """A list to which each native step adds its seconds."""
    seconds: list[float] = []
    step = Decoder.step

    def watched(self: Any, *arguments: Any, **keywords: Any) -> torch.Tensor:
        begin = clock()
        logits = step(self, *arguments, **keywords)
        seconds.append(clock() - begin)
        return logits

    with mock.patch.object(Decoder, "step", watched):
        yield seconds


if __name__ == "__main__":
    main()
