"""What each kernel takes on each GPU, and the table of it in docs/cuda.md.

python tests/cuda/usage.py    compile everything and write the table anew
"""

from __future__ import annotations

import importlib
import itertools
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from tilepress.kernels.cuda.registry import ARCHITECTURES, CUPY_OPTIONS, OPTIONS, Kernel, kernels
from tilepress.kernels.cuda.source import source_text

DOCUMENT = Path(__file__).parents[2] / "docs" / "cuda.md"
HEAD = f"| kernel | shared bytes | registers on {', '.join(ARCHITECTURES)} |"
Row = tuple[int, tuple[int, ...]]
"""Shared bytes, and registers on each architecture."""


def documented() -> dict[str, Row]:
    """The table of docs/cuda.md, by the kernels' labels."""
    rows = re.findall(r"^\| `([^`]+)` \| (\d+) \| ([\d, ]+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    return {label: (int(shared), tuple(map(int, registers.split(",")))) for label, shared, registers in rows}


def table(rows: dict[str, Row]) -> str:
    """The table in Markdown."""
    lines = [
        f"| `{label}` | {shared} | {', '.join(map(str, registers))} |" for label, (shared, registers) in rows.items()
    ]
    return "\n".join([HEAD, "|---|---|---|", *lines]) + "\n"


def _compiled(every: Iterable[Kernel]) -> dict[str, Row]:
    nvrtc = importlib.import_module("nvrtc")
    rows: dict[str, Row] = {}
    for source, group in itertools.groupby(
        sorted(every, key=lambda kernel: kernel.source), lambda kernel: kernel.source
    ):
        members = list(group)
        expressions = [kernel.expression for kernel in members]
        usages = []
        for architecture in ARCHITECTURES:
            print(f"{source}: {len(members)} kernels for {architecture}", flush=True)
            options = (*OPTIONS, *CUPY_OPTIONS)
            usages.append(nvrtc.compile_kernels(source_text(source), expressions, architecture, options).usage)
        for kernel in members:
            if any(usage[kernel.expression].spill_bytes for usage in usages):
                print(f"{kernel.label} spills", flush=True)
            registers = tuple(usage[kernel.expression].registers for usage in usages)
            rows[kernel.label] = kernel.shared_bytes, registers
    return rows


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    before, _, after = DOCUMENT.read_text().partition(HEAD)
    rest = re.sub(r"\A[^\n]*\n(\|[^\n]*\n)*", "", after)
    DOCUMENT.write_text(before + table(_compiled(kernels())) + rest)
