"""The two operators of codecs whose panels decode alone, defined alike for all of them.

    tilepress::NAME_decode(weight, width, row_first, row_last, column_first, column_last, dtype) -> dense values
    tilepress::NAME_matmul(x, tensors, bias, constants, row_first, row_last) -> x @ weight[rows].T + bias

A weight is described by tensors, its parts, then by constants, such as its height; its width is the last of them where
values are decoded, and that of x in a product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import torch

Range = tuple[int, int]
Weight = TypeVar("Weight")

# PyTorch's own types leave calls of torch.library untyped.
LIBRARY: Any = cast(Any, torch.library).Library("tilepress", "FRAGMENT")


class Described(NamedTuple):
    """A weight as operators take it.

    Attributes:
        tensors: its parts, in the order of the schema; those that are missing are None.
        constants: in the order of the schema.
        width: its columns.
    """

    tensors: tuple[torch.Tensor | None, ...]
    constants: tuple[Any, ...]
    width: int

    def build(self, weight: Callable[..., Weight]) -> Weight:
        """`weight` of all that, as for `Operators.implement`."""
        return weight(*self.tensors, *self.constants, self.width)


class Operators:
    """The operators of one codec, with their fakes; devices are added by `implement`.

    Args:
        name: as in NAME_decode.
        tensors: of the schema, as in "Tensor payload".
        constants: of the schema, as in "SymInt height".
    """

    def __init__(self, name: str, tensors: Sequence[str], constants: Sequence[str]) -> None:
        self._name = name
        self._tensors = len(tensors)
        of_weight = ", ".join((*tensors, *constants))
        LIBRARY.define(
            f"{name}_decode({of_weight}, SymInt width, SymInt row_first, SymInt row_last, SymInt column_first, "
            "SymInt column_last, ScalarType dtype) -> Tensor"
        )
        product = ", ".join(("Tensor x", *tensors, "Tensor? bias", *constants))
        LIBRARY.define(f"{name}_matmul({product}, SymInt row_first, SymInt row_last) -> Tensor")
        torch.library.register_fake(f"tilepress::{name}_decode", _fake_decode, lib=LIBRARY)
        torch.library.register_fake(f"tilepress::{name}_matmul", _fake_matmul, lib=LIBRARY)
        self._decode = getattr(torch.ops.tilepress, f"{name}_decode")
        self._matmul = getattr(torch.ops.tilepress, f"{name}_matmul")

    def implement(
        self,
        device: str,
        build: Callable[..., Weight],
        decode: Callable[[Weight, Range, Range, torch.dtype], torch.Tensor],
        matmul: Callable[[torch.Tensor, Weight, torch.Tensor | None, Range], torch.Tensor],
    ) -> None:
        """Run the operators on devices of a kind.

        Args:
            device: "CPU" or "CUDA".
            build: (*tensors, *constants, width) -> weight.
            decode: (weight, rows, columns, dtype) -> values.
            matmul: (x, weight, bias, rows) -> product.
        """

        def run_decode(*arguments: Any) -> torch.Tensor:
            *described, row_first, row_last, column_first, column_last, dtype = arguments
            return decode(build(*described), (row_first, row_last), (column_first, column_last), dtype)

        def run_matmul(x: torch.Tensor, *arguments: Any) -> torch.Tensor:
            tensors, (bias, *constants) = arguments[: self._tensors], arguments[self._tensors : -2]
            return matmul(x, build(*tensors, *constants, x.shape[-1]), bias, arguments[-2:])

        LIBRARY.impl(f"{self._name}_decode", run_decode, device)
        LIBRARY.impl(f"{self._name}_matmul", run_matmul, device)

    def decode(self, weight: Described, rows: range, columns: range, dtype: torch.dtype) -> torch.Tensor:
        """Values of a range, `dtype` [len(rows), len(columns)]."""
        ends = rows.start, rows.stop, columns.start, columns.stop
        return self._decode(*weight.tensors, *weight.constants, weight.width, *ends, dtype)  # type: ignore[no-any-return]

    def matmul(self, x: torch.Tensor, weight: Described, bias: torch.Tensor | None, rows: range) -> torch.Tensor:
        """`x @ weight[rows].T + bias`, [..., columns] -> [..., len(rows)]."""
        return self._matmul(  # type: ignore[no-any-return]
            x, *weight.tensors, bias, *weight.constants, rows.start, rows.stop
        )


def _fake_decode(*arguments: Any) -> torch.Tensor:
    row_first, row_last, column_first, column_last, dtype = arguments[-5:]
    first: torch.Tensor = arguments[0]
    return first.new_empty(row_last - row_first, column_last - column_first, dtype=dtype)


def _fake_matmul(x: torch.Tensor, *arguments: Any) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], arguments[-1] - arguments[-2])
