"""The operators of fixed-rate tiles on tensors in main memory.

    tilepress::tiles_decode    a range of rows and columns, dense
    tilepress::tiles_matmul    x @ weight[rows].T + bias

A few rows of x are multiplied as the codes are decoded, in registers: that is as fast as memory delivers them.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch

from tilepress.kernels import _native
from tilepress.kernels.cpu import panels
from tilepress.kernels.cpu.buffers import DTYPE_NAMES, buffer
from tilepress.kernels.cpu.instruction_set import instruction_set
from tilepress.kernels.encoded import Encoded, dtype_name
from tilepress.kernels.errors import CodecError

_SCALE_DTYPES = {"bfloat16": torch.bfloat16, "e8m0": torch.uint8, "e4m3": torch.uint8}


class TileCode(NamedTuple):
    """What codes and scales mean.

    Attributes:
        name: of the code: "int", "nf4", "e4m3", "e5m2", "e2m1".
        bits: of a code.
        group: columns that share a scale; 0: the whole row.
        scale_format: "bfloat16", "e8m0", or "e4m3", which takes a global scale.
    """

    name: str
    bits: int
    group: int
    scale_format: str = "bfloat16"


class Parts(NamedTuple):
    """The parts of a weight, as the operators take them."""

    codes: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None
    global_scale: torch.Tensor | None


def parts_of(encoded: Encoded) -> Parts:
    """The parts of a tensor, in the order in which the operators take them."""
    parts = encoded.parts
    return Parts(parts["codes"], parts["scales"], parts.get("zero_points"), parts.get("global_scale"))


def decode(encoded: Encoded, code: TileCode, rows: range, columns: range, dtype: torch.dtype) -> torch.Tensor:
    """Values of the range, `dtype` [len(rows), len(columns)].

    Raises:
        CodecError: parts that don't fit the tensor's shape.
    """
    return torch.ops.tilepress.tiles_decode(  # type: ignore[no-any-return]
        *parts_of(encoded),
        *code,
        encoded.columns,
        rows.start,
        rows.stop,
        columns.start,
        columns.stop,
        dtype,
    )


def decode_into(values: torch.Tensor, encoded: Encoded, code: TileCode, rows: range, columns: range) -> None:
    """As `decode`, into a contiguous tensor [len(rows), len(columns)] that is there already; not an operator.

    Raises:
        CodecError: parts that don't fit the tensor's shape, or `values` that doesn't fit the range.
    """
    if not values.is_contiguous():
        raise CodecError("tiles can only be decoded into a contiguous tensor")
    weight = _weight_of(encoded, code)
    weight.decode_into(values, (rows.start, rows.stop), (columns.start, columns.stop))


def matmul(x: torch.Tensor, encoded: Encoded, code: TileCode, bias: torch.Tensor | None, rows: range) -> torch.Tensor:
    """`x @ weight[rows].T + bias`: [..., columns] -> [..., len(rows)] in the dtype of x.

    Raises:
        CodecError: parts or a bias that don't fit the weight's shape.
    """
    if panels.is_plain_call(x):
        weight = panels.weight_of(encoded, _weight_of, code)
        return panels.matmul(x, weight, bias, (rows.start, rows.stop))
    return torch.ops.tilepress.tiles_matmul(  # type: ignore[no-any-return]
        x, *parts_of(encoded), bias, *code, rows.start, rows.stop
    )


def native_weight(encoded: Encoded, code: TileCode) -> _native.Weight:
    """The weight as a decoder reads it; see `decoder.Decoder`."""
    return _native.tiles_weight(instruction_set(), native_parts(parts_of(encoded), code, encoded.columns), encoded.rows)


def _decode(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor | None,
    global_scale: torch.Tensor | None,
    code: str,
    bits: int,
    group: int,
    scale_format: str,
    width: int,
    row_first: int,
    row_last: int,
    column_first: int,
    column_last: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    parts = Parts(codes, scales, zero_points, global_scale)
    weight = _Weight(native_parts(parts, TileCode(code, bits, group, scale_format), width))
    return panels.decode(weight, (row_first, row_last), (column_first, column_last), dtype)


def _matmul(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor | None,
    global_scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    code: str,
    bits: int,
    group: int,
    scale_format: str,
    row_first: int,
    row_last: int,
) -> torch.Tensor:
    parts = Parts(codes, scales, zero_points, global_scale)
    weight = _Weight(native_parts(parts, TileCode(code, bits, group, scale_format), x.shape[-1]))
    return panels.matmul(x, weight, bias, (row_first, row_last))


class _Weight(NamedTuple):
    """One weight in tiles, a `panels.NativeWeight`."""

    parts: _native.Parts

    def decode_into(self, values: torch.Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> None:
        try:
            _native.tiles_decode(
                instruction_set(),
                self.parts,
                rows,
                columns,
                DTYPE_NAMES[values.dtype],
                buffer(values),
                torch.get_num_threads(),
            )
        except ValueError as error:
            raise CodecError(f"these tiles can't be decoded: {error}") from None

    def multiply(
        self, rows: tuple[int, int], x: _native.Buffer, bias: _native.Buffer, y: _native.Buffer, dtype: str, count: int
    ) -> None:
        try:
            _native.tiles_multiply(
                instruction_set(), self.parts, rows, x, bias, y, dtype, count, torch.get_num_threads()
            )
        except ValueError as error:
            raise CodecError(f"a product can't be computed from these tiles: {error}") from None


def _weight_of(encoded: Encoded, code: TileCode) -> _Weight:
    return _Weight(native_parts(parts_of(encoded), code, encoded.columns))


def native_parts(parts: Parts, code: TileCode, columns: int) -> _native.Parts:
    """The parts of a weight of so many columns, for native code.

    Raises:
        CodecError: parts of another dtype or rank, or with gaps.
    """
    scale_dtype = _SCALE_DTYPES[code.scale_format]
    for name, part, dtype, rank in (
        ("codes", parts.codes, torch.uint8, 3),
        ("scales", parts.scales, scale_dtype, 3),
        ("zero_points", parts.zero_points, torch.uint8, 3),
        ("global_scale", parts.global_scale, torch.float32, 1),
    ):
        if part is not None and (part.dtype != dtype or not part.is_contiguous() or part.ndim != rank):
            raise CodecError(f"the part {name} is not a contiguous {dtype_name(dtype)} of rank {rank}")
    return _native.Parts(
        buffer(parts.codes),
        buffer(parts.scales),
        buffer(parts.zero_points),
        buffer(parts.global_scale),
        code.name,
        code.bits,
        code.group,
        code.scale_format,
        parts.codes.shape[0],
        columns,
    )


def _fake_decode(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor | None,
    global_scale: torch.Tensor | None,
    code: str,
    bits: int,
    group: int,
    scale_format: str,
    width: int,
    row_first: int,
    row_last: int,
    column_first: int,
    column_last: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    return codes.new_empty(row_last - row_first, column_last - column_first, dtype=dtype)


def _fake_matmul(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor | None,
    global_scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    code: str,
    bits: int,
    group: int,
    scale_format: str,
    row_first: int,
    row_last: int,
) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], row_last - row_first)


# PyTorch's own types leave these calls untyped.
_LIBRARY: Any = cast(Any, torch.library).Library("tilepress", "FRAGMENT")
_WEIGHT = "Tensor codes, Tensor scales, Tensor? zero_points, Tensor? global_scale"
_CODE = "str code, int bits, int group, str scale_format"
_LIBRARY.define(
    f"tiles_decode({_WEIGHT}, {_CODE}, SymInt width, SymInt row_first, SymInt row_last, SymInt column_first, "
    "SymInt column_last, ScalarType dtype) -> Tensor"
)
_LIBRARY.define(
    f"tiles_matmul(Tensor x, {_WEIGHT}, Tensor? bias, {_CODE}, SymInt row_first, SymInt row_last) -> Tensor"
)
_LIBRARY.impl("tiles_decode", _decode, "CPU")
_LIBRARY.impl("tiles_matmul", _matmul, "CPU")
torch.library.register_fake("tilepress::tiles_decode", _fake_decode, lib=_LIBRARY)
torch.library.register_fake("tilepress::tiles_matmul", _fake_matmul, lib=_LIBRARY)
