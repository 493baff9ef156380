"""Time `generate` of a checkpoint in bfloat16 and compressed, in one run, and say how much of a token is products.

    python benchmarks/generate.py CHECKPOINT [codec spec ...] [--tokens N] [--threads N] [--runs N] [--json OUT]

Greedy, token by token; models take turns, and the fastest run of each counts, since other work on the machine can only
add to a time. The last figure is a token's time with every product free (a tensor of zeros in its place): what
Transformers, its Python and attention take.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

# Transformers takes any module `kernels` on the path for a package that it can use, and imports it: this one must not
# import Transformers then.
if __name__ == "__main__":
    from transformers import AutoModelForCausalLM

    import tilepress
    from tilepress.kernels.cpu.instruction_set import instruction_set

SPECS = ("int:bits=4", "nf4", "fp8", "lossless")
DENSE = "bfloat16"
PROMPT_TOKENS = 16


@dataclass(frozen=True)
class Figures:
    """One model.

    Attributes:
        weights: codec spec, or "bfloat16" for the checkpoint as it is.
        tokens_a_second: of the fastest run.
        of_dense: the same, divided by that of the checkpoint as it is.
        token_ms: time of a token.
        other_ms: time of a token whose products are free.
        product_share: of a token.
    """

    weights: str
    tokens_a_second: float
    of_dense: float
    token_ms: float
    other_ms: float
    product_share: float


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("specs", nargs="*", default=SPECS, metavar="codec spec")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        models = {DENSE: AutoModelForCausalLM.from_pretrained(options.checkpoint, dtype=torch.bfloat16)}
        for number, spec in enumerate(options.specs):
            target = Path(folder, str(number))
            tilepress.compress(options.checkpoint, target, spec)
            models[spec] = tilepress.load(target)
        figures = measure(models, options.tokens, options.runs)
    print(f"{options.checkpoint.name}, {options.threads} threads, instruction set {instruction_set()}")
    print(f"{'weights':22} {'tokens/s':>8} {'/dense':>7} {'token':>9} {'others':>9} {'products':>8}")
    for figure in figures:
        print(
            f"{figure.weights:22} {figure.tokens_a_second:8.1f} {figure.of_dense:7.2f} {figure.token_ms:6.1f} ms "
            f"{figure.other_ms:6.1f} ms {figure.product_share:8.0%}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n", encoding="utf-8")


def measure(models: dict[str, Any], tokens: int, runs: int) -> list[Figures]:
    """Time all models in turns."""
    whole, other = (dict.fromkeys(models, float("inf")) for _ in range(2))
    for _ in range(runs):
        for name, model in models.items():
            whole[name] = min(whole[name], seconds_a_token(model, tokens))
            with free_products():
                other[name] = min(other[name], seconds_a_token(model, tokens))
    return [
        Figures(
            weights=name,
            tokens_a_second=1 / seconds,
            of_dense=whole[DENSE] / seconds,
            token_ms=seconds * 1e3,
            other_ms=other[name] * 1e3,
            product_share=1 - other[name] / seconds,
        )
        for name, seconds in whole.items()
    ]


def seconds_a_token(model: Any, tokens: int) -> float:
    """Of tokens after the first, which waits for the prompt."""
    prompt = torch.arange(100, 100 + PROMPT_TOKENS)[None]
    times: list[float] = []
    for count in (1, tokens + 1):
        begin = time.perf_counter()
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            min_new_tokens=count,
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
        )
        times.append(time.perf_counter() - begin)
    return (times[1] - times[0]) / tokens


@contextmanager
def free_products() -> Iterator[None]:
    """Zeros in place of what dense and compressed layers would compute."""

    def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return x.new_zeros(*x.shape[:-1], weight.shape[0])

    with (
        mock.patch("torch.nn.functional.linear", linear),
        mock.patch("tilepress.runtime.compressed.matmul", linear),
    ):
        yield


if __name__ == "__main__":
    main()
