"""Time zfp streams of panels against zfpy, in the same run.

    python benchmarks/zfp.py [--checkpoint FOLDER] [--threads 1 2] [--runs N] [--json OUT] [mode ...]

A mode is the options of the codec spec, such as `rate=8`. Without a checkpoint, the matrices are normal random numbers
of SmolLM2's shapes. zfpy has one thread. Both take and give float32 panels of 16 rows in memory that is there already;
the fastest of several runs counts, taken in turns, since other work on a machine can only add to a time. Of one thread,
times are of its processor.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import zfpy

# Transformers takes any module `kernels` on the path for a package that it can use, and imports it: this one must not
# import Transformers then.
if __name__ == "__main__":
    from safetensors import safe_open
    from timing import best_of

    from tilepress.kernels import Encoded, parse_spec
    from tilepress.kernels.cpu.instruction_set import instruction_set
    from tilepress.kernels.cpu.zfp import decode_into, encode_panels, mode_of
    from tilepress.kernels.layout.zfp import ZfpParams

MODES = ("rate=8", "rate=4", "tolerance=1e-3", "precision=12", "reversible=true")
SHAPES = ((576, 576), (192, 576), (1536, 576), (576, 1536))
MOST_VALUES = 1 << 22
PANEL_ROWS = 16


@dataclass(frozen=True)
class Figures:
    """One mode on one number of threads. Speeds in 10^6 weights a second, ratios to zfpy's speed."""

    mode: str
    threads: int
    bits_per_weight: float
    zfpy_decode: float
    decode: float
    decode_ratio: float
    decode_bfloat16_ratio: float
    zfpy_encode: float
    encode: float
    encode_ratio: float


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modes", nargs="*", default=MODES, metavar="mode")
    parser.add_argument("--checkpoint", type=Path, metavar="FOLDER")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    weights = matrices(options.checkpoint)
    values = sum(weight.numel() for weight in weights)
    source = options.checkpoint.name if options.checkpoint else "random numbers"
    print(f"{values / 1e6:.1f} million weights in {len(weights)} matrices of {source}, {instruction_set()}")
    print(f"{'mode':17} {'threads':>7} {'bits':>5} {'decode: zfpy':>13} {'here':>6} {'x':>5} {'bf16 x':>6}", end=" ")
    print(f"{'encode: zfpy':>13} {'here':>6} {'x':>5}   (10^6 weights/s)")
    figures = []
    for mode in options.modes:
        for threads in options.threads:
            torch.set_num_threads(threads)
            figures.append(measure(weights, parse_spec(f"zfp:{mode}"), mode, threads, options.runs))
            print(line(figures[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n", encoding="utf-8")


def matrices(checkpoint: Path | None) -> list[torch.Tensor]:
    """Different shapes of matrices in float32, of at most `MOST_VALUES` values together."""
    if checkpoint is None:
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(shape, generator=generator).mul_(0.05) for shape in SHAPES]
    chosen: dict[tuple[int, ...], torch.Tensor] = {}
    for shard in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(shard, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                shape = tuple(file.get_slice(name).get_shape())
                if len(shape) == 2 and shape not in chosen:
                    rows = min(shape[0], MOST_VALUES // 4 // shape[1] // PANEL_ROWS * PANEL_ROWS)
                    chosen[shape] = file.get_slice(name)[:rows].float().contiguous()
    return list(chosen.values())


def measure(weights: list[torch.Tensor], params: ZfpParams, mode: str, threads: int, runs: int) -> Figures:
    """Time one mode over all matrices."""
    encoded = [encoded_by_hand(weight, params) for weight in weights]
    name, value = mode_of(params)
    arguments = {} if name == "reversible" else {name: int(value) if name == "precision" else value}
    panels = [
        weight[first : first + PANEL_ROWS].numpy() for weight in weights for first in range(0, len(weight), PANEL_ROWS)
    ]
    streams = [(zfpy.compress_numpy(panel, write_header=False, **arguments), panel.shape) for panel in panels]
    dense = [torch.zeros_like(weight) for weight in weights]
    half = [torch.zeros_like(weight, dtype=torch.bfloat16) for weight in weights]
    target = np.zeros((PANEL_ROWS, max(weight.shape[1] for weight in weights)), np.float32)

    def zfpy_decode() -> None:
        for stream, (height, width) in streams:
            out = target.reshape(-1)[: height * width].reshape(height, width)
            zfpy._decompress(stream, zfpy.type_float, (height, width), out=out, **arguments)

    def decode_all(targets: list[torch.Tensor]) -> None:
        for tensor, values in zip(encoded, targets, strict=True):
            decode_into(values, tensor, range(tensor.rows), range(tensor.columns))

    seconds = best_of(
        {
            "zfpy decode": zfpy_decode,
            "decode": lambda: decode_all(dense),
            "decode bfloat16": lambda: decode_all(half),
            "zfpy encode": lambda: [zfpy.compress_numpy(panel, write_header=False, **arguments) for panel in panels],
            "encode": lambda: [encode_panels(weight, params) for weight in weights],
        },
        runs,
        time.process_time if threads == 1 else time.perf_counter,
    )
    values = sum(weight.numel() for weight in weights)
    return Figures(
        mode=mode,
        threads=threads,
        bits_per_weight=sum(tensor.size_bytes for tensor in encoded) * 8 / values,
        zfpy_decode=values / seconds["zfpy decode"] / 1e6,
        decode=values / seconds["decode"] / 1e6,
        decode_ratio=seconds["zfpy decode"] / seconds["decode"],
        decode_bfloat16_ratio=seconds["zfpy decode"] / seconds["decode bfloat16"],
        zfpy_encode=values / seconds["zfpy encode"] / 1e6,
        encode=values / seconds["encode"] / 1e6,
        encode_ratio=seconds["zfpy encode"] / seconds["encode"],
    )


def encoded_by_hand(weight: torch.Tensor, params: ZfpParams) -> Encoded:
    """The parts as the mode itself gives them: a tolerance is not checked."""
    payload, sizes = encode_panels(weight, params)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    return Encoded(params, tuple(weight.shape), torch.float32, {"payload": payload.clone(), "offsets": offsets})


def line(figure: Figures) -> str:
    """One row of the table."""
    return (
        f"{figure.mode:17} {figure.threads:7} {figure.bits_per_weight:5.1f} {figure.zfpy_decode:13.0f} "
        f"{figure.decode:6.0f} {figure.decode_ratio:5.1f} {figure.decode_bfloat16_ratio:6.1f} "
        f"{figure.zfpy_encode:13.0f} {figure.encode:6.0f} {figure.encode_ratio:5.1f}"
    )


if __name__ == "__main__":
    main()
