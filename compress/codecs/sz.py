"""Encoder of `sz`: one table a tensor from a sample of its panels, then tile by tile, natively.

Each value is decoded as it is encoded, and what would miss the bound in the tensor's own dtype is stored as it is. So
the bound holds whatever the values are.
"""

from __future__ import annotations

import torch

from tilepress.compress.calibration.statistics import Statistics
from tilepress.compress.codecs.panels import as_matrix, runs
from tilepress.kernels import PANEL_ROWS, BackendError, Encoded
from tilepress.kernels.encoded import bytes_of
from tilepress.kernels.layout.offsets import aligned, offsets_length
from tilepress.kernels.layout.sz import TABLE_BYTES, TILE_COLUMNS, SzParams, most_tile_bytes, tiles_across

try:
    from tilepress.kernels import _native
    from tilepress.kernels.cpu.buffers import DTYPE_NAMES, buffer
except ImportError:
    _HAS_NATIVE = False
else:
    _HAS_NATIVE = True

SAMPLE_VALUES = 1 << 17
"""About so many values choose the table. What they lack is not lost: it costs an exception or an outlier."""


def encode(weight: torch.Tensor, params: SzParams, statistics: Statistics | None = None) -> Encoded:
    """Compress so that every finite value comes back within the bound, and NaN and infinities bit for bit.

    Raises:
        CodecError: a dtype that can't be compressed.
        BackendError: the native kernels are not built.
    """
    if not _HAS_NATIVE:
        raise BackendError("codec sz needs the native kernels to compress; they are not built here")
    matrix = as_matrix(weight)
    bound = params.abs if params.abs is not None else float(params.rel or 0) * _value_range(matrix)
    table = torch.empty(TABLE_BYTES, dtype=torch.uint8)
    sample = _sample(matrix)
    _native.sz_fit(
        buffer(sample),
        DTYPE_NAMES[weight.dtype],
        sample.shape[0],
        sample.shape[1],
        bound,
        params.predictor,
        buffer(table),
    )
    payload = bytearray()
    sizes = [torch.zeros(1, dtype=torch.int64)]
    for run in runs(matrix):
        data, run_sizes = _encode_run(run.contiguous(), bound, params.predictor, table)
        payload += bytes_of(data)
        sizes.append(run_sizes)
    payload += bytes(aligned(len(payload)) - len(payload))
    ends = torch.cat(sizes).cumsum(0)
    parts = {
        "payload": torch.frombuffer(payload, dtype=torch.uint8) if payload else torch.empty(0, dtype=torch.uint8),
        "offsets": torch.cat([ends, ends[-1:].expand(offsets_length(len(ends) - 1) - len(ends))]),
        "table": table,
    }
    return Encoded(params, tuple(weight.shape), weight.dtype, parts)


def _encode_run(
    run: torch.Tensor, bound: float, predictor: str, table: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The tiles of a run of panels, and the bytes of each."""
    rows, columns = run.shape
    count = -(-rows // PANEL_ROWS) * tiles_across(columns)
    room = torch.empty(count * most_tile_bytes(run.dtype, PANEL_ROWS * min(columns, TILE_COLUMNS)), dtype=torch.uint8)
    sizes = torch.empty(count, dtype=torch.int64)
    written = _native.sz_encode(
        buffer(run),
        DTYPE_NAMES[run.dtype],
        rows,
        columns,
        bound,
        predictor,
        buffer(table),
        buffer(room),
        buffer(sizes),
        torch.get_num_threads(),
    )
    return room[:written], sizes


def _value_range(matrix: torch.Tensor) -> float:
    """Difference of the largest and the smallest finite value; 0 where there is none."""
    lowest, highest = float("inf"), float("-inf")
    for run in runs(matrix):
        finite = run[torch.isfinite(run)]
        if finite.numel():
            low, high = torch.aminmax(finite)
            lowest, highest = min(lowest, float(low)), max(highest, float(high))
    return max(0.0, highest - lowest)


def _sample(matrix: torch.Tensor) -> torch.Tensor:
    """Whole panels, evenly spread over the matrix: about `SAMPLE_VALUES` values or all there are."""
    rows, columns = matrix.shape
    panels = -(-rows // PANEL_ROWS)
    wanted = min(panels, -(-SAMPLE_VALUES // max(1, PANEL_ROWS * columns)))
    if wanted == panels:
        return matrix.contiguous()
    firsts = [panel * panels // wanted * PANEL_ROWS for panel in range(wanted)]
    return torch.cat([matrix[first : first + PANEL_ROWS] for first in firsts])
