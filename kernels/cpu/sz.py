"""Native decoding of `sz` and multiplication by it.

tilepress::sz_decode    a range of rows and columns, dense
tilepress::sz_matmul    x @ weight[rows].T + bias
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch

from tilepress.kernels import _native
from tilepress.kernels.cpu import panels
from tilepress.kernels.cpu.buffers import DTYPE_NAMES, buffer
from tilepress.kernels.cpu.instruction_set import instruction_set
from tilepress.kernels.encoded import Encoded
from tilepress.kernels.errors import CodecError
from tilepress.kernels.layout.sz import SzParams


def decode(encoded: Encoded, rows: range, columns: range, dtype: torch.dtype) -> torch.Tensor:
    """Values of the range in `dtype`, bit-identical with the reference.

    Raises:
        CodecError: parts that are damaged or don't fit the tensor's shape.
    """
    return torch.ops.tilepress.sz_decode(  # type: ignore[no-any-return]
        *_parts(encoded),
        encoded.rows,
        encoded.columns,
        rows.start,
        rows.stop,
        columns.start,
        columns.stop,
        dtype,
    )


def decode_into(values: torch.Tensor, encoded: Encoded, rows: range, columns: range) -> None:
    """As `decode`, into a contiguous tensor [len(rows), len(columns)] that is there already; not an operator.

    Raises:
        CodecError: as `decode`, or `values` that doesn't fit the range.
    """
    if not values.is_contiguous():
        raise CodecError("codec sz can only be decoded into a contiguous tensor")
    weight = _weight(*_parts(encoded), encoded.rows, encoded.columns)
    weight.decode_into(values, (rows.start, rows.stop), (columns.start, columns.stop))


def matmul(x: torch.Tensor, encoded: Encoded, bias: torch.Tensor | None, rows: range) -> torch.Tensor:
    """`x @ weight[rows].T + bias`, accumulated in float32.

    Raises:
        CodecError: as `decode`, or a bias that doesn't fit.
    """
    return torch.ops.tilepress.sz_matmul(  # type: ignore[no-any-return]
        x, bias, *_parts(encoded), encoded.rows, rows.start, rows.stop
    )


def _parts(encoded: Encoded) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, str, torch.dtype]:
    parts, predictor = encoded.parts, cast(SzParams, encoded.params).predictor
    return parts["payload"], parts["offsets"], parts["table"], predictor, encoded.dtype


def weight(encoded: Encoded) -> _native.Weight:
    """The weight as a decoder reads it."""
    native = _weight(*_parts(encoded), encoded.rows, encoded.columns)
    return _native.sz_weight(instruction_set(), native.parts)


class _Weight(NamedTuple):
    """A `panels.NativeWeight`."""

    parts: _native.SzParts

    def decode_into(self, values: torch.Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> None:
        dtype, threads = DTYPE_NAMES[values.dtype], torch.get_num_threads()
        try:
            _native.sz_decode(instruction_set(), self.parts, rows, columns, dtype, buffer(values), threads)
        except ValueError as error:
            raise CodecError(f"codec sz: {error}") from None

    def multiply(
        self, rows: tuple[int, int], x: _native.Buffer, bias: _native.Buffer, y: _native.Buffer, dtype: str, count: int
    ) -> None:
        threads = torch.get_num_threads()
        try:
            _native.sz_multiply(instruction_set(), self.parts, rows, x, bias, y, dtype, count, threads)
        except ValueError as error:
            raise CodecError(f"codec sz: {error}") from None


def _weight(
    payload: torch.Tensor,
    offsets: torch.Tensor,
    table: torch.Tensor,
    predictor: str,
    source: torch.dtype,
    height: int,
    width: int,
) -> _Weight:
    for part, wanted in ((payload, torch.uint8), (offsets, torch.int64), (table, torch.uint8)):
        if part.dtype != wanted or not part.is_contiguous():
            raise CodecError("codec sz: a part has the wrong dtype, or is not contiguous")
    parts = (buffer(payload), buffer(offsets), buffer(table))
    return _Weight(_native.SzParts(*parts, predictor, DTYPE_NAMES[source], height, width))


def _decode(
    payload: torch.Tensor,
    offsets: torch.Tensor,
    table: torch.Tensor,
    predictor: str,
    source: torch.dtype,
    height: int,
    width: int,
    row_first: int,
    row_last: int,
    column_first: int,
    column_last: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    weight = _weight(payload, offsets, table, predictor, source, height, width)
    return panels.decode(weight, (row_first, row_last), (column_first, column_last), dtype)


def _matmul(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    payload: torch.Tensor,
    offsets: torch.Tensor,
    table: torch.Tensor,
    predictor: str,
    source: torch.dtype,
    height: int,
    row_first: int,
    row_last: int,
) -> torch.Tensor:
    weight = _weight(payload, offsets, table, predictor, source, height, x.shape[-1])
    return panels.matmul(x, weight, bias, (row_first, row_last))


def _fake_decode(
    payload: torch.Tensor,
    offsets: torch.Tensor,
    table: torch.Tensor,
    predictor: str,
    source: torch.dtype,
    height: int,
    width: int,
    row_first: int,
    row_last: int,
    column_first: int,
    column_last: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    return payload.new_empty(row_last - row_first, column_last - column_first, dtype=dtype)


def _fake_matmul(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    payload: torch.Tensor,
    offsets: torch.Tensor,
    table: torch.Tensor,
    predictor: str,
    source: torch.dtype,
    height: int,
    row_first: int,
    row_last: int,
) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], row_last - row_first)


# PyTorch's own types leave these calls untyped.
_LIBRARY: Any = cast(Any, torch.library).Library("tilepress", "FRAGMENT")
_WEIGHT = "Tensor payload, Tensor offsets, Tensor table, str predictor, ScalarType source, SymInt height"
_LIBRARY.define(
    f"sz_decode({_WEIGHT}, SymInt width, SymInt row_first, SymInt row_last, SymInt column_first, "
    "SymInt column_last, ScalarType dtype) -> Tensor"
)
_LIBRARY.define(f"sz_matmul(Tensor x, Tensor? bias, {_WEIGHT}, SymInt row_first, SymInt row_last) -> Tensor")
_LIBRARY.impl("sz_decode", _decode, "CPU")
_LIBRARY.impl("sz_matmul", _matmul, "CPU")
torch.library.register_fake("tilepress::sz_decode", _fake_decode, lib=_LIBRARY)
torch.library.register_fake("tilepress::sz_matmul", _fake_matmul, lib=_LIBRARY)
