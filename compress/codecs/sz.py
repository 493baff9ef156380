"""Encoder of `sz`: one table a tensor from a sample of its panels, then tile by tile, natively.

Each value is decoded as it is encoded, and what would miss the bound in the tensor's own dtype is stored as it is. So
the bound holds whatever the values are.
"""

from __future__ import annotations

import torch

from tilepress.compress.calibration.statistics import Statistics
from tilepress.compress.codecs.panels import as_matrix, encode_runs, runs, sample
from tilepress.kernels import PANEL_ROWS, BackendError, Encoded
from tilepress.kernels.layout.sz import TABLE_BYTES, TILE_COLUMNS, SzParams, most_tile_bytes, tiles_across

try:
    from tilepress.kernels import _native
    from tilepress.kernels.cpu.buffers import DTYPE_NAMES, buffer
    from tilepress.kernels.cpu.instruction_set import instruction_set
except ImportError:
    _HAS_NATIVE = False
else:
    _HAS_NATIVE = True

SAMPLE_VALUES = 1 << 16
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
    name = DTYPE_NAMES[weight.dtype]
    table = torch.empty(TABLE_BYTES, dtype=torch.uint8)
    chosen = sample(matrix, SAMPLE_VALUES)
    rows, columns = chosen.shape
    _native.sz_fit(buffer(chosen), name, rows, columns, bound, params.predictor, buffer(table))

    def encode_run(run: torch.Tensor, room: torch.Tensor, sizes: torch.Tensor) -> int:
        return _native.sz_encode(
            instruction_set(),
            buffer(run),
            name,
            run.shape[0],
            run.shape[1],
            bound,
            params.predictor,
            buffer(table),
            buffer(room),
            buffer(sizes),
            torch.get_num_threads(),
        )

    most = most_tile_bytes(weight.dtype, PANEL_ROWS * min(columns, TILE_COLUMNS))
    parts = encode_runs(matrix, tiles_across(columns), most, encode_run)
    return Encoded(params, tuple(weight.shape), weight.dtype, {**parts, "table": table})


def _value_range(matrix: torch.Tensor) -> float:
    """Difference of the largest and the smallest finite value; 0 where there is none."""
    lowest, highest = float("inf"), float("-inf")
    for run in runs(matrix):
        finite = run[torch.isfinite(run)]
        if finite.numel():
            low, high = torch.aminmax(finite)
            lowest, highest = min(lowest, float(low)), max(highest, float(high))
    return max(0.0, highest - lowest)
