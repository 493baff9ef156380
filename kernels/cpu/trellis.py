"""The operators of trellis codes on tensors in main memory.

    tilepress::trellis_decode    a range of rows and columns, dense
    tilepress::trellis_matmul    x @ weight[rows].T + bias

A product rotates x, multiplies by the codes in the rotated basis, and rotates the result back: the weight itself is
never rotated. A few rows of x are multiplied as the codes are decoded, in registers and with integers: 16 bits of x in
half precision, 31 of float32. For many, blocks of the rotated weight are decoded into cache and left to PyTorch's
matmul.
"""

from __future__ import annotations

from typing import Any, TypeAlias, cast, overload

import torch

from tilepress.kernels import _native
from tilepress.kernels.cpu import panels
from tilepress.kernels.cpu.buffers import DTYPE_NAMES, buffer
from tilepress.kernels.cpu.instruction_set import instruction_set
from tilepress.kernels.encoded import PANEL_ROWS, Encoded
from tilepress.kernels.errors import CodecError
from tilepress.kernels.layout.rotation import hartley, rotation_of
from tilepress.kernels.layout.trellis import TrellisParams

_Place: TypeAlias = tuple[tuple[int, int], tuple[int, int], int, int, int, int]
"""Codes, scales, bits, window, and panels and tiles across."""
_Side: TypeAlias = tuple[tuple[int, int], tuple[int, int], int, int]
"""Signs, the table of the Hartley matrix, and the sizes of a block's two factors."""


def decode(encoded: Encoded, rows: range, columns: range, dtype: torch.dtype) -> torch.Tensor:
    """Values of the range in `dtype`, bit-identical with the reference."""
    return torch.ops.tilepress.trellis_decode(  # type: ignore[no-any-return]
        *weight_of(encoded), rows.start, rows.stop, columns.start, columns.stop, dtype
    )


def matmul(x: torch.Tensor, encoded: Encoded, bias: torch.Tensor | None, rows: range) -> torch.Tensor:
    """`x @ weight[rows].T + bias`, accumulated in float32."""
    if panels.is_plain_call(x):
        return _matmul(x, *weight_of(encoded), bias, rows.start, rows.stop)
    return torch.ops.tilepress.trellis_matmul(  # type: ignore[no-any-return]
        x, *weight_of(encoded), bias, rows.start, rows.stop
    )


def weight(encoded: Encoded) -> _native.Weight:
    """The weight as a decoder reads it."""
    codes, scales, column_signs, row_signs, bits, window = weight_of(encoded)
    place = (*_weight(codes, scales, bits, window), encoded.rows, encoded.columns)
    sides = _side(column_signs, codes.shape[1]), _side(row_signs, codes.shape[0])
    native: _native.Weight = _native.trellis_weight(instruction_set(), *place, *sides)
    return native


def weight_of(
    encoded: Encoded,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None, int, int]:
    """What the operators take of a weight: its parts, bits and window."""
    params, parts = encoded.params, encoded.parts
    assert isinstance(params, TrellisParams)
    signs = parts.get("column_signs"), parts.get("row_signs")
    return parts["codes"], parts["scales"], *signs, params.bits, params.window


