"""How far decoded values are from the true ones, in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch


def difference(truth: torch.Tensor, found: torch.Tensor) -> tuple[float, float, float]:
    """Largest magnitude and sum of squares of the differences, and sum of squares of the true values.

    Values with the same bits, and pairs of NaN, count as equal; another difference that is NaN counts in the sum only.

    Args:
        truth: float32, float16 or bfloat16 of any shape.
        found: of the same shape and dtype.
    """
    true, gap = _float64(truth), _float64(found)
    same = (gap == true) | (np.isnan(gap) & np.isnan(true))
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf, which `same` covers
        gap = np.where(same, 0.0, gap - true)
    largest = np.fmax.reduce(np.abs(gap), axis=None, initial=0.0)
    return float(largest), float(np.square(gap).sum()), float(np.square(true).sum())


def _float64(values: torch.Tensor) -> npt.NDArray[np.float64]:
    return values.double().numpy()
