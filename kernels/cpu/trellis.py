"""The operators of trellis codes on tensors in main memory.

    tilepress::trellis_decode    a range of rows and columns, dense
    tilepress::trellis_matmul    x @ weight[rows].T + bias

A product rotates x, multiplies by the codes in the rotated basis, and rotates the result back: the weight itself is
never rotated. A few rows of x are multiplied as the codes are decoded, in registers and with integers: 16 bits of x in
half precision, 31 of float32. For many, blocks of the rotated weight are decoded into cache and left to PyTorch's
matmul.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias, overload

import torch

from tilepress.kernels import _native
from tilepress.kernels.cpu import panels
from tilepress.kernels.cpu.buffers import DTYPE_NAMES, buffer
from tilepress.kernels.cpu.instruction_set import instruction_set
from tilepress.kernels.encoded import PANEL_ROWS, Encoded
from tilepress.kernels.errors import CodecError
from tilepress.kernels.layout.rotation import hartley, rotation_of
from tilepress.kernels.layout.trellis import TrellisParams
from tilepress.kernels.operators import Described, Operators, Range

_Place: TypeAlias = tuple[tuple[int, int], tuple[int, int], int, int, int, int]
"""Codes, scales, bits, window, and panels and tiles across."""
_Side: TypeAlias = tuple[tuple[int, int], tuple[int, int], int, int]
"""Signs, the table of the Hartley matrix, and the sizes of a block's two factors."""


OPERATORS = Operators(
    "trellis",
    ("Tensor codes", "Tensor scales", "Tensor? column_signs", "Tensor? row_signs"),
    ("int bits", "int window"),
)


class Trellis(NamedTuple):
    """The parts and parameters of a weight, as the operators take them but for its columns."""

    codes: torch.Tensor
    scales: torch.Tensor
    column_signs: torch.Tensor | None
    row_signs: torch.Tensor | None
    bits: int
    window: int

    @property
    def panels(self) -> int:
        """Panels of 16 rows."""
        return self.codes.shape[0]

    @property
    def width(self) -> int:
        """Columns in whole tiles."""
        return self.codes.shape[1] * PANEL_ROWS

    @classmethod
    def built(cls, *described: Any) -> Trellis:
        """Of what operators are given."""
        *parts, _ = described
        return cls(*parts)


def decode(encoded: Encoded, rows: range, columns: range, dtype: torch.dtype) -> torch.Tensor:
    """Values of the range in `dtype`, bit-identical with the reference."""
    return OPERATORS.decode(_described(encoded), rows, columns, dtype)


def matmul(x: torch.Tensor, encoded: Encoded, bias: torch.Tensor | None, rows: range) -> torch.Tensor:
    """`x @ weight[rows].T + bias`, accumulated in float32."""
    if panels.is_plain_call(x):
        return _matmul(x, weight_of(encoded), bias, (rows.start, rows.stop))
    return OPERATORS.matmul(x, _described(encoded), bias, rows)


def weight(encoded: Encoded) -> _native.Weight:
    """The weight as a decoder reads it."""
    trellis = weight_of(encoded)
    sides = _side(trellis.column_signs, trellis.codes.shape[1]), _side(trellis.row_signs, trellis.panels)
    return _native.trellis_weight(instruction_set(), *_place(trellis), encoded.rows, encoded.columns, *sides)


def weight_of(encoded: Encoded) -> Trellis:
    """The parts and parameters of a tensor."""
    params, parts = encoded.params, encoded.parts
    assert isinstance(params, TrellisParams)
    signs = parts.get("column_signs"), parts.get("row_signs")
    return Trellis(parts["codes"], parts["scales"], *signs, params.bits, params.window)


def _described(encoded: Encoded) -> Described:
    weight = weight_of(encoded)
    return Described(weight[:4], weight[4:], encoded.columns)


def _decode(weight: Trellis, rows: Range, columns: Range, dtype: torch.dtype) -> torch.Tensor:
    first, last = _panels(weight, rows)
    if columns[1] > weight.width or rows[1] > weight.panels * PANEL_ROWS:
        raise CodecError("the codes are of fewer rows or columns than the weight")
    values = torch.empty((last - first) * PANEL_ROWS, weight.width, dtype=torch.float32)
    _decode_rotated(values, weight, (first, last))
    if weight.row_signs is not None:
        _rotate(values, weight.row_signs[2 * first : 2 * last], weight.panels, over_rows=True, back=True)
    if weight.column_signs is not None:
        _rotate(values, weight.column_signs, weight.codes.shape[1], back=True)
    skipped = first * PANEL_ROWS
    return values[rows[0] - skipped : rows[1] - skipped, slice(*columns)].to(dtype).contiguous()


