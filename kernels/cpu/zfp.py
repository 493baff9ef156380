"""Native coding of `zfp` and multiplication by it.

    tilepress::zfp_decode    a range of rows and columns, dense
    tilepress::zfp_matmul    x @ weight[rows].T + bias

At fixed rate only the blocks of the range are read; in the other modes, a panel is read from its beginning.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch

from tilepress.kernels import _native
from tilepress.kernels.cpu import panels
from tilepress.kernels.cpu.buffers import DTYPE_NAMES, buffer
from tilepress.kernels.cpu.instruction_set import instruction_set
from tilepress.kernels.encoded import PANEL_ROWS, Encoded
from tilepress.kernels.encoded import panels as panel_count
from tilepress.kernels.errors import CodecError
from tilepress.kernels.layout.zfp import ZfpParams


def decode(encoded: Encoded, rows: range, columns: range, dtype: torch.dtype) -> torch.Tensor:
    """Values of the range in `dtype`, bit-identical with the reference: any bytes give some values.

    Raises:
        CodecError: parts that don't fit the tensor's shape.
    """
    return torch.ops.tilepress.zfp_decode(  # type: ignore[no-any-return]
        encoded.parts["payload"],
        encoded.parts["offsets"],
        *mode_of(encoded.params),
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
        CodecError: parts that don't fit the tensor's shape, or `values` that doesn't fit the range.
    """
    if not values.is_contiguous():
        raise CodecError("zfp can only be decoded into a contiguous tensor")
    parts, mode = encoded.parts, mode_of(encoded.params)
    weight = _weight(parts["payload"], parts["offsets"], mode, encoded.rows, encoded.columns)
    weight.decode_into(values, (rows.start, rows.stop), (columns.start, columns.stop))


def matmul(x: torch.Tensor, encoded: Encoded, bias: torch.Tensor | None, rows: range) -> torch.Tensor:
    """`x @ weight[rows].T + bias`, accumulated in float32: [..., columns] -> [..., len(rows)] in the dtype of x.

    Raises:
        CodecError: parts or a bias that don't fit the weight's shape.
    """
    return torch.ops.tilepress.zfp_matmul(  # type: ignore[no-any-return]
        x,
        encoded.parts["payload"],
        encoded.parts["offsets"],
        bias,
        *mode_of(encoded.params),
        encoded.rows,
        rows.start,
        rows.stop,
    )


def weight(encoded: Encoded) -> _native.Weight:
    """The weight as a decoder reads it."""
    parts, mode = encoded.parts, mode_of(encoded.params)
    native = _weight(parts["payload"], parts["offsets"], mode, encoded.rows, encoded.columns)
    return _native.zfp_weight(instruction_set(), native.parts)


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


class _Weight(NamedTuple):
    """One weight, a `panels.NativeWeight`."""

    parts: _native.ZfpParts

    def decode_into(self, values: torch.Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> None:
        dtype, threads = DTYPE_NAMES[values.dtype], torch.get_num_threads()
        try:
            _native.zfp_decode(instruction_set(), self.parts, rows, columns, dtype, buffer(values), threads)
        except ValueError as error:
            raise CodecError(f"codec zfp: {error}") from None

    def multiply(
        self, rows: tuple[int, int], x: _native.Buffer, bias: _native.Buffer, y: _native.Buffer, dtype: str, count: int
    ) -> None:
        threads = torch.get_num_threads()
        try:
            _native.zfp_multiply(instruction_set(), self.parts, rows, x, bias, y, dtype, count, threads)
        except ValueError as error:
            raise CodecError(f"codec zfp: {error}") from None


def _weight(payload: torch.Tensor, offsets: torch.Tensor, mode: tuple[str, float], height: int, width: int) -> _Weight:
    for part, wanted in ((payload, torch.uint8), (offsets, torch.int64)):
        if part.dtype != wanted or not part.is_contiguous():
            raise CodecError("codec zfp: a part has the wrong dtype, or is not contiguous")
    return _Weight(_native.ZfpParts(buffer(payload), buffer(offsets), _native.ZfpMode(*mode), height, width))


def _decode(
    payload: torch.Tensor,
    offsets: torch.Tensor,
    mode: str,
    value: float,
    height: int,
    width: int,
    row_first: int,
    row_last: int,
    column_first: int,
    column_last: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    weight = _weight(payload, offsets, (mode, value), height, width)
    return panels.decode(weight, (row_first, row_last), (column_first, column_last), dtype)


def _matmul(
    x: torch.Tensor,
    payload: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None,
    mode: str,
    value: float,
    height: int,
    row_first: int,
    row_last: int,
) -> torch.Tensor:
    weight = _weight(payload, offsets, (mode, value), height, x.shape[-1])
    return panels.matmul(x, weight, bias, (row_first, row_last))


def _fake_decode(
    payload: torch.Tensor,
    offsets: torch.Tensor,
    mode: str,
    value: float,
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
    bias: torch.Tensor | None,
    mode: str,
    value: float,
    height: int,
    row_first: int,
    row_last: int,
) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], row_last - row_first)


# PyTorch's own types leave these calls untyped.
_LIBRARY: Any = cast(Any, torch.library).Library("tilepress", "FRAGMENT")
_WEIGHT = "Tensor payload, Tensor offsets"
_LIBRARY.define(
    f"zfp_decode({_WEIGHT}, str mode, float value, SymInt height, SymInt width, SymInt row_first, SymInt row_last, "
    "SymInt column_first, SymInt column_last, ScalarType dtype) -> Tensor"
)
_LIBRARY.define(
    f"zfp_matmul(Tensor x, {_WEIGHT}, Tensor? bias, str mode, float value, SymInt height, SymInt row_first, "
    "SymInt row_last) -> Tensor"
)
_LIBRARY.impl("zfp_decode", _decode, "CPU")
_LIBRARY.impl("zfp_matmul", _matmul, "CPU")
torch.library.register_fake("tilepress::zfp_decode", _fake_decode, lib=_LIBRARY)
torch.library.register_fake("tilepress::zfp_matmul", _fake_matmul, lib=_LIBRARY)
