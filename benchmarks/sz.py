"""Compare `sz` with SZ3 on the same weights and bound: size, and speed of one thread.

    python benchmarks/sz.py [--checkpoint DIR] [--values N] [--bound ABS] [--json OUT]

Every matrix is compressed alone, in float32, by every coder in turn; times are the best of several runs, added up over
matrices. Sizes are also given beside the order-0 entropy of the values rounded to twice the bound, which no coder of
single values can beat. SZ3 (package pysz) is measured with its own choice of a predictor and with none. Without a
checkpoint, the weights are Gaussian.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

# Transformers takes any module `kernels` on the path for a package that it can use, and imports it: this one must not
# import Transformers then.
if __name__ == "__main__":
    from matrices import matrices
    from timing import seconds_of

    from tilepress.compress.codecs import encode
    from tilepress.kernels.cpu.instruction_set import instruction_set
    from tilepress.kernels.cpu.sz import decode_into

RUNS = 5
SZ3 = {"SZ3": "INTERP_LORENZO", "SZ3, no prediction": "NOPRED"}
"""Names in the table, and SZ3's names of its algorithms."""


@dataclass
class Figures:
    """One coder on all matrices. Seconds of all matrices."""

    coder: str
    values: int = 0
    bytes: int = 0
    entropy_bits: float = 0.0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, metavar="DIR")
    parser.add_argument("--values", type=int, default=1 << 22, help="weights at most, whole matrices from the first on")
    parser.add_argument("--bound", type=float, default=1e-3, metavar="ABS")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = {name: Figures(name) for name in ("sz", *(SZ3 if importlib.util.find_spec("pysz") else ()))}
    for weight in matrices(options.checkpoint, options.values, torch.float32):
        entropy = entropy_bits(weight, options.bound)
        for name, figure in figures.items():
            figure.values += weight.numel()
            figure.entropy_bits += entropy
            if name == "sz":
                measure_sz(figure, weight, options.bound)
            else:
                measure_sz3(figure, weight, options.bound, SZ3[name])
    print(f"instruction set {instruction_set()}, one thread; 10^6 weights/s, and times SZ3's speed")
    print(f"{'coder':20} {'bits':>6} {'over entropy':>13} {'encode':>8} {'x':>5} {'decode':>8} {'x':>5}")
    for figure in figures.values():
        print(line(figure, figures.get("SZ3", figure)))
    if options.json is not None:
        options.json.write_text(
            json.dumps([asdict(figure) for figure in figures.values()], indent=2) + "\n", encoding="utf-8"
        )


def entropy_bits(weight: torch.Tensor, bound: float) -> float:
    """Bits of all weights, each as often as its integer occurs."""
    counts = torch.unique(torch.round(weight / (2 * bound)), return_counts=True)[1].double()
    return float((counts * (counts.sum() / counts).log2()).sum())


def measure_sz(figures: Figures, weight: torch.Tensor, bound: float) -> None:
    """Add one matrix. Decoding writes to memory that is there already."""
    spec = f"sz:abs={bound}"
    encoded = encode(weight, spec)
    target = torch.empty_like(weight)
    rows, columns = range(encoded.rows), range(encoded.columns)
    figures.bytes += encoded.size_bytes
    figures.encode_seconds += seconds_of(lambda: encode(weight, spec), RUNS)
    figures.decode_seconds += seconds_of(lambda: decode_into(target, encoded, rows, columns), RUNS)
    assert bool(((target.double() - weight.double()).abs() <= bound).all())


def measure_sz3(figures: Figures, weight: torch.Tensor, bound: float, algorithm: str) -> None:
    """Add one matrix, as SZ3 codes it with one of its algorithms."""
    import pysz

    config = pysz.szConfig()
    config.errorBoundMode = pysz.szErrorBoundMode.ABS
    config.absErrorBound = bound
    config.cmprAlgo = getattr(pysz.szAlgorithm, algorithm)
    array = weight.numpy()
    packed = pysz.sz.compress(array, config)[0]
    figures.bytes += packed.nbytes
    figures.encode_seconds += seconds_of(lambda: pysz.sz.compress(array, config), RUNS)
    figures.decode_seconds += seconds_of(lambda: pysz.sz.decompress(packed, array.dtype, array.shape), RUNS)


def line(figure: Figures, peer: Figures) -> str:
    """One row of the table."""
    bits = 8 * figure.bytes
    return (
        f"{figure.coder:20} {bits / figure.values:6.3f} {bits / figure.entropy_bits - 1:13.2%} "
        f"{figure.values / figure.encode_seconds / 1e6:8.0f} {peer.encode_seconds / figure.encode_seconds:5.1f} "
        f"{figure.values / figure.decode_seconds / 1e6:8.0f} {peer.decode_seconds / figure.decode_seconds:5.1f}"
    )


if __name__ == "__main__":
    main()
