"""Decoding of `sz`: residuals from each tile, then prefix sums, then values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from tilepress.kernels.encoded import PANEL_ROWS, Encoded, bytes_of
from tilepress.kernels.errors import CodecError
from tilepress.kernels.layout.sz import (
    HEAD_BYTES,
    LANES,
    TILE_COLUMNS,
    SzParams,
    SzTable,
    low_bytes,
    planes,
    read_table,
    tiles_across,
)
from tilepress.kernels.reference import rans

Bytes: TypeAlias = npt.NDArray[np.uint8]
Integers: TypeAlias = npt.NDArray[np.int32]

_SIGNED: Mapping[int, str] = {2: "<i2", 4: "<i4"}


def decode(encoded: Encoded, rows: range, columns: range) -> torch.Tensor:
    """Values of the range in the tensor's own dtype.

    Raises:
        CodecError: a table or a tile that is damaged.
    """
    params = encoded.params
    assert isinstance(params, SzParams)
    table = read_table(encoded.parts["table"].cpu())
    offsets = encoded.parts["offsets"].cpu()
    payload = np.frombuffer(bytes_of(encoded.parts["payload"].cpu()), np.uint8)
    across = tiles_across(encoded.columns)
    dense = torch.empty(len(rows), len(columns), dtype=encoded.dtype)
    for panel in range(rows.start // PANEL_ROWS, -(-rows.stop // PANEL_ROWS)):
        for tile in range(columns.start // TILE_COLUMNS, -(-columns.stop // TILE_COLUMNS)):
            top, left = panel * PANEL_ROWS, tile * TILE_COLUMNS
            bottom, right = min(top + PANEL_ROWS, encoded.rows), min(left + TILE_COLUMNS, encoded.columns)
            begin, end = offsets[panel * across + tile : panel * across + tile + 2].tolist()
            shape = (bottom - top, right - left)
            values = _tile(payload[begin:end], shape, table, params.predictor, encoded.dtype)
            above, below = max(top, rows.start), min(bottom, rows.stop)
            before, after = max(left, columns.start), min(right, columns.stop)
            dense[above - rows.start : below - rows.start, before - columns.start : after - columns.start] = values[
                above - top : below - top, before - left : after - left
            ]
    return dense.to(encoded.device)


def _tile(data: Bytes, shape: tuple[int, int], table: SzTable, predictor: str, dtype: torch.dtype) -> torch.Tensor:
    count, size = shape[0] * shape[1], dtype.itemsize

    def take(length: int) -> Bytes:
        nonlocal data
        if len(data) < length:
            raise CodecError("codec sz: a tile is damaged")
        taken, data = data[:length], data[length:]
        return taken

    exceptions, outliers, stream_bytes = take(HEAD_BYTES).view("<u2").tolist()
    low_size = low_bytes(table.shift, count)
    has_cargo = low_size >= LANES
    low_stored, stream = take(low_size - LANES * has_cargo), take(stream_bytes)
    exception_places = _places(take(2 * exceptions), count)
    exception_highs = take(2 * exceptions).view("<i2")
    outlier_places = _places(take(2 * outliers), count)
    outlier_bits = take(size * outliers)
    if stream_bytes < 2 * LANES:
        raise CodecError("codec sz: a tile is damaged")
    symbols, cargo = rans.decode(stream, count, table.symbols, table.frequencies)
    low = _low(np.concatenate([low_stored, cargo]) if has_cargo else low_stored, table.shift, count)
    high = symbols.astype(np.int32) - 128
    high[exception_places] = exception_highs
    q = _integers((high * np.int32(1 << table.shift) + low).reshape(shape), predictor)
    values = (torch.from_numpy(q).float() * table.step).to(dtype)
    bits = values.reshape(-1).view(torch.int16 if size == 2 else torch.int32)
    bits[torch.from_numpy(outlier_places)] = torch.from_numpy(outlier_bits.view(_SIGNED[size]).copy())
    return values


def _places(stored: Bytes, count: int) -> npt.NDArray[np.int64]:
    places = stored.view("<u2").astype(np.int64)
    if (places >= count).any() or (places[1:] <= places[:-1]).any():
        raise CodecError("codec sz: a tile is damaged")
    return places


def _low(stored: Bytes, shift: int, count: int) -> Integers:
    low, bit = np.zeros(count, np.int32), 0
    for width in planes(shift):
        size = low_bytes(width, count)
        plane, stored = stored[:size].astype(np.int32), stored[size:]
        fields = [(plane >> (width * field)) & ((1 << width) - 1) for field in range(8 // width)]
        low |= np.concatenate(fields)[:count] << bit
        bit += width
    return low


def _integers(residuals: Integers, predictor: str) -> Integers:
    """The prefix sums that undo the prediction, modulo 2^32."""
    sums: Any = residuals
    if predictor != "none":
        sums = np.cumsum(sums, axis=1, dtype=np.int32)
    if predictor == "lorenzo2":
        sums = np.cumsum(sums, axis=0, dtype=np.int32)
    return np.ascontiguousarray(sums, dtype=np.int32)
