"""Attention of one query over a compressed KV cache, beside PyTorch's over a bfloat16 one, in the same run.

    python benchmarks/attention.py [--threads 2] [--tokens 4096 16384] [--kv int:bits=4 int:bits=8] [--processor]

For shapes of SmolLM2-135M and of LLaMA-8B: the best time of several calls, taken in turns, and then that of a prompt of
--prefill tokens, which PyTorch attends to in both cases, and which the compressed cache encodes besides. Where other
work runs, only many --runs find a time without it; --processor with one thread counts the processor's seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from timing import best_of

from tilepress.kernels.attention import attend
from tilepress.kernels.kv_store import KvStore
from tilepress.kernels.layout.kv import parse_kv_spec
from tilepress.kernels.reference.attention import Attention

SHAPES = {"SmolLM2-135M": (9, 3, 64), "LLaMA-8B": (32, 8, 128)}
"""Heads, KV heads and channels."""

PREFILL_RUNS = 3
Clock = Callable[[], float]
Action = Callable[[], object]


def random(heads: int, tokens: int, channels: int) -> torch.Tensor:
    """Normal values, bfloat16 [1, heads, tokens, channels]."""
    generator = torch.Generator().manual_seed(heads + tokens)
    return torch.randn(1, heads, tokens, channels, generator=generator).bfloat16()


def measure(shape: tuple[int, int, int], tokens: int, specs: list[str], runs: int, clock: Clock) -> None:
    """Print a line for PyTorch and for each codec."""
    heads, kv_heads, channels = shape
    keys, values = random(kv_heads, tokens, channels), random(kv_heads, tokens, channels).flip(2)
    query = random(heads, 1, channels)
    grouped = query.view(1, kv_heads, -1, channels)  # the fastest of its ways: one row a head of its own

    calls: dict[str, Action] = {
        "bfloat16": lambda: torch.nn.functional.scaled_dot_product_attention(grouped, keys, values)
    }
    sizes = {"bfloat16": keys.nbytes + values.nbytes}
    for spec in specs:
        store = KvStore(parse_kv_spec(spec))
        store.append(keys, values)
        sizes[spec] = store.nbytes
        calls[spec] = lambda store=store: attend(query, store, Attention(channels**-0.5))  # type: ignore[misc]
    seconds = best_of(calls, runs, clock)
    for name, taken in seconds.items():
        print(
            f"    {name:12} {taken * 1e3:8.2f} ms   {seconds['bfloat16'] / taken:5.2f} times as fast   "
            f"{sizes[name] / sizes['bfloat16']:6.1%} of the bytes"
        )


def measure_prefill(shape: tuple[int, int, int], tokens: int, specs: list[str], clock: Clock) -> None:
    """Print a line for a dense cache and for each codec."""
    heads, kv_heads, channels = shape
    keys, values = random(kv_heads, tokens, channels), random(kv_heads, tokens, channels).flip(2)
    query = random(heads, tokens, channels)

    def attention() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(query, keys, values, is_causal=True, enable_gqa=True)

    def encode(spec: str) -> None:
        KvStore(parse_kv_spec(spec)).append(keys, values)

    encoders: dict[str, Action] = {spec: partial(encode, spec) for spec in specs}
    seconds = best_of({"bfloat16": attention, **encoders}, PREFILL_RUNS, clock)
    print(f"    bfloat16     {seconds['bfloat16'] * 1e3:8.2f} ms")
    for spec in specs:
        both = seconds["bfloat16"] + seconds[spec]
        print(f"    {spec:12} {both * 1e3:8.2f} ms   {seconds['bfloat16'] / both:5.2f} times as fast")


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--prefill", type=int, default=2048)
    parser.add_argument("--kv", nargs="+", default=["int:bits=8", "int:bits=4", "int:bits=2", "fp8"])
    parser.add_argument("--processor", action="store_true", help="seconds of the processor, not of the clock")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.processor else time.perf_counter
    torch.set_num_threads(arguments.threads)
    for name, shape in SHAPES.items():
        for tokens in arguments.tokens:
            print(f"{name}, {tokens} tokens, {arguments.threads} threads")
            measure(shape, tokens, arguments.kv, arguments.runs, clock)
        print(f"{name}, a prompt of {arguments.prefill} tokens")
        measure_prefill(shape, arguments.prefill, arguments.kv, clock)


if __name__ == "__main__":
    main()
