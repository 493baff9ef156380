"""The text of a CUDA source with everything that it includes in its place, as NVRTC gets it.

CuPy's cache of compiled kernels does not look at included files; here they are part of what it looks at.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
EMULATOR = "emulator.hpp"
"""What the emulator in the tests includes; NVRTC skips it."""

_INCLUDE = re.compile(r'#include "([^"]+)"\n')


@cache
def source_text(name: str) -> str:
    """The text of `kernels/cuda/<name>`, each file that it includes once; lines keep their names and numbers."""
    return _with_includes(name, set())


def _with_includes(name: str, known: set[str]) -> str:
    if name in known:
        return ""
    known.add(name)
    pieces, place, text = [f'#line 1 "{name}"\n'], 0, (FOLDER / name).read_text()
    for include in _INCLUDE.finditer(text):
        if include[1] == EMULATOR:
            continue
        line = text.count("\n", 0, include.end()) + 1
        pieces += [text[place : include.start()], _with_includes(include[1], known), f'#line {line} "{name}"\n']
        place = include.end()
    return "".join([*pieces, text[place:]]).replace("#pragma once\n", "\n")
