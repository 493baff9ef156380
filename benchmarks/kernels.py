"""Time the native kernels against the memory that bounds them and against PyTorch's own matmul.

    python benchmarks/kernels.py [--rows N] [--columns N] [--threads 1 2] [--json OUT] [codec spec ...]

Every figure is the best of several runs, because other work on the machine can only add to a time. Bandwidths and
kernels are timed in turns, so that a busy machine slows both: read the ratios first.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

# Transformers takes any module `kernels` on the path for a package that it can use, and imports it: this one must not
# import Transformers then.
if __name__ == "__main__":
    from timing import best_of

    from tilepress.compress.codecs import encode
    from tilepress.kernels import Encoded, matmul
    from tilepress.kernels.cpu.instruction_set import instruction_set
    from tilepress.kernels.cpu.tiles import decode_into

SPECS = (
    "int:bits=4,group=64",
    "int:bits=3,group=64",
    "int:bits=8,group=64",
    "nf4",
    "fp8",
    "fp8:format=e5m2",
    "mxfp4",
    "nvfp4",
)
RUNS = 7
MANY_ROWS = 256


@dataclass(frozen=True)
class Figures:
    """One codec on one number of threads. Bandwidths in GB/s, weights in 10^9 a second, ratios of times."""

    codec: str
    threads: int
    read_bandwidth: float
    write_bandwidth: float
    decode_bandwidth: float
    decode_of_write: float
    one_row_weights: float
    one_row_bandwidth: float
    one_row_of_read: float
    eight_rows_weights: float
    many_rows_of_dense: float


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="*", default=SPECS, metavar="codec spec")
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--columns", type=int, default=8192)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    weight = torch.randn(options.rows, options.columns, generator=torch.Generator().manual_seed(0)).mul_(0.02)
    print(f"{options.rows} x {options.columns} weights, x in bfloat16, instruction set {instruction_set()}")
    print(
        f"{'codec':22} {'threads':>7} {'decode':>9} {'/write':>6} {'x 1':>9} {'codes':>9} {'/read':>6} "
        f"{'x 8':>9} {f'x {MANY_ROWS} / dense':>13}"
    )
    figures = []
    for spec in options.specs:
        encoded = encode(weight, spec)
        for threads in options.threads:
            torch.set_num_threads(threads)
            figures.append(measure(encoded, weight.bfloat16(), threads))
            print(line(figures[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def measure(encoded: Encoded, dense: torch.Tensor, threads: int) -> Figures:
    """Time one codec. `dense` is the weight in bfloat16. Decoding writes to memory that is there already, since the
    system's first touch of new memory takes longer than the kernels do.
    """
    few, eight, many = (torch.randn(count, encoded.columns).bfloat16() for count in (1, 8, MANY_ROWS))
    stored = encoded.parts["codes"]
    # As many bytes as the codes have, and more than caches hold, by a reduction over whole words.
    words = torch.ones(max(stored.nbytes, 1 << 26) // 4, dtype=torch.int32)
    target = torch.empty_like(dense).fill_(1)
    code = importlib.import_module(f"tilepress.kernels.cpu.{encoded.codec}").code_of(encoded)
    rows, columns = range(encoded.rows), range(encoded.columns)
    seconds = best_of(
        {
            "read": lambda: words.amax(),
            "write": lambda: target.fill_(1),
            "decode": lambda: decode_into(target, encoded, code, rows, columns),
            "one": lambda: matmul(few, encoded),
            "eight": lambda: matmul(eight, encoded),
            "many": lambda: matmul(many, encoded),
            "dense": lambda: torch.nn.functional.linear(many, dense),
        },
        RUNS,
        time.perf_counter,
    )
    weights = encoded.rows * encoded.columns
    read, write = words.nbytes / seconds["read"] / 1e9, target.nbytes / seconds["write"] / 1e9
    decoded = target.nbytes / seconds["decode"] / 1e9
    codes = stored.nbytes / seconds["one"] / 1e9
    return Figures(
        codec=encoded.spec,
        threads=threads,
        read_bandwidth=read,
        write_bandwidth=write,
        decode_bandwidth=decoded,
        decode_of_write=decoded / write,
        one_row_weights=weights / seconds["one"] / 1e9,
        one_row_bandwidth=codes,
        one_row_of_read=codes / read,
        eight_rows_weights=weights / seconds["eight"] / 1e9,
        many_rows_of_dense=seconds["dense"] / seconds["many"],
    )


def line(figure: Figures) -> str:
    """One row of the table."""
    return (
        f"{figure.codec:22} {figure.threads:7} {figure.decode_bandwidth:4.1f} GB/s {figure.decode_of_write:6.2f} "
        f"{figure.one_row_weights:4.1f} Gw/s {figure.one_row_bandwidth:4.1f} GB/s {figure.one_row_of_read:6.2f} "
        f"{figure.eight_rows_weights:4.1f} Gw/s {figure.many_rows_of_dense:13.2f}"
    )


if __name__ == "__main__":
    main()
