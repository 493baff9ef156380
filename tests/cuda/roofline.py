"""How much of a GPU's bandwidth the products of a few rows of x allow, counted from their machine code.

python tests/cuda/roofline.py    compile, count, and write the table of docs/cuda.md anew

Of the loop over a warp's codes, all ways round that multiply every tile are looked at: on the shortest one no group of
columns ends, on the longest one a group ends in every tile. A lane has 8 weights of a tile, so that an instruction
takes an eighth of an issue slot a weight and tile. What is not counted is waiting: warps enough can hide it.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from tilepress.kernels.cpu.tiles import TileCode
from tilepress.kernels.cuda import registry
from tilepress.kernels.cuda.registry import CUPY_OPTIONS, OPTIONS, Kernel
from tilepress.kernels.cuda.source import source_text

DOCUMENT = Path(__file__).parents[2] / "docs" / "cuda.md"
LANE_WEIGHTS = 8
"""Of a tile."""

Counts = Counter[str]


@dataclass(frozen=True)
class Gpu:
    """What the maker says: multiprocessors, their clock when boosted in GHz, and bandwidth in GB/s."""

    name: str
    architecture: str
    multiprocessors: int
    clock: float
    bandwidth: float

    @property
    def lanes(self) -> float:
        """Issue slots in 10^9 a second: four warps of 32 lanes a cycle and multiprocessor."""
        return self.multiprocessors * 4 * 32 * self.clock


GPUS = (Gpu("H100", "sm_90", 132, 1.755, 3352), Gpu("RTX 4090", "sm_89", 128, 2.52, 1008))

PIPES = {
    "logic": r"(PRMT|SHF|LOP3|PLOP3|ISETP|IADD3|VIADD\w*|SEL|LEA|IMNMX|I2F|F2FP|F2F)\b",
    "multiplication": r"(IMAD|IDP|HFMA2|HADD2|HMUL2)\b",
}
"""Two pipes that take a warp every second cycle: integer logic and addition; integer products (Nsight Compute's
documentation, "Pipelines"; CUDA C++ Programming Guide, "Arithmetic Instructions"). Packed arithmetic is counted with
the second, although some GPUs have another pipe for it."""


class Product(NamedTuple):
    """A kernel, what stands for it in the table, bytes that it reads a weight, and tiles of a group of columns."""

    name: str
    kernel: Kernel
    weight_bytes: float
    group_tiles: float


class Loop(NamedTuple):
    """What a warp issues for a stage of tiles: where no group ends, and where one ends in each tile."""

    shortest: Counts
    longest: Counts
    tiles: int

    def a_weight(self, group_tiles: float, pattern: str = "") -> float:
        """Instructions that match, a weight and lane."""
        few, many = (
            sum(count for name, count in counts.items() if re.match(pattern, name))
            for counts in (self.shortest, self.longest)
        )
        return (few + (many - few) / group_tiles) / self.tiles / LANE_WEIGHTS


def products() -> list[Product]:
    """Those of the table, for x in bfloat16."""
    found = [
        Product(f"`trellis:bits={bits}`, {rows}", registry.trellis_multiply(bits, 16, count), bits / 8, float("inf"))
        for bits, rows, count in ((2, "1 to 4 rows", 1), (3, "1 to 4 rows", 1), (4, "1 to 4 rows", 1), (4, "5 to 8", 8))
    ]
    codes = {
        "int:bits=3": TileCode("int", 3, 64),
        "int:bits=4": TileCode("int", 4, 64),
        "int:bits=8": TileCode("int", 8, 64),
        "nf4": TileCode("nf4", 4, 64),
        "fp8": TileCode("e4m3", 8, 128),
        "mxfp4": TileCode("e2m1", 4, 32, "e8m0"),
        "nvfp4": TileCode("e2m1", 4, 16, "e4m3"),
    }
    for name, code in codes.items():
        scale_bytes = 2 if code.scale_format == "bfloat16" else 1
        kernel = registry.tiles_multiply(code, torch.bfloat16)
        label = f"`{name}`, 1 to 8, groups of {code.group}"
        found.append(Product(label, kernel, code.bits / 8 + scale_bytes / code.group, code.group / 16))
    return found


def loop_of(sass: str, tiles: int) -> Loop:
    """The innermost loop with tensor-core instructions of the machine code of one kernel."""
    instructions, targets = _parsed(sass)
    jumps = {
        index: targets[found[2]]
        for index, text in enumerate(instructions)
        if (found := re.match(r"(@\S+ )?BRA\S* `\((\.L\w+)\)", text))
    }
    loops = [
        (index - head, head, index)
        for index, head in jumps.items()
        if head <= index and any("HMMA" in text for text in instructions[head:index])
    ]
    _, head, end = min(loops)
    shortest, longest = (_way(instructions, jumps, head, end, better) for better in (min, max))
    if _matrix(shortest) < tiles or _matrix(shortest) % tiles or _matrix(shortest) != _matrix(longest):
        raise ValueError(f"the loop has {_matrix(shortest)} matrix products, which are not those of {tiles} tiles")
    return Loop(shortest, longest, tiles)


def _parsed(sass: str) -> tuple[list[str], dict[str, int]]:
    """Instructions without addresses, and the places of labels among them."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    for line in sass.splitlines():
        if label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = len(instructions)
        elif code := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.+?)\s*;", line):
            instructions.append(code[1])
    return instructions, labels


