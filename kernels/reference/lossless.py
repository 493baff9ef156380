"""Decoding of `lossless`: the planes of each block, put together again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from tilepress.kernels.encoded import PANEL_ROWS, Encoded, bytes_of
from tilepress.kernels.errors import CodecError
from tilepress.kernels.layout.lossless import (
    AS_IT_IS,
    BLOCK_COLUMNS,
    CODED,
    CONSTANT,
    HEAD_BYTES,
    LANES,
    PLANE_WIDTHS,
    STORED,
    LosslessParams,
    PlaneCode,
    read_table,
    stored_bytes,
)
from tilepress.kernels.reference import lossless_version1, rans

Bytes: TypeAlias = npt.NDArray[np.uint8]
Words: TypeAlias = npt.NDArray[np.uint32]

_WORDS: Mapping[int, npt.DTypeLike] = {2: "<u2", 4: "<u4"}
_SIGNED: Mapping[int, npt.DTypeLike] = {2: "<i2", 4: "<i4"}


def decode(encoded: Encoded, rows: range, columns: range) -> torch.Tensor:
    """Values of the range, bit-identical, in the tensor's own dtype.

    Raises:
        CodecError: a block or plane that is not what the encoder wrote.
    """
    params = encoded.params
    assert isinstance(params, LosslessParams)
    if params.version == 1:
        return lossless_version1.decode(encoded, rows, columns)
    codes = read_table(encoded.dtype, encoded.parts["table"])
    offsets = encoded.parts["offsets"].cpu()
    payload = np.frombuffer(bytes_of(encoded.parts["payload"].cpu()), np.uint8)
    blocks = -(-encoded.columns // BLOCK_COLUMNS)
    words = np.empty((len(rows), len(columns)), np.uint32)
    for panel in range(rows.start // PANEL_ROWS, -(-rows.stop // PANEL_ROWS)):
        for block in range(columns.start // BLOCK_COLUMNS, -(-columns.stop // BLOCK_COLUMNS)):
            top, left = panel * PANEL_ROWS, block * BLOCK_COLUMNS
            bottom, right = min(top + PANEL_ROWS, encoded.rows), min(left + BLOCK_COLUMNS, encoded.columns)
            begin, end = offsets[panel * blocks + block : panel * blocks + block + 2].tolist()
            planes = _planes(_Reader(payload[begin:end]), encoded.dtype, codes, (bottom - top) * (right - left))
            values = _values(encoded.dtype, planes).reshape(bottom - top, right - left)
            above, below = max(top, rows.start), min(bottom, rows.stop)
            before, after = max(left, columns.start), min(right, columns.stop)
            words[above - rows.start : below - rows.start, before - columns.start : after - columns.start] = values[
                above - top : below - top, before - left : after - left
            ]
    size = encoded.dtype.itemsize
    bits = torch.from_numpy(words.astype(_WORDS[size]).view(_SIGNED[size]))
    return bits.view(encoded.dtype).to(encoded.device)


class _Reader:
    """Bytes of a block, one after the other."""

    def __init__(self, block: Bytes) -> None:
        self._left = block

    def take(self, count: int) -> Bytes:
        """The next `count` bytes."""
        if len(self._left) < count:
            raise CodecError("codec lossless: a block is damaged")
        taken, self._left = self._left[:count], self._left[count:]
        return taken


def _planes(reader: _Reader, dtype: torch.dtype, codes: list[PlaneCode], count: int) -> list[Words]:
    """The planes of one block of `count` values, lowest first."""
    widths = PLANE_WIDTHS[dtype]
    heads = {p: reader.take(HEAD_BYTES).view("<u2").tolist() for p, code in enumerate(codes) if code.mode == CODED}
    as_they_are = [p for p, code in enumerate(codes) if code.mode == AS_IT_IS and widths[p] == 8]
    top = len(codes) - 1
    has_cargo = count >= LANES and bool(as_they_are) and heads.get(top, [STORED])[0] != STORED
    planes = [np.zeros(count, np.uint8) for _ in codes]
    for p, code in enumerate(codes):
        if code.mode == CONSTANT:
            planes[p][:] = code.constant
        elif code.mode == AS_IT_IS:
            here = count - LANES if has_cargo and p == as_they_are[0] else count
            planes[p][:here] = _stored(reader, widths[p], here)
    for p, (exceptions, size) in heads.items():
        if exceptions == STORED:
            planes[p] = _stored(reader, widths[p], count)
            continue
        stream = reader.take(size)
        positions, symbols = reader.take(2 * exceptions).view("<u2"), reader.take(exceptions)
        if size < 2 * LANES or (positions >= count).any():
            raise CodecError("codec lossless: a block is damaged")
        planes[p], cargo = rans.decode(stream, count, codes[p].symbols, codes[p].frequencies)
        planes[p][positions] = symbols
        if has_cargo and p == top:
            last = np.arange(count - LANES, count)
            planes[as_they_are[0]][last] = cargo[last % LANES]
    return [plane.astype(np.uint32) for plane in planes]


def _stored(reader: _Reader, width: int, count: int) -> Bytes:
    """A plane that is stored as it is."""
    stored = reader.take(stored_bytes(width, count))
    if width == 8:
        return stored
    plane, low = np.zeros(count, np.uint8), 0
    for bits in (4, 2, 1):
        if width & bits:
            size = stored_bytes(bits, count)
            fields = [(stored[:size] >> (bits * field)) & ((1 << bits) - 1) for field in range(8 // bits)]
            plane |= np.concatenate(fields)[:count] << low
            stored, low = stored[size:], low + bits
    return plane


def _values(dtype: torch.dtype, planes: list[Words]) -> Words:
    """The bits of each value."""
    if dtype == torch.float32:
        return (_turned_back(planes[3] * 256 + planes[2]) * 65536) + planes[1] * 256 + planes[0]
    if dtype == torch.float16:
        return _turned_back(planes[2] * 1024 + planes[1] * 256 + planes[0])
    return _turned_back(planes[1] * 256 + planes[0])


def _turned_back(halves: Words) -> Words:
    return halves // 2 + halves % 2 * 32768
