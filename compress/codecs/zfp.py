"""Encoder of `zfp`, a stream a panel, bit for bit as zfpy writes them.

zfp's tolerance mode can miss its bound: when values of a block differ by more than float32's precision, and when the
result is rounded to a 16-bit dtype. So the bound is measured on the values that the tensor's own dtype will hold; a
tensor that misses it is coded once more with half the tolerance, and if that fails in the reversible mode.
"""

from __future__ import annotations

import torch

from tilepress.compress.calibration.statistics import Statistics
from tilepress.compress.codecs.panels import as_matrix, require_finite, runs
from tilepress.kernels import Encoded, decode
from tilepress.kernels.cpu.zfp import encode_panels
from tilepress.kernels.encoded import bytes_of
from tilepress.kernels.layout.offsets import payload_parts
from tilepress.kernels.layout.zfp import ZfpParams


def encode(weight: torch.Tensor, params: ZfpParams, statistics: Statistics | None = None) -> Encoded:
    """Compress each panel of 16 rows into a zfp stream of its own.

    Raises:
        CodecError: NaN or infinite values outside the reversible mode, or a dtype that can't be compressed.
    """
    matrix = as_matrix(weight)
    if not params.reversible:
        for run in runs(matrix):
            require_finite(run, params.codec)
    encoded = _encode(weight, matrix, params)
    if params.tolerance is None:
        return encoded
    for fallback in (ZfpParams(tolerance=params.tolerance / 2), ZfpParams(reversible=True)):
        if _within(matrix, encoded, params.tolerance):
            break
        encoded = _encode(weight, matrix, fallback)
    return encoded


def _encode(weight: torch.Tensor, matrix: torch.Tensor, params: ZfpParams) -> Encoded:
    streams: list[bytes] = []
    for run in runs(matrix):
        payload, sizes = encode_panels(run.float().contiguous(), params)
        streams += [bytes_of(stream).tobytes() for stream in torch.split(payload, sizes.tolist())]
    return Encoded(params, tuple(weight.shape), weight.dtype, payload_parts(streams))


def _within(matrix: torch.Tensor, encoded: Encoded, tolerance: float) -> bool:
    first = 0
    for run in runs(matrix):
        back = decode(encoded, slice(first, first + run.shape[0]))
        # In float64, so that the difference itself is not rounded.
        if not bool(((back.double() - run.double()).abs() <= tolerance).all()):
            return False
        first += run.shape[0]
    return True
