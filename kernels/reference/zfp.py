"""Decoding of `zfp` through zfpy, panel by panel."""

from __future__ import annotations

import numpy as np
import torch
import zfpy

from tilepress.kernels.encoded import PANEL_ROWS, Encoded
from tilepress.kernels.layout.zfp import MOST_BLOCK_BYTES, ZfpParams, blocks


def mode_of(params: ZfpParams) -> dict[str, float]:
    """zfpy's arguments for the mode: none at all is the reversible one."""
    return {key: value for key in ("rate", "precision", "tolerance") if (value := getattr(params, key)) is not None}


def decode(encoded: Encoded, rows: range, columns: range) -> torch.Tensor:
    """Values of the range in float32. Bytes that no encoder wrote give some values, never a crash."""
    params = encoded.params
    assert isinstance(params, ZfpParams)
    panel_first, panel_last = rows.start // PANEL_ROWS, -(-rows.stop // PANEL_ROWS)
    offsets = encoded.parts["offsets"][panel_first : panel_last + 1].tolist()
    payload = encoded.parts["payload"].cpu().numpy()
    values = torch.empty(len(rows), len(columns))
    for panel, begin, end in zip(range(panel_first, panel_last), offsets, offsets[1:], strict=False):
        first = panel * PANEL_ROWS
        height = min(PANEL_ROWS, encoded.rows - first)
        # zfp's decoder does not know where its input ends: give it as many bytes as it could ever read.
        stream = np.zeros(max(end - begin, blocks(height, encoded.columns) * MOST_BLOCK_BYTES) + 8, np.uint8)
        stream[: end - begin] = payload[begin:end]
        dense = zfpy._decompress(stream.data, zfpy.type_float, (height, encoded.columns), **mode_of(params))
        panel_rows = range(max(first, rows.start), min(first + PANEL_ROWS, rows.stop))
        values[panel_rows.start - rows.start : panel_rows.stop - rows.start] = torch.from_numpy(dense)[
            panel_rows.start - first : panel_rows.stop - first, columns.start : columns.stop
        ]
    return values.to(encoded.device)
