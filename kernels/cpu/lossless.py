"""Native decoding of `lossless` and multiplication by it.

    tilepress::lossless_decode    a range of rows and columns, dense
    tilepress::lossless_matmul    x @ weight[rows].T + bias

Version 1, which only early files have, is decoded by the reference.
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
from tilepress.kernels.layout.lossless import LosslessParams
from tilepress.kernels.reference import lossless as reference


def decode(encoded: Encoded, rows: range, columns: range, dtype: torch.dtype) -> torch.Tensor:
    """Values of the range in `dtype`, bit-identical with the reference.

    Raises:
        CodecError: parts that are damaged or don't fit the tensor's shape.
    """
    if _is_version1(encoded):
        return reference.decode(encoded, rows, columns).to(dtype)
    parts = encoded.parts
    return torch.ops.tilepress.lossless_decode(  # type: ignore[no-any-return]
        parts["payload"],
        parts["offsets"],
        parts["table"],
        encoded.dtype,
        encoded.rows,
        encoded.columns,
        rows.start,
        rows.stop,
        columns.start,
        columns.stop,
        dtype,
    )


def decode_into(values: torch.Tensor, encoded: Encoded, rows: range, columns: range) -> None:
    """As `decode`, into a contiguous tensor [len(rows), len(columns)] that is there already; not an operator."""
    if not values.is_contiguous():
        raise CodecError("lossless can only be decoded into a contiguous tensor")
    weight = _weight_of(encoded)
    weight.decode_into(values, (rows.start, rows.stop), (columns.start, columns.stop))


def matmul(x: torch.Tensor, encoded: Encoded, bias: torch.Tensor | None, rows: range) -> torch.Tensor:
    """`x @ weight[rows].T + bias`, accumulated in float32.

    Raises:
        CodecError: as `decode`, or a bias that doesn't fit.
    """
    if _is_version1(encoded):
        return panels.matmul_by_blocks(x, _Version1(encoded).decode_into, bias, (rows.start, rows.stop))
    if panels.is_plain_call(x):
        weight = panels.weight_of(encoded, lambda encoded, _: _weight_of(encoded), None)
        return panels.matmul(x, weight, bias, (rows.start, rows.stop))
    parts = encoded.parts
    return torch.ops.tilepress.lossless_matmul(  # type: ignore[no-any-return]
        x,
        parts["payload"],
        parts["offsets"],
        parts["table"],
        bias,
        encoded.dtype,
        encoded.rows,
        rows.start,
        rows.stop,
    )


def weight(encoded: Encoded) -> _native.Weight | None:
    """The weight as a decoder reads it; none of version 1, which has no native kernel."""
    if _is_version1(encoded):
        return None
    return _native.lossless_weight(instruction_set(), _weight_of(encoded).parts)


def _is_version1(encoded: Encoded) -> bool:
    return cast(LosslessParams, encoded.params).version == 1


class _Version1(NamedTuple):
    encoded: Encoded

    def decode_into(self, values: torch.Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> None:
        values.copy_(reference.decode(self.encoded, range(*rows), range(*columns)))


class _Weight(NamedTuple):
    """One weight of version 2, a `panels.NativeWeight`."""

    parts: _native.LosslessParts

    def decode_into(self, values: torch.Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> None:
        dtype, threads = DTYPE_NAMES[values.dtype], torch.get_num_threads()
        try:
            _native.lossless_decode(instruction_set(), self.parts, rows, columns, dtype, buffer(values), threads)
        except ValueError as error:
            raise CodecError(f"codec lossless: {error}") from None

    def multiply(
        self, rows: tuple[int, int], x: _native.Buffer, bias: _native.Buffer, y: _native.Buffer, dtype: str, count: int
    ) -> None:
        threads = torch.get_num_threads()
        try:
            _native.lossless_multiply(instruction_set(), self.parts, rows, x, bias, y, dtype, count, threads)
        except ValueError as error:
            raise CodecError(f"codec lossless: {error}") from None


def _weight_of(encoded: Encoded) -> _Weight:
    parts = encoded.parts
    return _weight(parts["payload"], parts["offsets"], parts["table"], encoded.dtype, encoded.rows, encoded.columns)


def _weight(
    payload: torch.Tensor, offsets: torch.Tensor, table: torch.Tensor, dtype: torch.dtype, height: int, width: int
) -> _Weight:
    for part, wanted in ((payload, torch.uint8), (offsets, torch.int64), (table, torch.uint8)):
        if part.dtype != wanted or not part.is_contiguous():
            raise CodecError("codec lossless: a part has the wrong dtype, or is not contiguous")
    parts = (buffer(payload), buffer(offsets), buffer(table))
    return _Weight(_native.LosslessParts(*parts, DTYPE_NAMES[dtype], height, width))


def _decode(
    payload: torch.Tensor,
    offsets: torch.Tensor,
    table: torch.Tensor,
    source: torch.dtype,
    height: int,
    width: int,
    row_first: int,
    row_last: int,
    column_first: int,
    column_last: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    weight = _weight(payload, offsets, table, source, height, width)
    return panels.decode(weight, (row_first, row_last), (column_first, column_last), dtype)


def _matmul(
    x: torch.Tensor,
    payload: torch.Tensor,
    offsets: torch.Tensor,
    table: torch.Tensor,
    bias: torch.Tensor | None,
    source: torch.dtype,
    height: int,
    row_first: int,
    row_last: int,
) -> torch.Tensor:
    weight = _weight(payload, offsets, table, source, height, x.shape[-1])
    return panels.matmul(x, weight, bias, (row_first, row_last))


def _fake_decode(
    payload: torch.Tensor,
    offsets: torch.Tensor,
    table: torch.Tensor,
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
    payload: torch.Tensor,
    offsets: torch.Tensor,
    table: torch.Tensor,
    bias: torch.Tensor | None,
    source: torch.dtype,
    height: int,
    row_first: int,
    row_last: int,
) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], row_last - row_first)


# PyTorch's own types leave these calls untyped.
_LIBRARY: Any = cast(Any, torch.library).Library("tilepress", "FRAGMENT")
_WEIGHT = "Tensor payload, Tensor offsets, Tensor table"
_LIBRARY.define(
    f"lossless_decode({_WEIGHT}, ScalarType source, SymInt height, SymInt width, SymInt row_first, SymInt row_last, "
    "SymInt column_first, SymInt column_last, ScalarType dtype) -> Tensor"
)
_LIBRARY.define(
    f"lossless_matmul(Tensor x, {_WEIGHT}, Tensor? bias, ScalarType source, SymInt height, SymInt row_first, "
    "SymInt row_last) -> Tensor"
)
_LIBRARY.impl("lossless_decode", _decode, "CPU")
_LIBRARY.impl("lossless_matmul", _matmul, "CPU")
torch.library.register_fake("tilepress::lossless_decode", _fake_decode, lib=_LIBRARY)
torch.library.register_fake("tilepress::lossless_matmul", _fake_matmul, lib=_LIBRARY)
