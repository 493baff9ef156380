"""Encoder of `lossless`: one table a tensor from the bytes of a sample of its panels, then block by block, natively.

Version 1 is written where it is asked for: byte planes of each panel, each through zstd unless that makes it longer.
"""

from __future__ import annotations

import torch

from tilepress.compress.calibration.statistics import Statistics
from tilepress.compress.codecs.lossless_version1 import encode_version1
from tilepress.compress.codecs.panels import as_matrix, encode_runs, runs, sample
from tilepress.kernels import PANEL_ROWS, BackendError, Encoded
from tilepress.kernels.layout.lossless import (
    BLOCK_COLUMNS,
    PLANE_WIDTHS,
    LosslessParams,
    most_block_bytes,
    table_bytes,
)

try:
    from tilepress.kernels import _native
    from tilepress.kernels.cpu.buffers import DTYPE_NAMES, buffer
    from tilepress.kernels.cpu.instruction_set import instruction_set
except ImportError:
    _HAS_NATIVE = False
else:
    _HAS_NATIVE = True

SAMPLE_VALUES = 1 << 15
"""About so many values choose the table. A byte that they lack is not lost: it costs an exception."""


def encode(weight: torch.Tensor, params: LosslessParams, statistics: Statistics | None = None) -> Encoded:
    """Compress without any loss: NaN payloads, infinities, signed zeros and denormals come back bit for bit.

    Raises:
        CodecError: a dtype that can't be compressed.
        BackendError: version 2 where the native kernels are not built.
    """
    matrix = as_matrix(weight)
    if params.version == 1:
        parts = encode_version1(matrix)
    elif _HAS_NATIVE:
        parts = _encode(matrix)
    else:
        raise BackendError("codec lossless needs the native kernels to compress; they are not built here")
    return Encoded(params, tuple(weight.shape), weight.dtype, parts)


def _encode(matrix: torch.Tensor) -> dict[str, torch.Tensor]:
    name, columns = DTYPE_NAMES[matrix.dtype], matrix.shape[1]
    table = _table(matrix)

    def encode_run(run: torch.Tensor, room: torch.Tensor, sizes: torch.Tensor) -> int:
        return _native.lossless_encode(
            instruction_set(),
            buffer(run),
            name,
            run.shape[0],
            run.shape[1],
            buffer(table),
            buffer(room),
            buffer(sizes),
            torch.get_num_threads(),
        )

    most = most_block_bytes(matrix.dtype, PANEL_ROWS * min(columns, BLOCK_COLUMNS))
    return {**encode_runs(matrix, -(-columns // BLOCK_COLUMNS), most, encode_run), "table": table}


def _table(matrix: torch.Tensor) -> torch.Tensor:
    counts = _counts(sample(matrix, SAMPLE_VALUES))
    if bool((counts.count_nonzero(dim=1) <= 1).any()):
        # Only the whole tensor can say that all its values have the same byte.
        counts = sum((_counts(run.contiguous()) for run in runs(matrix)), torch.zeros_like(counts))
    table = torch.empty(table_bytes(matrix.dtype), dtype=torch.uint8)
    _native.lossless_table(buffer(counts), DTYPE_NAMES[matrix.dtype], buffer(table))
    return table


def _counts(values: torch.Tensor) -> torch.Tensor:
    """How often each plane has each byte: int64 [planes, 256]."""
    counts = torch.zeros(len(PLANE_WIDTHS[values.dtype]), 256, dtype=torch.int64)
    _native.lossless_count(buffer(values), DTYPE_NAMES[values.dtype], buffer(counts), torch.get_num_threads())
    return counts
