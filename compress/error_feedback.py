"""Error feedback: columns still to be coded make up for the error of those that are coded already.

For a weight W [rows, columns] whose inputs have the second moments H = (U^T U)^-1, U upper triangular, columns are
coded from the first to the last. What coding column j leaves, e_j = (w_j - q_j) / U_jj, is taken out of all later
columns, w_k -= e_j U_jk, after which the rest of the problem looks as before. The output error that remains in the
end, trace((W - Q) H (W - Q)^T), is the sum of all e_j^2, so 1 / U_jj^2 is what an error in column j costs.

Source: Frantar et al. 2022, "GPTQ" (columns in order, Cholesky factor of the inverse), which Chee et al. 2023, "QuIP",
show to be the best linear feedback. Updates are collected, 16 and some 128 columns at a time, so that most of the work
is in matrix products; codecs that code several columns at once get them as one strip, for which e solves
e U_strip = w - q.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch

_LAZY = 128
_NEAR = 16


class ColumnQuantizer(Protocol):
    """How a codec codes some columns. It keeps the codes; matrices here are transposed: [columns, rows].

    Attributes:
        step: columns that are coded at once; 1, or a divisor of 16 or 16 itself.
        group: columns that share their scales, a multiple of 16; 0 for all.
    """

    step: int
    group: int

    def begin_group(self, values: torch.Tensor, importance: torch.Tensor) -> None:
        """Choose the scales of the next group.

        Args:
            values: float32 [columns of the group, rows], as earlier columns have left them.
            importance: float32 [columns of the group], what a squared error in each column costs.
        """

    def quantize(self, values: torch.Tensor) -> torch.Tensor:
        """Code the next columns, float32 [step, rows], and return what they decode to."""


def feed_back(weight: torch.Tensor, factor: torch.Tensor, quantizer: ColumnQuantizer) -> None:
    """Code all columns of a matrix in order.

    Args:
        weight: float32 [rows, columns]; it is not changed.
        factor: float32 [columns, columns], the U above.
        quantizer: codes the columns and keeps their codes.
    """
    columns = weight.shape[1]
    group = quantizer.group or columns
    importance = factor.diagonal().pow(-2)
    widths = (_lazy_width(quantizer.group), _NEAR, quantizer.step)
    # Columns that are done turn into their e.
    working = weight.T.contiguous()

    def code(first: int, last: int) -> None:
        if first % group == 0:
            quantizer.begin_group(working[first : first + group], importance[first : first + group])
        strip = working[first:last]
        strip -= quantizer.quantize(strip)
        if last - first == 1:
            strip /= factor[first, first]
        else:
            lower = factor[first:last, first:last].T
            strip.copy_(torch.linalg.solve_triangular(lower, strip, upper=False))

    def visit(begin: int, end: int, level: int) -> None:
        for first in range(begin, end, widths[level]):
            last = min(first + widths[level], end)
            if level + 1 < len(widths):
                visit(first, last, level + 1)
            else:
                code(first, last)
            if last < end:
                working[last:end].addmm_(factor[first:last, last:end].T, working[first:last], alpha=-1)

    visit(0, columns, 0)


def _lazy_width(group: int) -> int:
    """About 128 columns, such that a group never begins with updates still due to it."""
    if group == 0 or group % _LAZY == 0:
        return _LAZY
    return _LAZY // group * group if group < _LAZY else math.gcd(group, _LAZY)
