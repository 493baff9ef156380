"""Machine code of a cubin, by nvdisasm of the wheel nvidia-cuda-nvdisasm."""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
from pathlib import Path


def _program() -> Path | None:
    package = importlib.util.find_spec("nvidia")
    for folder in package.submodule_search_locations or () if package else ():
        for file in sorted(Path(folder).glob("*/bin/nvdisasm")):
            return file
    return None


def why_not() -> str:
    """What is missing; empty where nothing is."""
    return "" if _program() else "nvdisasm is not installed: pip install nvidia-cuda-nvdisasm"


def disassembled(cubin: bytes) -> str:
    """The machine code as text."""
    program = _program()
    assert program is not None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([program, "-c", file.name], capture_output=True, text=True, check=True).stdout