def _way(
    instructions: list[str], jumps: dict[int, int], head: int, end: int, better: Callable[[list[int]], int]
) -> Counts:
    """What is issued on the shortest or longest way from the head of a loop to its end, of those that multiply most."""
    best: dict[int, Counts] = {head: Counter()}
    for index in range(head, end + 1):
        if index not in best:
            continue
        text = instructions[index]
        counts = best[index] + Counter([re.sub(r"@\S+ +", "", text).split()[0]])
        if index == end:
            return counts
        after = [jumps[index]] if index in jumps else []
        if index not in jumps or text.startswith("@"):
            after.append(index + 1)
        for place in after:
            if not index < place <= end:
                continue
            known = best.get(place)
            if known is not None and _matrix(known) == _matrix(counts):
                is_better = better([known.total(), counts.total()]) == counts.total()
            else:
                is_better = known is None or _matrix(known) < _matrix(counts)
            if is_better:
                best[place] = counts
    raise ValueError("no way leads round the loop")


def _matrix(counts: Counts) -> int:
    return sum(count for name, count in counts.items() if name.startswith("HMMA"))


class Bound(NamedTuple):
    """Issue slots a weight, and the shares of a GPU's bandwidth that they, and the pipes, allow; at most 1."""

    slots: float
    by_issue: float
    by_pipes: float


def bound(product: Product, loop: Loop, gpu: Gpu) -> Bound:
    """Of one product on one GPU."""
    slots = loop.a_weight(product.group_tiles)
    busiest = max(loop.a_weight(product.group_tiles, pattern) for pattern in PIPES.values())
    shares = [min(1.0, gpu.lanes * product.weight_bytes / count / gpu.bandwidth) for count in (slots, 2 * busiest)]
    return Bound(slots, *shares)


def bounds(product: Product) -> list[Bound]:
    """On each GPU."""
    # Neighbours, of a package in the tests and of none in a script.
    folder = f"{__package__}." if __package__ else ""
    nvrtc, sass = (importlib.import_module(folder + name) for name in ("nvrtc", "sass"))
    kernel, found = product.kernel, []
    is_trellis = kernel.template.startswith("trellis")
    bits = int(re.findall(r"\d+", kernel.arguments[0])[0]) if is_trellis else 0
    tiles = registry.trellis_stage_tiles(bits) if is_trellis else registry.STAGE_TILES
    for gpu in GPUS:
        text, options = source_text(kernel.source), (*OPTIONS, *CUPY_OPTIONS)
        cubin = nvrtc.compile_kernels(text, [kernel.expression], gpu.architecture, options).cubin
        (code,) = sass.disassembled(cubin).values()
        found.append(bound(product, loop_of(code, tiles), gpu))
    return found


HEAD = (
    "| product | bytes a weight | issue slots a weight, "
    + " | ".join([f"{GPUS[0].name} and {GPUS[1].name}", *(f"{gpu.name}: by issue, by pipes" for gpu in GPUS)])
    + " |"
)


def line(product: Product, of_gpus: list[Bound]) -> str:
    """A row of the table in Markdown."""
    slots = ", ".join(f"{one.slots:.2f}" for one in of_gpus)
    shares = " | ".join(f"{one.by_issue:.0%}, {one.by_pipes:.0%}".replace("%", " %") for one in of_gpus)
    return f"| {product.name} | {product.weight_bytes:.3f} | {slots} | {shares} |"


def table() -> str:
    """The table in Markdown."""
    return "\n".join([HEAD, "|---|---|---|---|---|", *(line(one, bounds(one)) for one in products())]) + "\n"


if __name__ == "__main__":
    new = table()
    print(new)
    before, _, after = DOCUMENT.read_text().partition(HEAD)
    DOCUMENT.write_text(before + new + re.sub(r"\A[^\n]*\n(\|[^\n]*\n)*", "", after))
