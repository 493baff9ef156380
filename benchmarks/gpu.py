"""Time the CUDA kernels on a GPU against its measured bandwidth, cuBLAS, and what other packages offer.

    python benchmarks/gpu.py [--rows N] [--columns N] [--runs N] [--model CHECKPOINT] [--json OUT] [codec spec ...]

Needs a GPU and CuPy: pip install tilepress[cuda12], or [cuda13]; without them it says what is missing, and ends with
exit code 2. bitsandbytes, torchao and HQQ are timed where they are installed.

Each product is recorded in a CUDA graph, so that Python takes no part, over as many copies of the weight as no cache
holds. All contestants of a line take turns, and the fastest run of each counts. Bandwidth is that of a copy on the
device, bytes read and written.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tilepress.compress.codecs import encode
from tilepress.kernels import BackendError, Encoded, decode, matmul, parse_spec
from tilepress.kernels.attention import attend
from tilepress.kernels.cuda.launch import launcher
from tilepress.kernels.kv_store import KvStore
from tilepress.kernels.layout.kv import parse_kv_spec
from tilepress.kernels.reference.attention import Attention

SPECS = (
    "int:bits=4,group=64",
    "int:bits=3,group=64",
    "int:bits=8,group=64",
    "nf4",
    "fp8",
    "mxfp4",
    "nvfp4",
    "trellis:bits=2",
    "trellis:bits=3",
    "trellis:bits=4",
    "lossless",
    "zfp:rate=8",
    "sz:rel=1e-3",
)
KV_SPECS = ("int:bits=8", "fp8", "int:bits=4", "int:bits=2")
KV_SHAPE = (32, 8, 128)
"""Heads, KV heads and channels, of LLaMA-8B."""
KV_TOKENS = (4096, 16384)
FEW_ROWS = (1, 4, 8)
MANY_ROWS = (16, 64, 256, 2048)
COPY_BYTES = 1 << 30
CACHES = 4
"""Copies of a weight hold so many times what the L2 cache does."""

Action = Callable[[], object]


@dataclass(frozen=True)
class Figures:
    """One action on one weight.

    Attributes:
        contestant: codec spec, or the name of another package or of the dense weight; "kv" and the spec of a cache.
        action: "decode", or "x N" for a product with N rows of x; "kv N" for attention over N tokens.
        microseconds: of the fastest run.
        gigabytes_a_second: of the weight's bytes, and of its dense values where it is decoded.
        of_copy: the same, divided by the bandwidth of a copy.
        of_dense: time of the dense product, or attention, in bfloat16, divided by this one; None of decoding.
        is_graph: whether the action could be recorded in a graph; launches from Python are timed too where not.
    """

    contestant: str
    action: str
    microseconds: float
    gigabytes_a_second: float
    of_copy: float
    of_dense: float | None
    is_graph: bool


@dataclass(frozen=True)
class Speed:
    """Generation by one model, greedy, token by token."""

    weights: str
    tokens_a_second: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print tables, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="*", default=SPECS, metavar="codec spec")
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--columns", type=int, default=8192)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--model", type=Path, metavar="CHECKPOINT", help="measure tokens a second of this one too")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    if lacking := what_is_lacking():
        print(lacking, file=sys.stderr)
        raise SystemExit(2)
    copy = copy_bandwidth(options.runs)
    print(f"{torch.cuda.get_device_name()}, a copy moves {copy:.0f} GB/s; {options.rows} x {options.columns} weights")
    weight = torch.randn(options.rows, options.columns, generator=torch.Generator().manual_seed(0)).mul_(0.02)
    print(HEAD)
    figures: list[Figures] = []
    with torch.no_grad():
        for contestant in contestants(weight, options.specs):
            for each in measure(contestant, weight, copy, options.runs):
                figures.append(each)
                print(line(each), flush=True)
        for each in (one for tokens in KV_TOKENS for one in measure_attention(tokens, copy, options.runs)):
            figures.append(each)
            print(line(each), flush=True)
        speeds = model_speeds(options.model, options.specs, options.tokens, options.runs) if options.model else []
    for speed in speeds:
        print(f"{speed.weights:28} {speed.tokens_a_second:8.1f} tokens/s")
    if options.json is not None:
        found = {
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "copy_gigabytes_a_second": copy,
            "shape": [options.rows, options.columns],
            "kernels": [asdict(each) for each in figures],
            "models": [asdict(each) for each in speeds],
        }
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def what_is_lacking() -> str:
    """What stands in the way of a measurement, in one sentence; empty where nothing does."""
    if not torch.cuda.is_available():
        return "benchmarks/gpu.py needs a GPU, and PyTorch finds none"
    try:
        launcher(torch.device("cuda", torch.cuda.current_device()))
    except BackendError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class Contestant:
    """A weight in some form.

    Attributes:
        name: codec spec or package.
        copies: of the weight, more than caches hold.
        weight_bytes: of one of them.
        multiply: x and a copy -> the product.
        decode: a copy -> the dense weight in bfloat16, where it is timed.
    """

    name: str
    copies: Sequence[Any]
    weight_bytes: int
    multiply: Callable[[torch.Tensor, Any], torch.Tensor]
    decode: Callable[[Any], torch.Tensor] | None = None


def contestants(weight: torch.Tensor, specs: Sequence[str]) -> list[Contestant]:
    """Codecs, and the packages that are installed and take this weight."""
    cache = _cache()
    found = []
    for spec in specs:
        encoded = coded(weight, spec)
        copies = [encoded.to("cuda") for _ in range(copies_beyond(cache, encoded.size_bytes))]
        decoding = partial(decode, dtype=torch.bfloat16)
        found.append(Contestant(encoded.spec, copies, encoded.size_bytes, matmul, decoding))
    from gpu_peers import PEERS

    for peer in PEERS:
        try:
            made = peer(weight)
            copies = [made.make() for _ in range(copies_beyond(cache, made.weight_bytes))]
        except Exception as problem:  # Not installed, or anything that packages raise where they lack a kernel.
            print(f"{peer.__name__}: {type(problem).__name__}: {problem}".splitlines()[0], file=sys.stderr)
            continue
        found.append(Contestant(made.name, copies, made.weight_bytes, made.multiply))
    return found


def coded(weight: torch.Tensor, spec: str) -> Encoded:
    """A weight in bfloat16, encoded; where any bytes are codes, some that took no search, with finite scales.

    Time does not depend on which codes they are.
    """
    params, shape, generator = parse_spec(spec), tuple(weight.shape), torch.Generator().manual_seed(0)
    specs = params.part_specs(shape, torch.bfloat16)
    if "codes" not in specs:
        return encode(weight.bfloat16(), params)
    parts = {}
    for name, part in specs.items():
        if part.dtype != torch.uint8:
            parts[name] = (torch.rand(part.shape, generator=generator) * 1e-3).to(part.dtype)
        else:
            least, most = (0, 256) if name != "scales" else (56, 64)
            parts[name] = torch.randint(least, most, part.shape, dtype=torch.uint8, generator=generator)
    return Encoded(params, shape, torch.bfloat16, parts)


def copies_beyond(cache_bytes: int, weight_bytes: int) -> int:
    """How many copies of a weight no cache holds."""
    return max(2, -(-CACHES * cache_bytes // max(1, weight_bytes)))


def measure(contestant: Contestant, weight: torch.Tensor, copy: float, runs: int) -> list[Figures]:
    """Time decoding, and products against those with the dense weight in turns."""
    dense = weight.bfloat16().cuda()
    dense_copies = [dense.clone() for _ in range(copies_beyond(_cache(), dense.nbytes))]
    found = []
    if contestant.decode is not None:
        decoded = [partial(contestant.decode, each) for each in contestant.copies]
        (seconds,), is_graph = times([decoded], runs)
        moved = contestant.weight_bytes + dense.nbytes
        found.append(figures(contestant.name, "decode", seconds, moved, copy, None, is_graph))
    for count in (*FEW_ROWS, *MANY_ROWS):
        x = torch.randn(count, weight.shape[1], device="cuda", dtype=torch.bfloat16)
        own = [partial(contestant.multiply, x, each) for each in contestant.copies]
        other = [partial(torch.nn.functional.linear, x, each) for each in dense_copies]
        (seconds, of_dense), is_graph = times([own, other], runs)
        found.append(figures(contestant.name, f"x {count}", seconds, contestant.weight_bytes, copy, of_dense, is_graph))
    return found


def measure_attention(tokens: int, copy: float, runs: int) -> list[Figures]:
    """Time attention of one query over compressed caches, each against the dense one in turns."""
    heads, kv_heads, channels = KV_SHAPE
    keys, values = (torch.randn(1, kv_heads, tokens, channels, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    query = torch.randn(1, heads, 1, channels, device="cuda", dtype=torch.bfloat16)
    attention = Attention(channels**-0.5)
    dense = [
        partial(torch.nn.functional.scaled_dot_product_attention, query, *states, enable_gqa=True)
        for states in [(keys.clone(), values.clone()) for _ in range(copies_beyond(_cache(), 2 * keys.nbytes))]
    ]
    found = []
    for spec in KV_SPECS:
        stores = [KvStore(parse_kv_spec(spec))]
        stores[0].append(keys, values)
        size = stores[0].nbytes
        while len(stores) < copies_beyond(_cache(), size):
            stores.append(KvStore(parse_kv_spec(spec)))
            stores[-1].append(keys, values)
        own = [partial(attend, query, store, attention) for store in stores]
        (seconds, of_dense), is_graph = times([own, dense], runs)
        found.append(figures(f"kv {spec}", f"kv {tokens}", seconds, size, copy, of_dense, is_graph))
    return found


def figures(
    contestant: str, action: str, seconds: float, moved: int, copy: float, of_dense: float | None, is_graph: bool
) -> Figures:
    """From seconds and bytes to what is printed."""
    bandwidth = moved / seconds / 1e9
    return Figures(
        contestant=contestant,
        action=action,
        microseconds=seconds * 1e6,
        gigabytes_a_second=bandwidth,
        of_copy=bandwidth / copy,
        of_dense=None if of_dense is None else of_dense / seconds,
        is_graph=is_graph,
    )


HEAD = f"{'contestant':28} {'action':>8} {'time':>12} {'moves':>12} {'/copy':>6} {'dense/this':>10}"


def line(figure: Figures) -> str:
    """One row of the table."""
    of_dense = "" if figure.of_dense is None else f"{figure.of_dense:10.2f}"
    note = "" if figure.is_graph else "  launched from Python"
    return (
        f"{figure.contestant:28} {figure.action:>8} {figure.microseconds:9.1f} us "
        f"{figure.gigabytes_a_second:7.0f} GB/s {figure.of_copy:6.2f} {of_dense:>10}{note}"
    ).rstrip()


def times(groups: Sequence[Sequence[Action]], runs: int) -> tuple[list[float], bool]:
    """Seconds of one action of each group, best of `runs`, groups in turns; and whether all could be recorded."""
    replays, is_graph = [], True
    for actions in groups:
        for action in actions:
            action()
        replay = recorded(actions)
        is_graph = is_graph and replay is not None
        replays.append(replay or (lambda actions=actions: [action() for action in actions]))
    best = [float("inf")] * len(groups)
    for _ in range(runs):
        for number, replay in enumerate(replays):
            best[number] = min(best[number], seconds_of(replay) / len(groups[number]))
    return best, is_graph


def recorded(actions: Sequence[Action]) -> Action | None:
    """All actions, one after the other, as a graph; None where one of them can't be recorded."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for action in actions:
                action()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return graph.replay


