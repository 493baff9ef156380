"""Time compressed models and llama.cpp in turns by the processor's seconds of one thread, where other work runs.

    python benchmarks/llama.py CONTAINER ... [FILE.gguf ...] [--runs N] [--tokens N]

`tilepress bench --peers llama.cpp` goes by the clock, which says nothing on a busy machine. A prompt of 256 tokens,
then greedy, token by token; medians of all runs count. Without a GGUF file, Q4_K_M and Q4_0 files are made of the first
container.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from tilepress.runtime.bench import contestants
from tilepress.runtime.llama_cpp import NAME
from tilepress.runtime.speed import PROMPT_TOKENS


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder, ExitStack() as loaded:
        models = contestants(options.models, [NAME], Path(folder))
        runners = [loaded.enter_context(model.load()) for model in models]
        prompts, tokens = ([list[float]() for _ in models] for _ in range(2))
        for _ in range(options.runs):
            for number, runner in enumerate(runners):
                prompt = torch.arange(PROMPT_TOKENS) % runner.vocabulary
                prompts[number].append(seconds_of(partial(runner.prefill, prompt)))
                tokens[number] += [seconds_of(runner.decode) for _ in range(options.tokens)]
    print(f"{'model':32} {'weights':26} {'prompt':>14} {'a token':>10}")
    for model, prompt_seconds, token_seconds in zip(models, prompts, tokens, strict=True):
        speed = PROMPT_TOKENS / median(prompt_seconds)
        print(f"{model.name:32} {model.codec:26} {speed:6.1f} tokens/s {median(token_seconds) * 1e3:7.2f} ms")


def seconds_of(action: Callable[[], object]) -> float:
    """The processor's seconds."""
    begin = time.process_time()
    action()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
