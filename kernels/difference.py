"""How far the values that parts decode to are from those that were encoded: natively, else by the reference."""

from __future__ import annotations

import torch

from tilepress.kernels.reference.difference import difference as _reference

try:
    from tilepress.kernels.cpu.difference import difference as _native
except ImportError:
    _measure = _reference
else:
    _measure = _native


def difference(truth: torch.Tensor, found: torch.Tensor) -> tuple[float, float, float]:
    """Largest magnitude and sum of squares of the differences, and sum of squares of the true values, in float64.

    Values with the same bits, and pairs of NaN, count as equal; another difference that is NaN counts in the sum only.

    Args:
        truth: float32, float16 or bfloat16 of any shape, in main memory.
        found: of the same shape and dtype.
    """
    return _measure(truth.contiguous(), found.contiguous())
