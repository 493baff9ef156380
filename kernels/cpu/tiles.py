"""The operators of fixed-rate tiles (`int`, `nf4`, `fp8`) on tensors in main memory.

    tilepress::tiles_decode    a range of rows and columns, dense
    tilepress::tiles_matmul    x @ weight[rows].T + bias

A few rows of x are multiplied as the codes are decoded, in registers: that is as fast as memory delivers them. Of many
rows, each decoded weight is used so often that a block of them is decoded into cache and left to PyTorch's matmul.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch

from tilepress.kernels import _native
from tilepress.kernels.cpu.buffers import DTYPE_NAMES, buffer
from tilepress.kernels.cpu.instruction_set import instruction_set
from tilepress.kernels.encoded import PANEL_ROWS, Encoded, dtype_name
from tilepress.kernels.errors import CodecError

BLOCK_VALUES = 1 << 21
"""Weights that are decoded at a time for many rows of x: 4 MiB in bfloat16, which the last cache holds."""

_PART_DTYPES = {"codes": torch.uint8, "scales": torch.bfloat16, "zero_points": torch.uint8}


class TileCode(NamedTuple):
    """What the codes mean ("int", "nf4", "e4m3", "e5m2"), how long they are, and columns a group (0: the whole row)."""

    name: str
    bits: int
    group: int


def decode(encoded: Encoded, code: TileCode, rows: range, columns: range, dtype: torch.dtype) -> torch.Tensor:
    """Values of the range, `dtype` [len(rows), len(columns)].

    Raises:
        CodecError: parts that don't fit the tensor's shape.
    """
    parts = encoded.parts
    return torch.ops.tilepress.tiles_decode(  # type: ignore[no-any-return]
        parts["codes"],
        parts["scales"],
        parts.get("zero_points"),
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
    parts = encoded.parts
    if not values.is_contiguous():
        raise CodecError("tiles can only be decoded into a contiguous tensor")
    checked = _parts(parts["codes"], parts["scales"], parts.get("zero_points"), code, encoded.columns)
    _into(values, checked, (rows.start, rows.stop), (columns.start, columns.stop))


def matmul(x: torch.Tensor, encoded: Encoded, code: TileCode, bias: torch.Tensor | None, rows: range) -> torch.Tensor:
    """`x @ weight[rows].T + bias`: [..., columns] -> [..., len(rows)] in the dtype of x.

    Raises:
        CodecError: parts or a bias that don't fit the weight's shape.
    """
    parts = encoded.parts
    return torch.ops.tilepress.tiles_matmul(  # type: ignore[no-any-return]
        x, parts["codes"], parts["scales"], parts.get("zero_points"), bias, *code, rows.start, rows.stop
    )


def _decode(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor | None,
    code: str,
    bits: int,
    group: int,
    width: int,
    row_first: int,
    row_last: int,
    column_first: int,
    column_last: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    parts = _parts(codes, scales, zero_points, TileCode(code, bits, group), width)
    values = torch.empty(row_last - row_first, column_last - column_first, dtype=dtype)
    _into(values, parts, (row_first, row_last), (column_first, column_last))
    return values


def _matmul(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor | None,
    bias: torch.Tensor | None,
    code: str,
    bits: int,
    group: int,
    row_first: int,
    row_last: int,
) -> torch.Tensor:
    columns, height = x.shape[-1], row_last - row_first
    parts = _parts(codes, scales, zero_points, TileCode(code, bits, group), columns)
    y = torch.empty(*x.shape[:-1], height, dtype=x.dtype)
    count = math.prod(x.shape[:-1])
    if count > _native.MOST_VECTORS:
        _multiply_many(x.reshape(count, columns), parts, bias, (row_first, row_last), y.view(count, height))
    elif count:
        vectors = x.contiguous()
        addend = None if bias is None else bias.to(x.dtype).contiguous()
        try:
            _native.tiles_multiply(
                instruction_set(),
                parts,
                (row_first, row_last),
                buffer(vectors),
                buffer(addend),
                buffer(y),
                DTYPE_NAMES[x.dtype],
                count,
                torch.get_num_threads(),
            )
        except ValueError as error:
            raise CodecError(f"a product can't be computed from these tiles: {error}") from None
    return y


def _multiply_many(
    vectors: torch.Tensor, parts: _native.Parts, bias: torch.Tensor | None, rows: tuple[int, int], y: torch.Tensor
) -> None:
    columns = vectors.shape[1]
    step = max(1, BLOCK_VALUES // max(1, columns) // PANEL_ROWS) * PANEL_ROWS
    block = torch.empty(min(step, rows[1] - rows[0]), columns, dtype=vectors.dtype)
    for first in range(rows[0], rows[1], step):
        last = min(first + step, rows[1])
        weight = block[: last - first]
        _into(weight, parts, (first, last), (0, columns))
        piece = slice(first - rows[0], last - rows[0])
        y[:, piece] = torch.nn.functional.linear(vectors, weight, None if bias is None else bias[piece].to(y.dtype))


def _into(values: torch.Tensor, parts: _native.Parts, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    try:
        _native.tiles_decode(
            instruction_set(),
            parts,
            rows,
            columns,
            DTYPE_NAMES[values.dtype],
            buffer(values),
            torch.get_num_threads(),
        )
    except ValueError as error:
        raise CodecError(f"these tiles can't be decoded: {error}") from None


def _parts(
    codes: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor | None, code: TileCode, columns: int
) -> _native.Parts:
    for name, part in (("codes", codes), ("scales", scales), ("zero_points", zero_points)):
        if part is not None and (part.dtype != _PART_DTYPES[name] or not part.is_contiguous() or part.ndim != 3):
            raise CodecError(
                f"the part {name} is not a contiguous {dtype_name(_PART_DTYPES[name])} of three dimensions"
            )
    return _native.Parts(
        buffer(codes),
        buffer(scales),
        buffer(zero_points),
        code.name,
        code.bits,
        code.group,
        codes.shape[0],
        columns,
    )


def _fake_decode(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor | None,
    code: str,
    bits: int,
    group: int,
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
    bias: torch.Tensor | None,
    code: str,
    bits: int,
    group: int,
    row_first: int,
    row_last: int,
) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], row_last - row_first)


# PyTorch's own types leave these calls untyped.
_LIBRARY: Any = cast(Any, torch.library).Library("tilepress", "FRAGMENT")
_WEIGHT = "Tensor codes, Tensor scales, Tensor? zero_points"
_CODE = "str code, int bits, int group"
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
