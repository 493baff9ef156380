"""What a codec makes of one tensor: named parts and the parameters that decoding needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from typing_extensions import Buffer

from tilepress.kernels.errors import CodecError
from tilepress.kernels.params import Params

PANEL_ROWS = 16
"""Rows (output channels) of a panel; also the side of a square tile of fixed-rate codecs."""

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""Dtypes that can be compressed, by the name that files use."""


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.bfloat16` -> `"bfloat16"`."""
    return str(dtype).removeprefix("torch.")


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns under which a tensor of any rank is coded: the last dimension is the columns.

    A scalar is 1 x 1 and a vector one row; a stack of matrices is one tall matrix.
    """
    if not shape:
        return 1, 1
    return math.prod(shape[:-1]), shape[-1]


def panels(rows: int) -> int:
    """Number of panels of `rows` rows; the last one may be short."""
    return -(-rows // PANEL_ROWS)


@dataclass(frozen=True)
class Encoded:
    """One tensor in compressed form.

    Attributes:
        params: the codec's parameters (a frozen dataclass; `params.codec` names the codec).
        shape: of the tensor that went in.
        dtype: of the tensor that went in: float32, float16 or bfloat16.
        parts: name -> tensor, exactly what is written to the file.
    """

    params: Params
    shape: tuple[int, ...]
    dtype: torch.dtype
    parts: Mapping[str, torch.Tensor] = field(repr=False)

    @cached_property
    def notes(self) -> dict[str, Any]:
        """What backends keep between calls, each under a name of its own.

        Parts may be swapped or moved in place at any time, so a note says which memory it is about, and is worth
        nothing for any other.
        """
        return {}

    @property
    def codec(self) -> str:
        """Name of the codec."""
        return self.params.codec

    @property
    def spec(self) -> str:
        """The codec spec that reproduces the parameters."""
        return self.params.spec()

    @property
    def rows(self) -> int:
        """Rows of the matrix that is coded."""
        return matrix_shape(self.shape)[0]

    @property
    def columns(self) -> int:
        """Columns of the matrix that is coded."""
        return self.shape[-1] if self.shape else 1

    @property
    def size_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.numel() * part.element_size() for part in self.parts.values())

    @property
    def bits_per_weight(self) -> float:
        """Bits of all parts, divided by the number of values of the tensor."""
        count = math.prod(self.shape)
        return self.size_bytes * 8 / count if count else 0.0

    @property
    def device(self) -> torch.device:
        """Where the parts lie."""
        return next(iter(self.parts.values())).device

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles begin without notes, which are about the memory of this one's parts."""
        return {name: value for name, value in self.__dict__.items() if name != "notes"}

    def to(self, device: torch.device | str) -> Encoded:
        """The same tensor with its parts on `device`."""
        parts = {name: part.to(device) for name, part in self.parts.items()}
        return Encoded(self.params, self.shape, self.dtype, parts)


def require_codable(weight: torch.Tensor) -> None:
    """Raise `CodecError` unless `weight` has a dtype that codecs take."""
    if weight.dtype not in DTYPES.values():
        raise CodecError(f"a tensor of dtype {dtype_name(weight.dtype)} can't be compressed, only {', '.join(DTYPES)}")


def bytes_of(part: torch.Tensor) -> memoryview:
    """The bytes of a part in main memory, as they lie in a file."""
    flat = part.detach().contiguous().reshape(-1).view(torch.uint8)
    return memoryview(cast(Buffer, flat.numpy()))
