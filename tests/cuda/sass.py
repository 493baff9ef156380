"""Machine code of a cubin, by nvdisasm of the wheel nvidia-cuda-nvdisasm."""

from __future__ import annotations

import importlib.util
import re
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


def disassembled(cubin: bytes) -> dict[str, str]:
    """The machine code of each kernel as text, by its name in the cubin."""
    program = _program()
    assert program is not None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([program, "-c", file.name], capture_output=True, text=True, check=True).stdout
    _, *pieces = re.split(r"^\.text\.(\w+):$", text, flags=re.MULTILINE)
    return dict(zip(pieces[::2], pieces[1::2], strict=True))
