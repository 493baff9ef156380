"""Sizes as people write them: `500MB`, `4.7 GB`, `123456`."""

from __future__ import annotations

import re

from tilepress.kernels import RecipeError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """Bytes that a size stands for; KB, MB, GB and TB are powers of 1000, KiB, MiB and GiB of 1024.

    Raises:
        RecipeError: text that is no size, or none above zero.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(found[2].upper()) if found else None
    size = int(float(found[1]) * unit) if found and unit else 0
    if size <= 0:
        raise RecipeError(f"{text!r} is no size; write it as 500MB or 5GB")
    return size
