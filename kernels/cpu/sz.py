"""Native decoding of `sz` and multiplication by it.

tilepress::sz_decode    a range of rows and columns, dense
tilepress::sz_matmul    x @ weight[rows].T + bias
"""

from __future__ import annotations

from typing import cast

import torch

from tilepress.kernels import _native
from tilepress.kernels.cpu import panels
from tilepress.kernels.cpu.buffers import DTYPE_NAMES
from tilepress.kernels.cpu.instruction_set import instruction_set
from tilepress.kernels.encoded import Encoded
from tilepress.kernels.layout.sz import SzParams
from tilepress.kernels.operators import Described, Operators

OPERATORS = Operators(
    "sz",
    ("Tensor payload", "Tensor offsets", "Tensor table"),
    ("str predictor", "ScalarType source", "SymInt height"),
)


def decode(encoded: Encoded, rows: range, columns: range, dtype: torch.dtype) -> torch.Tensor:
    """Values of the range in `dtype`, bit-identical with the reference.

    Raises:
        CodecError: parts that are damaged or don't fit the tensor's shape.
    """
    return OPERATORS.decode(described(encoded), rows, columns, dtype)


def decode_into(values: torch.Tensor, encoded: Encoded, rows: range, columns: range) -> None:
    """As `decode`, into a contiguous tensor [len(rows), len(columns)] that is there already; not an operator.

    Raises:
        CodecError: as `decode`, or `values` that doesn't fit the range.
    """
    panels.require_contiguous("sz", values)
    _weight_of(encoded).decode_into(values, (rows.start, rows.stop), (columns.start, columns.stop))


def matmul(x: torch.Tensor, encoded: Encoded, bias: torch.Tensor | None, rows: range) -> torch.Tensor:
    """`x @ weight[rows].T + bias`, accumulated in float32.

    Raises:
        CodecError: as `decode`, or a bias that doesn't fit.
    """
    if panels.is_plain_call(x):
        weight = panels.weight_of(encoded, lambda: _weight_of(encoded))
        return panels.matmul(x, weight, bias, (rows.start, rows.stop))
    return OPERATORS.matmul(x, described(encoded), bias, rows)


def weight(encoded: Encoded) -> _native.Weight:
    """The weight as a decoder reads it."""
    return _native.sz_weight(instruction_set(), _weight_of(encoded).parts)


def described(encoded: Encoded) -> Described:
    """A weight as the operators take it."""
    parts, predictor = encoded.parts, cast(SzParams, encoded.params).predictor
    tensors = parts["payload"], parts["offsets"], parts["table"]
    return Described(tensors, (predictor, encoded.dtype, encoded.rows), encoded.columns)


def _weight_of(encoded: Encoded) -> panels.NativeWeight:
    return described(encoded).build(_weight)


def _weight(
    payload: torch.Tensor,
    offsets: torch.Tensor,
    table: torch.Tensor,
    predictor: str,
    source: torch.dtype,
    height: int,
    width: int,
) -> panels.NativeWeight:
    of_payload, of_offsets, of_table = panels.require_payload("sz", payload=payload, offsets=offsets, table=table)
    native = _native.SzParts(of_payload, of_offsets, of_table, predictor, DTYPE_NAMES[source], height, width)
    return panels.NativeWeight("sz", native, _native.sz_decode, _native.sz_multiply)


OPERATORS.implement("CPU", _weight, panels.decode, panels.matmul)
