"""The instruction set whose kernels run in this process."""

from __future__ import annotations

import os
from functools import cache

from tilepress.kernels import _native
from tilepress.kernels.errors import BackendError


@cache
def instruction_set() -> str:
    """The environment variable TILEPRESS_CPU, or the best that this machine has.

    Raises:
        BackendError: one that this machine doesn't have.
    """
    supported = _native.instruction_sets()
    wanted = os.environ.get("TILEPRESS_CPU") or supported[-1]
    if wanted not in supported:
        raise BackendError(f"TILEPRESS_CPU={wanted}, but this machine can run {', '.join(supported)}")
    return wanted