def seconds_of(action: Action) -> float:
    """Between two events around an action."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    action()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def copy_bandwidth(runs: int) -> float:
    """GB/s of a copy within the GPU's memory, bytes read and written."""
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    (seconds,), _ = times([[lambda: target.copy_(source)]], runs)
    return 2 * COPY_BYTES / seconds / 1e9


def model_speeds(checkpoint: Path, specs: Sequence[str], tokens: int, runs: int) -> list[Speed]:
    """Of a checkpoint in bfloat16 and compressed; models take turns."""
    from timing import seconds_a_token
    from transformers import AutoModelForCausalLM

    import tilepress

    with tempfile.TemporaryDirectory() as folder:
        models = {"bfloat16": AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).cuda()}
        for number, spec in enumerate(specs):
            target = Path(folder, str(number))
            tilepress.compress(checkpoint, target, spec)
            models[spec] = tilepress.load(target, device_map="cuda")
        best = dict.fromkeys(models, 0.0)
        for _ in range(runs):
            for name, model in models.items():
                best[name] = max(best[name], 1 / seconds_a_token(model, tokens, _clock))
    return [Speed(name, speed) for name, speed in best.items()]


def _clock() -> float:
    """Seconds, once the GPU has done what it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


def _cache() -> int:
    size: int = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    return size


if __name__ == "__main__":
    main()