def _matmul(x: torch.Tensor, weight: Trellis, bias: torch.Tensor | None, rows: Range) -> torch.Tensor:
    first, last = _panels(weight, rows)
    batch, columns, width = x.shape[:-1], x.shape[-1], weight.width
    count = batch.numel()
    if not width - PANEL_ROWS < columns <= width and columns:
        raise CodecError(f"x has {columns} columns, the codes of the weight {width}")
    rotated = torch.zeros(count, width) if width > columns else torch.empty(count, width)
    rotated[:, :columns] = x.reshape(count, columns)
    if weight.column_signs is not None:
        _rotate(rotated, weight.column_signs, weight.codes.shape[1])
    y = torch.empty(count, (last - first) * PANEL_ROWS)
    if count > _native.MOST_VECTORS:
        _multiply_many(rotated.to(panels.dtype_of_many(x.dtype)), weight, first, y)
    elif count:
        place = *_place(weight), (first, last)
        _call(_native.trellis_multiply, *place, buffer(rotated), count, x.dtype == torch.float32, buffer(y))
    if weight.row_signs is not None:
        _rotate(y, weight.row_signs[2 * first : 2 * last], weight.panels, back=True)
    y = y[:, rows[0] - first * PANEL_ROWS : rows[1] - first * PANEL_ROWS]
    if bias is not None:
        if bias.shape != y.shape[1:]:
            raise CodecError(f"a bias of shape {tuple(bias.shape)} does not fit {y.shape[1]} rows")
        y = y + bias
    return y.to(x.dtype).reshape(*batch, rows[1] - rows[0]).contiguous()


def _multiply_many(x: torch.Tensor, weight: Trellis, first: int, y: torch.Tensor) -> None:
    count = y.shape[1] // PANEL_ROWS
    step = panels.panels_together(weight.width, x.dtype)
    block = torch.empty(min(step, count) * PANEL_ROWS, weight.width, dtype=x.dtype)
    for begin in range(0, count, step):
        end = min(begin + step, count)
        values = block[: (end - begin) * PANEL_ROWS]
        _decode_rotated(values, weight, (first + begin, first + end))
        y[:, begin * PANEL_ROWS : end * PANEL_ROWS] = torch.nn.functional.linear(x, values)


def _panels(weight: Trellis, rows: Range) -> Range:
    """Panels that rows depend on: those that hold them, or, of rotated rows, their blocks."""
    if weight.codes.ndim != 3 or (weight.row_signs is not None and weight.row_signs.shape != (2 * weight.panels,)):
        raise CodecError("the codes are not tiles of panels, or the signs of rows don't fit them")
    unit = rotation_of(weight.panels * PANEL_ROWS).block if weight.row_signs is not None else PANEL_ROWS
    return rows[0] // unit * unit // PANEL_ROWS, -(-rows[1] // unit) * unit // PANEL_ROWS


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


def _decode_rotated(values: torch.Tensor, weight: Trellis, panels: Range) -> None:
    _call(_native.trellis_decode, *_place(weight), panels, DTYPE_NAMES[values.dtype], buffer(values))


def _place(weight: Trellis) -> _Place:
    for name, part, dtype in (("codes", weight.codes, torch.uint8), ("scales", weight.scales, torch.bfloat16)):
        if part.dtype != dtype or not part.is_contiguous() or not part.is_cpu:
            raise CodecError(f"the part {name} is not a contiguous {dtype} in main memory")
    return buffer(weight.codes), buffer(weight.scales), weight.bits, weight.window, *weight.codes.shape[:2]


def _call(function: Any, *arguments: Any) -> None:
    try:
        function(instruction_set(), *arguments, torch.get_num_threads())
    except ValueError as error:
        raise CodecError(f"these trellis codes can't be read: {error}") from None


OPERATORS.implement("CPU", Trellis.built, _decode, _matmul)
