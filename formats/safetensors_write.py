"""Headers of safetensors files to be written: tensors that follow each other without holes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from tilepress.formats.safetensors_header import DTYPE_CODES, LENGTH_BYTES, PACKED_PAIRS
from tilepress.kernels.params import Shape

DATA_ALIGNMENT = 64
"""The data of a file begins at a multiple of this."""


@dataclass(frozen=True)
class Outline:
    """Name, dtype and shape of a tensor to be written."""

    name: str
    dtype: torch.dtype
    shape: Shape

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor."""
        return self.dtype.itemsize * math.prod(self.shape)


def header_json(metadata: Mapping[str, str], outlines: Iterable[Outline]) -> bytes:
    """The JSON of a header whose tensors follow each other in this order."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for outline in outlines:
        code, shape = DTYPE_CODES[outline.dtype], list(outline.shape)
        if code == PACKED_PAIRS:
            shape[-1] *= 2
        end = offset + outline.size_bytes
        header[outline.name] = {"dtype": code, "shape": shape, "data_offsets": [offset, end]}
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
