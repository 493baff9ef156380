"""The operators of fixed-rate tiles on tensors in main memory.

    tilepress::tiles_decode    a range of rows and columns, dense
    tilepress::tiles_matmul    x @ weight[rows].T + bias

A few rows of x are multiplied as the codes are decoded, in registers: that is as fast as memory delivers them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from tilepress.kernels import _native
from tilepress.kernels.cpu import panels
from tilepress.kernels.cpu.buffers import buffer
from tilepress.kernels.cpu.instruction_set import instruction_set
from tilepress.kernels.encoded import Encoded, dtype_name
from tilepress.kernels.errors import CodecError
from tilepress.kernels.operators import Described, Operators

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


OPERATORS = Operators(
    "tiles",
    ("Tensor codes", "Tensor scales", "Tensor? zero_points", "Tensor? global_scale"),
    ("str code", "int bits", "int group", "str scale_format"),
)


def decode(encoded: Encoded, code: TileCode, rows: range, columns: range, dtype: torch.dtype) -> torch.Tensor:
    """Values of the range, `dtype` [len(rows), len(columns)].

    Raises:
        CodecError: parts that don't fit the tensor's shape.
    """
    return OPERATORS.decode(Described(parts_of(encoded), code, encoded.columns), rows, columns, dtype)


def decode_into(values: torch.Tensor, encoded: Encoded, code: TileCode, rows: range, columns: range) -> None:
    """As `decode`, into a contiguous tensor [len(rows), len(columns)] that is there already; not an operator.

    Raises:
        CodecError: parts that don't fit the tensor's shape, or `values` that doesn't fit the range.
    """
    panels.require_contiguous(encoded.codec, values)
    weight = _weight(*parts_of(encoded), *code, encoded.columns)
    weight.decode_into(values, (rows.start, rows.stop), (columns.start, columns.stop))


def matmul(x: torch.Tensor, encoded: Encoded, code: TileCode, bias: torch.Tensor | None, rows: range) -> torch.Tensor:
    """`x @ weight[rows].T + bias`: [..., columns] -> [..., len(rows)] in the dtype of x.

    Raises:
        CodecError: parts or a bias that don't fit the weight's shape.
    """
    if panels.is_plain_call(x):
        weight = panels.weight_of(encoded, lambda: _weight(*parts_of(encoded), *code, encoded.columns))
        return panels.matmul(x, weight, bias, (rows.start, rows.stop))
    return OPERATORS.matmul(x, Described(parts_of(encoded), code, encoded.columns), bias, rows)


def native_weight(encoded: Encoded, code: TileCode) -> _native.Weight:
    """The weight as a decoder reads it; see `decoder.Decoder`."""
    return _native.tiles_weight(instruction_set(), native_parts(parts_of(encoded), code, encoded.columns), encoded.rows)


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


def _weight(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor | None,
    global_scale: torch.Tensor | None,
    code: str,
    bits: int,
    group: int,
    scale_format: str,
    width: int,
) -> panels.NativeWeight:
    parts = native_parts(
        Parts(codes, scales, zero_points, global_scale), TileCode(code, bits, group, scale_format), width
    )
    return panels.NativeWeight(code, parts, _native.tiles_decode, _native.tiles_multiply)


OPERATORS.implement("CPU", _weight, panels.decode, panels.matmul)
