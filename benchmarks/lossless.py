"""Compare `lossless` with ZipNN and zstd on the same weights: size, and speed of one thread.

    python benchmarks/lossless.py [--checkpoint DIR] [--values N] [--json OUT]

Every matrix is compressed alone, by every coder in turn; times are the best of several runs, added up over matrices.
Without a checkpoint, the weights are Gaussian. float16 and float32 are made from the bfloat16 weights by a random
orthogonal matrix on each 64 columns, so that their low bits are as full as a trained model's.
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
    from tilepress.kernels import matmul
    from tilepress.kernels.cpu.instruction_set import instruction_set
    from tilepress.kernels.cpu.lossless import decode_into
    from tilepress.kernels.encoded import bytes_of, dtype_name

RUNS = 5
ROTATED = 64


@dataclass
class Figures:
    """One coder on all matrices of one dtype. Bytes, and seconds of all matrices."""

    coder: str
    dtype: str
    source_bytes: int = 0
    bytes: int = 0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0
    multiply_seconds: float = 0.0


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, metavar="DIR")
    parser.add_argument("--values", type=int, default=1 << 24, help="weights at most, whole matrices from the first on")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    torch.set_num_threads(1)
    peers = [name for name in ("zipnn", "zstandard") if importlib.util.find_spec(name)]
    print(f"instruction set {instruction_set()}, one thread; a part of the size, GB/s of the dense weight")
    print(f"{'dtype':10} {'coder':12} {'size':>8} {'encode':>8} {'decode':>8} {'x 1':>8}")
    figures = []
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        of_dtype = {name: Figures(name, dtype_name(dtype)) for name in ("lossless", *peers)}
        for matrix in matrices(options.checkpoint, options.values, torch.bfloat16):
            weight = matrix if dtype == torch.bfloat16 else rotated(matrix).to(dtype)
            measure_lossless(of_dtype["lossless"], weight)
            if "zipnn" in peers:
                measure_zipnn(of_dtype["zipnn"], weight)
            if "zstandard" in peers:
                measure_zstd(of_dtype["zstandard"], weight)
        for figure in of_dtype.values():
            print(line(figure), flush=True)
        figures += of_dtype.values()
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n", encoding="utf-8")


def rotated(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix in float32, each 64 columns times the same random orthogonal matrix."""
    square = torch.randn(ROTATED, ROTATED, generator=torch.Generator().manual_seed(0))
    columns = matrix.shape[1] // ROTATED * ROTATED
    pieces = matrix[:, :columns].float().reshape(matrix.shape[0], -1, ROTATED) @ torch.linalg.qr(square)[0]
    return pieces.reshape(matrix.shape[0], columns)


def measure_lossless(figures: Figures, weight: torch.Tensor) -> None:
    """Add one matrix. Decoding writes to memory that is there already."""
    encoded = encode(weight, "lossless")
    target = torch.empty_like(weight)
    x = torch.randn(1, weight.shape[1]).to(weight.dtype)
    rows, columns = range(encoded.rows), range(encoded.columns)
    figures.source_bytes += weight.nbytes
    figures.bytes += encoded.size_bytes
    figures.encode_seconds += seconds_of(lambda: encode(weight, "lossless"), RUNS)
    figures.decode_seconds += seconds_of(lambda: decode_into(target, encoded, rows, columns), RUNS)
    figures.multiply_seconds += seconds_of(lambda: matmul(x, encoded), RUNS)
    assert torch.equal(target, weight)


def measure_zipnn(figures: Figures, weight: torch.Tensor) -> None:
    """Add one matrix, as bytes: ZipNN may use them as room, so each run has a copy, made outside of its time."""
    import zipnn

    coder = zipnn.ZipNN(input_format="byte", bytearray_dtype=dtype_name(weight.dtype), threads=1)
    raw = bytes(bytes_of(weight))
    packed = bytes(coder.compress(bytearray(raw)))
    figures.source_bytes += len(raw)
    figures.bytes += len(packed)
    copies = [bytearray(raw) for _ in range(RUNS)]
    figures.encode_seconds += seconds_of(lambda: coder.compress(copies.pop()), RUNS)
    figures.decode_seconds += seconds_of(lambda: coder.decompress(packed), RUNS)
    assert bytes(coder.decompress(packed)) == raw


def measure_zstd(figures: Figures, weight: torch.Tensor) -> None:
    """Add one matrix, at zstd's level 3."""
    import zstandard

    raw = bytes(bytes_of(weight))
    coder, decoder = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()
    packed = coder.compress(raw)
    figures.source_bytes += len(raw)
    figures.bytes += len(packed)
    figures.encode_seconds += seconds_of(lambda: coder.compress(raw), RUNS)
    figures.decode_seconds += seconds_of(lambda: decoder.decompress(packed), RUNS)


def line(figure: Figures) -> str:
    """One row of the table."""
    seconds = (figure.encode_seconds, figure.decode_seconds, figure.multiply_seconds)
    speeds = " ".join(f"{figure.source_bytes / s / 1e9:8.2f}" if s else f"{'':8}" for s in seconds)
    return f"{figure.dtype:10} {figure.coder:12} {figure.bytes / figure.source_bytes:8.2%} {speeds}"


if __name__ == "__main__":
    main()
