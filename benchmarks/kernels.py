"""Time the native kernels against the memory that bounds them, PyTorch's own matmul, and other libraries' kernels.

    python benchmarks/kernels.py [--shape ROWSxCOLUMNS ...] [--checkpoint FOLDER] [--threads 1 2] [--runs N]
        [--json OUT] [codec spec ...]

Of a checkpoint, the first matrix of each shape is taken, and all of them are multiplied one after the other. Every
figure is the best of several runs, because other work on the machine can only add to a time. Bandwidths and kernels are
timed in turns, so that a busy machine slows both: read the ratios first.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

# Transformers takes any module `kernels` on the path for a package that it can use, and imports it: this one must not
# import Transformers then.
if __name__ == "__main__":
    from products import Stored, contenders
    from timing import best_of

    from tilepress.formats.checkpoint import open_checkpoint
    from tilepress.kernels.cpu.instruction_set import instruction_set

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
MANY_ROWS = 256


@dataclass(frozen=True)
class Figures:
    """One format on one number of threads. Bandwidths in GB/s, weights in 10^9 a second, ratios of times."""

    name: str
    threads: int
    read_bandwidth: float
    write_bandwidth: float
    decode_bandwidth: float | None
    decode_of_write: float | None
    one_row_weights: float
    one_row_bandwidth: float
    one_row_of_read: float
    eight_rows_weights: float
    many_rows_of_dense: float


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="*", default=SPECS, metavar="codec spec")
    parser.add_argument("--shape", nargs="+", default=["8192x8192"], metavar="ROWSxCOLUMNS")
    parser.add_argument("--checkpoint", type=Path, metavar="FOLDER")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    weights = of_checkpoint(options.checkpoint) if options.checkpoint else random_weights(options.shape)
    shapes = ", ".join(f"{weight.shape[0]} x {weight.shape[1]}" for weight in weights)
    print(f"{shapes}; x in bfloat16, instruction set {instruction_set()}")
    print(
        f"{'weights in':26} {'threads':>7} {'decode':>9} {'/write':>6} {'x 1':>9} {'codes':>9} {'/read':>6} "
        f"{'x 8':>9} {f'x {MANY_ROWS} / dense':>13}"
    )
    figures = []
    for store in contenders(options.specs):
        stored = [store(weight) for weight in weights]
        for threads in options.threads:
            torch.set_num_threads(threads)
            figures.append(measure(stored, [weight.bfloat16() for weight in weights], threads, options.runs))
            print(line(figures[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n", encoding="utf-8")


def random_weights(shapes: Sequence[str]) -> list[torch.Tensor]:
    """Gaussian weights in float32 of shapes such as "8192x8192"."""
    generator = torch.Generator().manual_seed(0)
    sizes = [tuple(int(side) for side in shape.split("x")) for shape in shapes]
    return [torch.randn(size, generator=generator).mul_(0.02) for size in sizes]


def of_checkpoint(folder: Path) -> list[torch.Tensor]:
    """The first matrix of each shape, in float32."""
    checkpoint = open_checkpoint(folder)
    first = {info.shape: name for name, info in reversed(checkpoint.infos.items()) if len(info.shape) == 2}
    return [checkpoint.tensor(name).float() for name in first.values()]


@torch.no_grad()
def measure(stored: Sequence[Stored], dense: Sequence[torch.Tensor], threads: int, runs: int) -> Figures:
    """Time one format. `dense` are the weights in bfloat16. Decoding writes to memory that is there already, since the
    system's first touch of new memory takes longer than the kernels do.
    """
    code_bytes = sum(weight.code_bytes for weight in stored)
    # As many bytes as the codes have, and more than caches hold, by a reduction over whole words.
    words = torch.ones(max(code_bytes, 1 << 26) // 4, dtype=torch.int32)
    targets = [torch.empty_like(weight).fill_(1) for weight in dense]
    x = {rows: [torch.randn(rows, weight.shape[1]).bfloat16() for weight in dense] for rows in (1, 8, MANY_ROWS)}

    def multiply(rows: int) -> None:
        for weight, vectors in zip(stored, x[rows], strict=True):
            weight.multiply(vectors)

    def decode() -> None:
        for weight, target in zip(stored, targets, strict=True):
            if weight.decode is not None:
                weight.decode(target)

    seconds = best_of(
        {
            "read": lambda: words.amax(),
            "write": lambda: [target.fill_(1) for target in targets],
            "decode": decode,
            "one": lambda: multiply(1),
            "eight": lambda: multiply(8),
            "many": lambda: multiply(MANY_ROWS),
            "dense": lambda: [torch.nn.functional.linear(*pair) for pair in zip(x[MANY_ROWS], dense, strict=True)],
        },
        runs,
        time.perf_counter,
    )
    weights, size = sum(weight.numel() for weight in dense), sum(target.nbytes for target in targets)
    read, write = words.nbytes / seconds["read"] / 1e9, size / seconds["write"] / 1e9
    decoded = size / seconds["decode"] / 1e9 if stored[0].decode is not None else None
    codes = code_bytes / seconds["one"] / 1e9
    return Figures(
        name=stored[0].name,
        threads=threads,
        read_bandwidth=read,
        write_bandwidth=write,
        decode_bandwidth=decoded,
        decode_of_write=None if decoded is None else decoded / write,
        one_row_weights=weights / seconds["one"] / 1e9,
        one_row_bandwidth=codes,
        one_row_of_read=codes / read,
        eight_rows_weights=weights / seconds["eight"] / 1e9,
        many_rows_of_dense=seconds["dense"] / seconds["many"],
    )


def line(figure: Figures) -> str:
    """One row of the table."""
    decoded = "               -"
    if figure.decode_bandwidth is not None and figure.decode_of_write is not None:
        decoded = f"{figure.decode_bandwidth:4.1f} GB/s {figure.decode_of_write:6.2f}"
    return (
        f"{figure.name:26} {figure.threads:7} {decoded} "
        f"{figure.one_row_weights:4.1f} Gw/s {figure.one_row_bandwidth:4.1f} GB/s {figure.one_row_of_read:6.2f} "
        f"{figure.eight_rows_weights:4.1f} Gw/s {figure.many_rows_of_dense:13.2f}"
    )


if __name__ == "__main__":
    main()
