"""Decoding of `lossless`, version 1: the byte planes of each panel, put together again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
import zstandard

from tilepress.kernels.encoded import PANEL_ROWS, Encoded, bytes_of
from tilepress.kernels.errors import CodecError

Words: TypeAlias = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]

_WORDS: Mapping[int, npt.DTypeLike] = {2: "<u2", 4: "<u4"}
_SIGNED: Mapping[int, npt.DTypeLike] = {2: "<i2", 4: "<i4"}


def decode(encoded: Encoded, rows: range, columns: range) -> torch.Tensor:
    """Values of the range, bit-identical, in the tensor's own dtype.

    Raises:
        CodecError: a plane that is not what the encoder wrote.
    """
    panel_first, panel_last = rows.start // PANEL_ROWS, -(-rows.stop // PANEL_ROWS)
    offsets = encoded.parts["offsets"].cpu()
    payload = bytes_of(encoded.parts["payload"].cpu())
    words = np.empty((len(rows), len(columns)), _WORDS[encoded.dtype.itemsize])
    for panel in range(panel_first, panel_last):
        first = panel * PANEL_ROWS
        panel_rows = range(max(first, rows.start), min(first + PANEL_ROWS, rows.stop))
        values = _panel_words(encoded, payload, offsets, panel)
        words[panel_rows.start - rows.start : panel_rows.stop - rows.start] = values[
            panel_rows.start - first : panel_rows.stop - first, columns.start : columns.stop
        ]
    bits = torch.from_numpy(words.view(_SIGNED[encoded.dtype.itemsize]))
    return bits.view(encoded.dtype).to(encoded.device)


def _panel_words(encoded: Encoded, payload: memoryview, offsets: torch.Tensor, panel: int) -> Words:
    """One panel as unsigned integers [rows, columns] that hold the values' bits."""
    size = encoded.dtype.itemsize
    panel_rows = min(PANEL_ROWS, encoded.rows - panel * PANEL_ROWS)
    length = panel_rows * encoded.columns
    planes = np.empty((length, size), np.uint8)
    for plane in range(size):
        begin, end = offsets[panel * size + plane : panel * size + plane + 2].tolist()
        planes[:, plane] = _plane(payload[begin:end], length)
    turned: Words = planes.reshape(-1).view(_WORDS[size])
    bits = 8 * size
    return cast(Words, ((turned >> 1) | (turned << (bits - 1))).reshape(panel_rows, encoded.columns))


def _plane(stored: memoryview, length: int) -> npt.NDArray[np.uint8]:
    if len(stored) == length:
        return np.frombuffer(stored, np.uint8)
    try:
        # A frame says itself how much the decompressor will allocate: believe it only where it is what we expect.
        if zstandard.frame_content_size(stored) != length:
            raise CodecError("codec lossless: a plane does not have the length of its panel")
        plane = zstandard.ZstdDecompressor().decompress(stored)
    except zstandard.ZstdError as error:
        raise CodecError(f"codec lossless: a plane can't be decompressed ({error})") from None
    if len(plane) != length:
        raise CodecError("codec lossless: a plane does not have the length of its panel")
    return np.frombuffer(plane, np.uint8)
