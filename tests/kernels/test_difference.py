"""How far decoded values are from the true ones."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

import pytest
import torch

from tilepress.kernels.difference import difference

native = importlib.import_module("tilepress.kernels._native")
reference = importlib.import_module("tilepress.kernels.reference.difference").difference
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", ((0,), (1,), (16,), (5, 7), (33, 100)), ids=str)
def test_the_native_pass_finds_what_the_reference_finds(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    truth = torch.randn(shape).to(dtype)
    found = (truth + torch.randn(shape) * 1e-2).to(dtype)
    for a, b in ((truth, found), (truth, truth), (truth.t(), found.t())):
        largest, squares, energy = difference(a, b)
        wanted = reference(a, b)
        assert largest == wanted[0]
        assert (squares, energy) == pytest.approx(wanted[1:], rel=1e-12)


@pytest.mark.parametrize("measure", (difference, reference), ids=("native", "reference"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_that_are_no_numbers(measure: Callable[..., tuple[float, float, float]], dtype: torch.dtype) -> None:
    same = torch.tensor([NAN, INFINITE, -INFINITE, 0.0], dtype=dtype)
    assert measure(same, same)[:2] == (0.0, 0.0)
    ones = torch.ones(4, dtype=dtype)
    largest, squares, _ = measure(ones, torch.tensor([NAN, 3.0, 1.0, 1.0], dtype=dtype))
    assert largest == 2.0
    assert math.isnan(squares)
    assert measure(ones, torch.tensor([1.0, INFINITE, 1.0, 1.0], dtype=dtype))[:2] == (INFINITE, INFINITE)


def test_tensors_of_different_size_are_refused() -> None:
    values = torch.ones(4)
    with pytest.raises(ValueError, match="different size"):
        native.difference((values.data_ptr(), 16), (values.data_ptr(), 12), "float32")
    with pytest.raises(ValueError, match="different size"):
        native.difference((0, -1), (0, -1), "float32")
