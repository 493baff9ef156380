"""Native coding of `zfp` and multiplication by it.

    tilepress::zfp_decode    a range of rows and columns, dense
    tilepress::zfp_matmul    x @ weight[rows].T + bias

At fixed rate only the blocks of the range are read; in the other modes, a panel is read from its beginning.
"""

from __future__ import annotations

import torch

from tilepress.kernels import _native
from tilepress.kernels.cpu import panels
from tilepress.kernels.cpu.buffers import buffer
from tilepress.kernels.cpu.instruction_set import instruction_set
from tilepress.kernels.encoded import PANEL_ROWS, Encoded
from tilepress.kernels.encoded import panels as panel_count
from tilepress.kernels.errors import CodecError
from tilepress.kernels.layout.zfp import ZfpParams
from tilepress.kernels.operators import Described, Operators

OPERATORS = Operators("zfp", ("Tensor payload", "Tensor offsets"), ("str mode", "float value", "SymInt height"))


def decode(encoded: Encoded, rows: range, columns: range, dtype: torch.dtype) -> torch.Tensor:
    """Values of the range in `dtype`, bit-identical with the reference: any bytes give some values.

    Raises:
        CodecError: parts that don't fit the tensor's shape.
    """
    return OPERATORS.decode(described(encoded), rows, columns, dtype)


def decode_into(values: torch.Tensor, encoded: Encoded, rows: range, columns: range) -> None:
    """As `decode`, into a contiguous tensor [len(rows), len(columns)] that is there already; not an operator.

    Raises:
        CodecError: parts that don't fit the tensor's shape, or `values` that doesn't fit the range.
    """
    panels.require_contiguous("zfp", values)
    _weight_of(encoded).decode_into(values, (rows.start, rows.stop), (columns.start, columns.stop))


def matmul(x: torch.Tensor, encoded: Encoded, bias: torch.Tensor | None, rows: range) -> torch.Tensor:
    """`x @ weight[rows].T + bias`, accumulated in float32: [..., columns] -> [..., len(rows)] in the dtype of x.

    Raises:
        CodecError: parts or a bias that don't fit the weight's shape.
    """
    if panels.is_plain_call(x):
        weight = panels.weight_of(encoded, lambda: _weight_of(encoded))
        return panels.matmul(x, weight, bias, (rows.start, rows.stop))
    return OPERATORS.matmul(x, described(encoded), bias, rows)


def weight(encoded: Encoded) -> _native.Weight:
    """The weight as a decoder reads it."""
    return _native.zfp_weight(instruction_set(), _weight_of(encoded).parts)


def encode_panels(matrix: torch.Tensor, params: ZfpParams) -> tuple[torch.Tensor, torch.Tensor]:
    """The streams of a float32 matrix's panels, uint8 [bytes], and their lengths in bytes, int64 [panels].

    Memory beside the matrix is what its streams could take at most: a third more than itself.

    Raises:
        CodecError: a matrix that isn't contiguous float32.
    """
    rows, columns = matrix.shape
    if matrix.dtype != torch.float32 or not matrix.is_contiguous():
        raise CodecError("codec zfp: panels are encoded from contiguous float32")
    mode, count = _native.ZfpMode(*mode_of(params)), panel_count(rows)
    room = torch.empty(count * _native.zfp_stream_bytes(mode, [PANEL_ROWS, columns], "float32"), dtype=torch.uint8)
    sizes = torch.zeros(count, dtype=torch.int64)
    size = _native.zfp_encode(
        instruction_set(), mode, buffer(matrix), rows, columns, buffer(room), buffer(sizes), torch.get_num_threads()
    )
    return room[:size], sizes


def mode_of(params: object) -> tuple[str, float]:
    """The mode's name and its only parameter, 0 where it has none."""
    assert isinstance(params, ZfpParams)
    options = {"rate": params.rate, "precision": params.precision, "tolerance": params.tolerance}
    return next(((name, float(value)) for name, value in options.items() if value is not None), ("reversible", 0.0))


def described(encoded: Encoded) -> Described:
    """A weight as the operators take it."""
    tensors = encoded.parts["payload"], encoded.parts["offsets"]
    return Described(tensors, (*mode_of(encoded.params), encoded.rows), encoded.columns)


def _weight_of(encoded: Encoded) -> panels.NativeWeight:
    return described(encoded).build(_weight)


def _weight(
    payload: torch.Tensor, offsets: torch.Tensor, mode: str, value: float, height: int, width: int
) -> panels.NativeWeight:
    of_payload, of_offsets = panels.require_payload("zfp", payload=payload, offsets=offsets)
    native = _native.ZfpParts(of_payload, of_offsets, _native.ZfpMode(mode, value), height, width)
    return panels.NativeWeight("zfp", native, _native.zfp_decode, _native.zfp_multiply)


OPERATORS.implement("CPU", _weight, panels.decode, panels.matmul)
