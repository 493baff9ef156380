"""Encoder of `lossless`: one table a tensor from the counts of all its bytes, then block by block, natively.

Version 1 is written where it is asked for: byte planes of each panel, each through zstd unless that makes it longer.
"""

from __future__ import annotations

import torch

from tilepress.compress.calibration.statistics import Statistics
from tilepress.compress.codecs.lossless_version1 import encode_version1
from tilepress.compress.codecs.panels import as_matrix, runs
from tilepress.kernels import PANEL_ROWS, BackendError, Encoded
from tilepress.kernels.encoded import bytes_of
from tilepress.kernels.layout.lossless import (
    BLOCK_COLUMNS,
    PLANE_WIDTHS,
    LosslessParams,
    most_block_bytes,
    table_bytes,
)
from tilepress.kernels.layout.offsets import aligned, offsets_length

try:
    from tilepress.kernels import _native
    from tilepress.kernels.cpu.buffers import DTYPE_NAMES, buffer
except ImportError:
    _HAS_NATIVE = False
else:
    _HAS_NATIVE = True


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
    table = _table(matrix)
    blocks = -(-matrix.shape[1] // BLOCK_COLUMNS)
    payload = bytearray()
    sizes = []
    for run in runs(matrix):
        rows, columns = run.shape
        count = -(-rows // PANEL_ROWS) * blocks
        most = most_block_bytes(run.dtype, PANEL_ROWS * min(columns, BLOCK_COLUMNS))
        room = torch.empty(count * most, dtype=torch.uint8)
        run_sizes = torch.empty(count, dtype=torch.int64)
        values = run.contiguous()
        written = _native.lossless_encode(
            buffer(values),
            DTYPE_NAMES[run.dtype],
            rows,
            columns,
            buffer(table),
            buffer(room),
            buffer(run_sizes),
            torch.get_num_threads(),
        )
        payload += bytes_of(room[:written])
        sizes.append(run_sizes)
    return {"payload": _padded(payload), "offsets": _offsets(sizes), "table": table}


def _table(matrix: torch.Tensor) -> torch.Tensor:
    name = DTYPE_NAMES[matrix.dtype]
    counts = torch.zeros(len(PLANE_WIDTHS[matrix.dtype]), 256, dtype=torch.int64)
    for run in runs(matrix):
        values = run.contiguous()
        _native.lossless_count(buffer(values), name, buffer(counts), torch.get_num_threads())
    table = torch.empty(table_bytes(matrix.dtype), dtype=torch.uint8)
    _native.lossless_table(buffer(counts), name, buffer(table))
    return table


def _padded(payload: bytearray) -> torch.Tensor:
    payload += bytes(aligned(len(payload)) - len(payload))
    return torch.frombuffer(payload, dtype=torch.uint8) if payload else torch.empty(0, dtype=torch.uint8)


def _offsets(sizes: list[torch.Tensor]) -> torch.Tensor:
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), *sizes]).cumsum(0)
    return torch.cat([ends, ends[-1:].expand(offsets_length(len(ends) - 1) - len(ends))])
