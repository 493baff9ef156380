"""zfp streams of arrays of 1 to 3 dimensions, float32 and float64, on native code.

Bit for bit what zfpy's `compress_numpy(..., write_header=False)` writes and reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tilepress.kernels import _native
from tilepress.kernels.cpu.buffers import buffer
from tilepress.kernels.cpu.instruction_set import instruction_set
from tilepress.kernels.encoded import dtype_name
from tilepress.kernels.errors import CodecError


def compress(
    array: torch.Tensor, *, rate: float | None = None, precision: int | None = None, tolerance: float | None = None
) -> torch.Tensor:
    """One zfp stream of `array`, uint8 [bytes], a whole number of 64-bit words.

    Args:
        array: float32 or float64 of 1 to 3 dimensions, in main memory.
        rate: bits a value, the same for each block of 4^d values.
        precision: bit planes a block.
        tolerance: largest absolute error that is aimed at.
        At most one of them; with none, the stream is reversible.

    Raises:
        CodecError: an array or a mode that zfp doesn't have.
    """
    values = array.detach().contiguous()
    mode, name = _mode(rate, precision, tolerance), dtype_name(values.dtype)
    try:
        stream = torch.empty(_native.zfp_stream_bytes(mode, list(values.shape), name), dtype=torch.uint8)
        size = _native.zfp_encode_stream(
            instruction_set(), mode, list(values.shape), name, buffer(values), buffer(stream)
        )
    except ValueError as error:
        raise CodecError(f"codec zfp: {error}") from None
    return stream[:size].clone()


def decompress(
    stream: torch.Tensor,
    shape: Sequence[int],
    dtype: torch.dtype,
    *,
    rate: float | None = None,
    precision: int | None = None,
    tolerance: float | None = None,
) -> torch.Tensor:
    """The array of `shape` and `dtype` that a stream holds, written in the mode that is given again.

    Any bytes give some values: a stream that ends too early goes on with zeros.

    Raises:
        CodecError: a shape, dtype or mode that zfp doesn't have.
    """
    bytes_ = stream.contiguous().view(torch.uint8)
    mode, name = _mode(rate, precision, tolerance), dtype_name(dtype)
    try:
        _native.zfp_stream_bytes(mode, list(shape), name)
        values = torch.empty(*shape, dtype=dtype)
        _native.zfp_decode_stream(instruction_set(), mode, list(shape), name, buffer(bytes_), buffer(values))
    except ValueError as error:
        raise CodecError(f"codec zfp: {error}") from None
    return values


def _mode(rate: float | None, precision: int | None, tolerance: float | None) -> _native.ZfpMode:
    options = {"rate": rate, "precision": precision, "tolerance": tolerance}
    given = {name: float(value) for name, value in options.items() if value is not None}
    if len(given) > 1:
        raise CodecError(f"codec zfp takes one of rate, precision and tolerance, not {' and '.join(given)}")
    return _native.ZfpMode(*next(iter(given.items()), ("reversible", 0.0)))
