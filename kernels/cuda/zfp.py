"""The operators of `zfp` on a GPU: `tilepress::zfp_decode` and `tilepress::zfp_matmul`.

At fixed rate every block is found at once, and one to eight rows of x are multiplied as blocks are decoded. In the
other modes a panel is read from its beginning, and blocks of decoded rows are left to PyTorch's matmul.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from tilepress.kernels.cpu.zfp import OPERATORS

# The operators, which every device has.
from tilepress.kernels.cpu.zfp import decode as decode
from tilepress.kernels.cpu.zfp import matmul as matmul
from tilepress.kernels.cuda import payloads, registry
from tilepress.kernels.cuda.launch import Argument, Int, Launcher, Long, Pointer, launcher
from tilepress.kernels.cuda.panels import splits_of
from tilepress.kernels.errors import CodecError
from tilepress.kernels.layout.zfp import BLOCK, BLOCK_VALUES

_MOST_PLANES = 32
_LEAST_EXPONENT = -1074
_HEADER_BITS = 9


class Zfp(NamedTuple):
    """A weight as the operators take it; `value` is the mode's only parameter, 0 where it has none."""

    payload: torch.Tensor
    offsets: torch.Tensor
    mode: str
    value: float
    height: int
    width: int

    def pointers(self) -> tuple[Argument, ...]:
        """What every kernel begins with."""
        return Pointer(self.payload), Long(self.payload.numel()), Pointer(self.offsets)

    @property
    def block_bits(self) -> int | None:
        """Bits of a block at fixed rate, None in the other modes.

        Raises:
            CodecError: a rate that leaves no room for the exponent of a block, or more than its values take.
        """
        if self.mode != "rate":
            return None
        bits = math.floor(BLOCK_VALUES * self.value + 0.5) if math.isfinite(self.value) else 0
        if not _HEADER_BITS <= bits <= 32 * BLOCK_VALUES:
            raise CodecError(f"codec zfp: a rate of {self.value} bits a value is out of range")
        return bits

    def limits(self) -> tuple[int, int, int]:
        """Of a mode of variable length: the most planes, the least exponent, whether it is reversible.

        Raises:
            CodecError: a mode that there is not, or a parameter that it doesn't take.
        """
        if self.mode == "reversible":
            return _MOST_PLANES, _LEAST_EXPONENT, 1
        if self.mode == "precision" and 1 <= self.value <= 64:
            return int(self.value), _LEAST_EXPONENT, 0
        if self.mode == "tolerance" and math.isfinite(self.value) and self.value > 0:
            return _MOST_PLANES, math.frexp(self.value)[1] - 1, 0
        raise CodecError(f"codec zfp: there is no mode {self.mode}={self.value}")


def decode_on(
    device: Launcher, weight: Zfp, rows: tuple[int, int], columns: tuple[int, int], dtype: torch.dtype
) -> torch.Tensor:
    """Values of a range, `dtype` [rows, columns]; NaN where offsets are damaged.

    Raises:
        CodecError: parts that don't fit each other or the range.
    """
    _check(weight, rows, columns)
    values = weight.payload.new_empty((rows[1] - rows[0], columns[1] - columns[0]), dtype=dtype)
    bits = weight.block_bits
    arguments: tuple[int, ...]
    if bits is None:
        items = payloads.panels_of(rows)
        kernel, of_block, arguments = registry.zfp_decode_variable(dtype), registry.WARPS, (*weight.limits(), items)
    else:
        items = _blocks(rows) * _blocks(columns)
        kernel, of_block, arguments = registry.zfp_decode_fixed(dtype), registry.THREADS, (bits, items)
    if values.numel():
        numbers = map(Int, (*arguments, weight.width, *rows, *columns))
        device.launch(kernel, (-(-items // of_block), 1), (*weight.pointers(), Pointer(values), *numbers))
    return values


def matmul_on(
    device: Launcher, x: torch.Tensor, weight: Zfp, bias: torch.Tensor | None, rows: tuple[int, int]
) -> torch.Tensor:
    """`x @ weight[rows].T + bias`: [..., columns] -> [..., rows] in the dtype of x; NaN where offsets are damaged.

    Raises:
        CodecError: parts or a bias that don't fit.
    """
    every = 0, weight.width
    _check(weight, rows, every)
    bits = weight.block_bits

    def partial_sums(vectors: torch.Tensor) -> torch.Tensor:
        panels = payloads.panels_of(rows)
        # Each of a line 's 64 threads takes a block at least.
        splits = splits_of(panels, _blocks(every) // 8, device.multiprocessors)
        partials = x.new_empty((splits, len(vectors), rows[1] - rows[0]), dtype=torch.float32)
        device.launch(
            registry.zfp_multiply(x.dtype),
            (panels, splits),
            (
                *weight.pointers(),
                *map(Pointer, (vectors, partials)),
                *map(Int, (bits or 0, len(vectors), weight.width, *rows)),
            ),
        )
        return partials

    def dense(piece: tuple[int, int]) -> torch.Tensor:
        return decode_on(device, weight, piece, every, x.dtype)

    return payloads.matmul(device, x, weight.payload, bias, rows, dense, None if bits is None else partial_sums)


def _blocks(side: tuple[int, int]) -> int:
    """Blocks that hold these rows or columns."""
    return -(-side[1] // BLOCK) - side[0] // BLOCK


def _check(weight: Zfp, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    """Raise `CodecError` unless kernels may read these parts."""
    payloads.require_range((weight.height, weight.width), rows, columns)
    payloads.require_payload(weight.payload, weight.offsets)
    if weight.offsets.numel() <= payloads.panels_of((0, weight.height)):
        raise CodecError("codec zfp: the offsets do not fit the shape")


OPERATORS.implement(
    "CUDA",
    Zfp,
    lambda weight, rows, columns, dtype: decode_on(launcher(weight.payload.device), weight, rows, columns, dtype),
    lambda x, weight, bias, rows: matmul_on(launcher(x.device), x, weight, bias, rows),
)
