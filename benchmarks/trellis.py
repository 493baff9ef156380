"""Time the native kernels of trellis codes against `int` in 4 bits and PyTorch's bfloat16, in one run.

    python benchmarks/trellis.py [--shape ROWSxCOLUMNS ...] [--runs N] [--json OUT] [codec spec ...]

One thread. Codes are random bytes: what they say does not change how long they take. Seconds are those of the
processor, the fewest of several runs taken in turns, since other work on a machine can only add to them; ratios are to
`F.linear` with the dense bfloat16 weight.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

# Transformers takes any module `kernels` on the path for a package that it can use, and imports it: this one must not
# import Transformers then.
if __name__ == "__main__":
    from timing import best_of

    from tilepress.kernels import Encoded, decode, matmul, parse_spec
    from tilepress.kernels.cpu.instruction_set import instruction_set

SPECS = (
    *(f"trellis:bits={bits}" for bits in (2, 3, 4, 5, 8)),
    "trellis:bits=4,rotate=none",
    "int:bits=4,group=64",
)
SHAPES = ("576x576", "1536x576", "2048x2048")
MANY_ROWS = 256


@dataclass(frozen=True)
class Figures:
    """One codec and shape: 10^9 weights a second, and speeds in multiples of the dense bfloat16 product's."""

    codec: str
    shape: str
    decode: float
    one_row: float
    one_row_ratio: float
    eight_rows: float
    many_rows_ratio: float


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="*", default=SPECS, metavar="codec spec")
    parser.add_argument("--shape", nargs="+", default=SHAPES)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"x in bfloat16, instruction set {instruction_set()}; 10^9 weights/s, x: times as fast as dense bfloat16")
    print(f"{'codec':27} {'shape':>10} {'decode':>7} {'x 1':>6} {'x':>6} {'x 8':>6} {f'x {MANY_ROWS}: x':>8}")
    figures = []
    for shape in options.shape:
        rows, columns = map(int, shape.split("x"))
        for spec in options.specs:
            figures.append(measure(random_codes(spec, (rows, columns)), shape, options.runs))
            print(line(figures[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n", encoding="utf-8")


def random_codes(spec: str, shape: tuple[int, int]) -> Encoded:
    """A weight of random codes, and of scales that keep its values near those of a trained one."""
    params = parse_spec(spec)
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for name, part in params.part_specs(shape, torch.bfloat16).items():
        size = math.prod(part.shape) * part.dtype.itemsize
        random = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
        parts[name] = random.view(part.dtype).reshape(part.shape) if name != "scales" else torch.full(part.shape, 1e-3)
    parts["scales"] = parts["scales"].bfloat16()
    return Encoded(params, shape, torch.bfloat16, parts)


@torch.no_grad()
def measure(encoded: Encoded, shape: str, runs: int) -> Figures:
    """Time one weight."""
    dense = decode(encoded)
    one, eight, many = (torch.randn(count, encoded.columns).bfloat16() for count in (1, 8, MANY_ROWS))
    seconds = best_of(
        {
            "decode": lambda: decode(encoded),
            "one": lambda: matmul(one, encoded),
            "dense one": lambda: torch.nn.functional.linear(one, dense),
            "eight": lambda: matmul(eight, encoded),
            "many": lambda: matmul(many, encoded),
            "dense many": lambda: torch.nn.functional.linear(many, dense),
        },
        runs,
    )
    weights = encoded.rows * encoded.columns / 1e9
    return Figures(
        codec=encoded.spec,
        shape=shape,
        decode=weights / seconds["decode"],
        one_row=weights / seconds["one"],
        one_row_ratio=seconds["dense one"] / seconds["one"],
        eight_rows=weights / seconds["eight"],
        many_rows_ratio=seconds["dense many"] / seconds["many"],
    )


def line(figure: Figures) -> str:
    """One row of the table."""
    return (
        f"{figure.codec:27} {figure.shape:>10} {figure.decode:7.3f} {figure.one_row:6.2f} {figure.one_row_ratio:6.2f} "
        f"{figure.eight_rows:6.2f} {figure.many_rows_ratio:8.2f}"
    )


if __name__ == "__main__":
    main()
