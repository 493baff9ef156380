"""Native decoding of `lossless` and multiplication by it.

    tilepress::lossless_decode    a range of rows and columns, dense
    tilepress::lossless_matmul    x @ weight[rows].T + bias

Version 1, which only early files have, is decoded by the reference.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch

from tilepress.kernels import _native
from tilepress.kernels.cpu import panels
from tilepress.kernels.cpu.buffers import DTYPE_NAMES
from tilepress.kernels.cpu.instruction_set import instruction_set
from tilepress.kernels.encoded import Encoded
from tilepress.kernels.layout.lossless import LosslessParams
from tilepress.kernels.operators import Described, Operators, Range
from tilepress.kernels.reference import lossless as reference

OPERATORS = Operators(
    "lossless", ("Tensor payload", "Tensor offsets", "Tensor table"), ("ScalarType source", "SymInt height")
)


def decode(encoded: Encoded, rows: range, columns: range, dtype: torch.dtype) -> torch.Tensor:
    """Values of the range in `dtype`, bit-identical with the reference.

    Raises:
        CodecError: parts that are damaged or don't fit the tensor's shape.
    """
    if _is_version1(encoded):
        return reference.decode(encoded, rows, columns).to(dtype)
    return OPERATORS.decode(described(encoded), rows, columns, dtype)


def decode_into(values: torch.Tensor, encoded: Encoded, rows: range, columns: range) -> None:
    """As `decode`, into a contiguous tensor [len(rows), len(columns)] that is there already; not an operator."""
    panels.require_contiguous("lossless", values)
    _weight_of(encoded).decode_into(values, (rows.start, rows.stop), (columns.start, columns.stop))


def matmul(x: torch.Tensor, encoded: Encoded, bias: torch.Tensor | None, rows: range) -> torch.Tensor:
    """`x @ weight[rows].T + bias`, accumulated in float32.

    Raises:
        CodecError: as `decode`, or a bias that doesn't fit.
    """
    if _is_version1(encoded):
        return panels.matmul_by_blocks(x, _Version1(encoded).decode_into, bias, (rows.start, rows.stop))
    if panels.is_plain_call(x):
        weight = panels.weight_of(encoded, lambda: _weight_of(encoded))
        return panels.matmul(x, weight, bias, (rows.start, rows.stop))
    return OPERATORS.matmul(x, described(encoded), bias, rows)


def weight(encoded: Encoded) -> _native.Weight | None:
    """The weight as a decoder reads it; none of version 1, which has no native kernel."""
    if _is_version1(encoded):
        return None
    return _native.lossless_weight(instruction_set(), _weight_of(encoded).parts)


def _is_version1(encoded: Encoded) -> bool:
    return cast(LosslessParams, encoded.params).version == 1


class _Version1(NamedTuple):
    encoded: Encoded

    def decode_into(self, values: torch.Tensor, rows: Range, columns: Range) -> None:
        values.copy_(reference.decode(self.encoded, range(*rows), range(*columns)))


def described(encoded: Encoded) -> Described:
    """A weight of version 2 as the operators take it."""
    parts = encoded.parts
    tensors = parts["payload"], parts["offsets"], parts["table"]
    return Described(tensors, (encoded.dtype, encoded.rows), encoded.columns)


def _weight_of(encoded: Encoded) -> panels.NativeWeight:
    return described(encoded).build(_weight)


def _weight(
    payload: torch.Tensor, offsets: torch.Tensor, table: torch.Tensor, source: torch.dtype, height: int, width: int
) -> panels.NativeWeight:
    """One weight of version 2."""
    of_payload, of_offsets, of_table = panels.require_payload("lossless", payload=payload, offsets=offsets, table=table)
    native = _native.LosslessParts(of_payload, of_offsets, of_table, DTYPE_NAMES[source], height, width)
    return panels.NativeWeight("lossless", native, _native.lossless_decode, _native.lossless_multiply)


OPERATORS.implement("CPU", _weight, panels.decode, panels.matmul)
