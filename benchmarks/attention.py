"""Attention of one query over a compressed KV cache, beside PyTorch's over a bfloat16 one, in the same run.

    python benchmarks/attention.py [--threads 2] [--tokens 4096 16384] [--kv int:bits=4 int:bits=8] [--processor]

For shapes of SmolLM2-135M and of LLaMA-8B: the best time of several calls, taken in turns. Where other work
runs, --processor with one thread counts the processor's seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from timing import best_of

from tilepress.kernels.attention import attend
from tilepress.kernels.kv_store import KvStore
from tilepress.kernels.layout.kv import parse_kv_spec
from tilepress.kernels.reference.attention import Attention

SHAPES = {"SmolLM2-135M": (9, 3, 64), "LLaMA-8B": (32, 8, 128)}
"""Heads, KV heads and channels."""

RUNS = 9


def measure(shape: tuple[int, int, int], tokens: int, specs: list[str], clock: Callable[[], float]) -> None:
    """Print a line for PyTorch and for each codec."""
    heads, kv_heads, channels = shape
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(1, kv_heads, tokens, channels, generator=generator).bfloat16()
    values = torch.randn(1, kv_heads, tokens, channels, generator=generator).bfloat16()
    query = torch.randn(1, heads, 1, channels, generator=generator).bfloat16()
    grouped = query.view(1, kv_heads, -1, channels)  # the fastest of its ways: one row a head of its own

    calls: dict[str, Callable[[], object]] = {
        "bfloat16": lambda: torch.nn.functional.scaled_dot_product_attention(grouped, keys, values)
    }
    sizes = {"bfloat16": keys.nbytes + values.nbytes}
    for spec in specs:
        store = KvStore(parse_kv_spec(spec))
        store.append(keys, values)
        sizes[spec] = store.nbytes
        calls[spec] = lambda store=store: attend(query, store, Attention(channels**-0.5))  # type: ignore[misc]
    seconds = best_of(calls, RUNS, clock)
    for name, taken in seconds.items():
        print(
            f"    {name:12} {taken * 1e3:8.2f} ms   {seconds['bfloat16'] / taken:5.2f} times as fast   "
            f"{sizes[name] / sizes['bfloat16']:6.1%} of the bytes"
        )


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--kv", nargs="+", default=["int:bits=8", "int:bits=4", "int:bits=2", "fp8"])
    parser.add_argument("--processor", action="store_true", help="seconds of the processor, not of the clock")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.processor else time.perf_counter
    torch.set_num_threads(arguments.threads)
    for name, shape in SHAPES.items():
        for tokens in arguments.tokens:
            print(f"{name}, {tokens} tokens, {arguments.threads} threads")
            measure(shape, tokens, arguments.kv, clock)


if __name__ == "__main__":
    main()
