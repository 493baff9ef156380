"""Headers of safetensors files to be written: tensors that follow each other without holes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from tilepress.formats.safetensors_header import DTYPE_CODES, LENGTH_BYTES, PACKED_PAIRS
from tilepress.formats.tensor_info import TensorInfo

DATA_ALIGNMENT = 64
"""The data of a file begins at a multiple of this."""


def header_json(metadata: Mapping[str, str], tensors: Iterable[TensorInfo]) -> bytes:
    """The JSON of a header whose tensors follow each other in this order."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for tensor in tensors:
        code, shape = DTYPE_CODES[tensor.dtype], list(tensor.shape)
        if code == PACKED_PAIRS:
            shape[-1] *= 2
        end = offset + tensor.size_bytes
        header[tensor.name] = {"dtype": code, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    return json.dumps(header, separators=(",", ":")).encode()


def room_for(text_bytes: int) -> int:
    """Where the data begins behind a header of so many bytes of JSON."""
    return -(-(LENGTH_BYTES + text_bytes) // DATA_ALIGNMENT) * DATA_ALIGNMENT


def padded_header(text: bytes, room: int) -> bytes:
    """Length field and JSON, filled up with spaces to `room` bytes.

    Raises:
        ValueError: the JSON doesn't fit.
    """
    length = room - LENGTH_BYTES
    if len(text) > length:
        raise ValueError(f"a header of {len(text)} bytes does not fit into {length}")
    return length.to_bytes(LENGTH_BYTES, "little") + text.ljust(length)