def _decode(
    codes: torch.Tensor,
    scales: torch.Tensor,
    column_signs: torch.Tensor | None,
    row_signs: torch.Tensor | None,
    bits: int,
    window: int,
    row_first: int,
    row_last: int,
    column_first: int,
    column_last: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    first, last = _panels(codes, row_signs, row_first, row_last)
    if column_last > codes.shape[1] * PANEL_ROWS or row_last > codes.shape[0] * PANEL_ROWS:
        raise CodecError("the codes are of fewer rows or columns than the weight")
    values = torch.empty((last - first) * PANEL_ROWS, codes.shape[1] * PANEL_ROWS, dtype=torch.float32)
    _decode_rotated(values, codes, scales, bits, window, (first, last))
    if row_signs is not None:
        _rotate(values, row_signs[2 * first : 2 * last], codes.shape[0], over_rows=True, back=True)
    if column_signs is not None:
        _rotate(values, column_signs, codes.shape[1], back=True)
    skipped = first * PANEL_ROWS
    return values[row_first - skipped : row_last - skipped, column_first:column_last].to(dtype).contiguous()


def _matmul(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    column_signs: torch.Tensor | None,
    row_signs: torch.Tensor | None,
    bits: int,
    window: int,
    bias: torch.Tensor | None,
    row_first: int,
    row_last: int,
) -> torch.Tensor:
    first, last = _panels(codes, row_signs, row_first, row_last)
    batch, columns = x.shape[:-1], x.shape[-1]
    count, width = batch.numel(), codes.shape[1] * PANEL_ROWS
    if not width - PANEL_ROWS < columns <= width and columns:
        raise CodecError(f"x has {columns} columns, the codes of the weight {width}")
    rotated = torch.zeros(count, width) if width > columns else torch.empty(count, width)
    rotated[:, :columns] = x.reshape(count, columns)
    if column_signs is not None:
        _rotate(rotated, column_signs, codes.shape[1])
    y = torch.empty(count, (last - first) * PANEL_ROWS)
    if count > _native.MOST_VECTORS:
        _multiply_many(rotated.to(panels.dtype_of_many(x.dtype)), codes, scales, bits, window, first, y)
    elif count:
        _call(
            _native.trellis_multiply,
            *_weight(codes, scales, bits, window),
            (first, last),
            buffer(rotated),
            count,
            x.dtype == torch.float32,
            buffer(y),
        )
    if row_signs is not None:
        _rotate(y, row_signs[2 * first : 2 * last], codes.shape[0], back=True)
    y = y[:, row_first - first * PANEL_ROWS : row_last - first * PANEL_ROWS]
    if bias is not None:
        if bias.shape != y.shape[1:]:
            raise CodecError(f"a bias of shape {tuple(bias.shape)} does not fit {y.shape[1]} rows")
        y = y + bias
    return y.to(x.dtype).reshape(*batch, row_last - row_first).contiguous()


def _multiply_many(
    x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, bits: int, window: int, first: int, y: torch.Tensor
) -> None:
    width, count = codes.shape[1] * PANEL_ROWS, y.shape[1] // PANEL_ROWS
    step = panels.panels_together(width, x.dtype)
    block = torch.empty(min(step, count) * PANEL_ROWS, width, dtype=x.dtype)
    for begin in range(0, count, step):
        end = min(begin + step, count)
        weight = block[: (end - begin) * PANEL_ROWS]
        _decode_rotated(weight, codes, scales, bits, window, (first + begin, first + end))
        y[:, begin * PANEL_ROWS : end * PANEL_ROWS] = torch.nn.functional.linear(x, weight)


def _panels(codes: torch.Tensor, row_signs: torch.Tensor | None, row_first: int, row_last: int) -> tuple[int, int]:
    """Panels that rows depend on: those that hold them, or, of rotated rows, their blocks."""
    if codes.ndim != 3 or (row_signs is not None and row_signs.shape != (2 * codes.shape[0],)):
        raise CodecError("the codes are not tiles of panels, or the signs of rows don't fit them")
    unit = rotation_of(codes.shape[0] * PANEL_ROWS).block if row_signs is not None else PANEL_ROWS
    return row_first // unit * unit // PANEL_ROWS, -(-row_last // unit) * unit // PANEL_ROWS


def _rotate(
    values: torch.Tensor, signs: torch.Tensor, panels: int, *, over_rows: bool = False, back: bool = False
) -> None:
    """Rotate whole blocks of a side that has `panels` times 16 values in all."""
    if not panels:
        return
    rows, columns = values.shape
    side = _side(signs, panels)
    _call(_native.trellis_rotate, buffer(values), rows, columns, over_rows, *side, back)


@overload
def _side(signs: None, panels: int) -> None: ...
@overload
def _side(signs: torch.Tensor, panels: int) -> _Side: ...
def _side(signs: torch.Tensor | None, panels: int) -> _Side | None:
    """A side of `panels` times 16 values as native code takes it."""
    if signs is None:
        return None
    odd, power = rotation_of(panels * PANEL_ROWS)
    if signs.dtype != torch.uint8 or not signs.is_contiguous():
        raise CodecError("the signs are not contiguous bytes")
    return buffer(signs), buffer(hartley(odd)), odd, power


def _decode_rotated(
    values: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, bits: int, window: int, panels: tuple[int, int]
) -> None:
    weight = _weight(codes, scales, bits, window)
    _call(_native.trellis_decode, *weight, panels, DTYPE_NAMES[values.dtype], buffer(values))


def _weight(codes: torch.Tensor, scales: torch.Tensor, bits: int, window: int) -> _Place:
    for name, part, dtype in (("codes", codes, torch.uint8), ("scales", scales, torch.bfloat16)):
        if part.dtype != dtype or not part.is_contiguous() or not part.is_cpu:
            raise CodecError(f"the part {name} is not a contiguous {dtype} in main memory")
    return buffer(codes), buffer(scales), bits, window, codes.shape[0], codes.shape[1]


def _call(function: Any, *arguments: Any) -> None:
    try:
        function(instruction_set(), *arguments, torch.get_num_threads())
    except ValueError as error:
        raise CodecError(f"these trellis codes can't be read: {error}") from None


def _fake_decode(
    codes: torch.Tensor,
    scales: torch.Tensor,
    column_signs: torch.Tensor | None,
    row_signs: torch.Tensor | None,
    bits: int,
    window: int,
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
    column_signs: torch.Tensor | None,
    row_signs: torch.Tensor | None,
    bits: int,
    window: int,
    bias: torch.Tensor | None,
    row_first: int,
    row_last: int,
) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], row_last - row_first)


# PyTorch's own types leave these calls untyped.
_LIBRARY: Any = cast(Any, torch.library).Library("tilepress", "FRAGMENT")
_WEIGHT = "Tensor codes, Tensor scales, Tensor? column_signs, Tensor? row_signs, int bits, int window"
_LIBRARY.define(
    f"trellis_decode({_WEIGHT}, SymInt row_first, SymInt row_last, SymInt column_first, SymInt column_last, "
    "ScalarType dtype) -> Tensor"
)
_LIBRARY.define(f"trellis_matmul(Tensor x, {_WEIGHT}, Tensor? bias, SymInt row_first, SymInt row_last) -> Tensor")
_LIBRARY.impl("trellis_decode", _decode, "CPU")
_LIBRARY.impl("trellis_matmul", _matmul, "CPU")
torch.library.register_fake("tilepress::trellis_decode", _fake_decode, lib=_LIBRARY)
torch.library.register_fake("tilepress::trellis_matmul", _fake_matmul, lib=_LIBRARY)
