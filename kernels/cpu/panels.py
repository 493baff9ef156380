"""What the operators of all native codecs share: a product is one kernel's for few rows of x, and PyTorch's for many.

A few rows of x are multiplied as the weight is decoded, in registers or a near cache. Of many rows, each decoded weight
is used so often that a block of them is decoded into cache and left to PyTorch's matmul. Neither ever holds the whole
weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from tilepress.kernels import _native
from tilepress.kernels.cpu.buffers import DTYPE_NAMES, buffer
from tilepress.kernels.cpu.instruction_set import instruction_set
from tilepress.kernels.encoded import PANEL_ROWS, Encoded
from tilepress.kernels.errors import CodecError
from tilepress.kernels.operators import Range

BLOCK_BYTES = 1 << 22
"""Of the weights that are decoded at a time for many rows of x, so that the last cache holds them."""


class Weight(Protocol):
    """One encoded weight. Both raise `CodecError` for parts that don't fit."""

    def decode_into(self, values: torch.Tensor, rows: Range, columns: Range) -> None:
        """Write a range to `values`, contiguous [rows, columns] of any dtype that can be compressed."""

    def multiply(
        self, rows: Range, x: _native.Buffer, bias: _native.Buffer, y: _native.Buffer, dtype: str, count: int
    ) -> None:
        """Write x @ weight[rows].T + bias to `y`, for 1..MOST_VECTORS rows of x; all are of `dtype`."""


@dataclass(frozen=True)
class NativeWeight:
    """A weight as its codec's native functions see it.

    Attributes:
        codec: its name, for messages.
        parts: as native code knows them; they hold addresses, but no values.
        decode: of native code.
        product: likewise, for a few rows of x.
    """

    codec: str
    parts: Any
    decode: Callable[..., None]
    product: Callable[..., None]

    def decode_into(self, values: torch.Tensor, rows: Range, columns: Range) -> None:
        place = DTYPE_NAMES[values.dtype], buffer(values)
        try:
            self.decode(instruction_set(), self.parts, rows, columns, *place, torch.get_num_threads())
        except ValueError as error:
            raise CodecError(f"codec {self.codec}: {error}") from None

    def multiply(
        self, rows: Range, x: _native.Buffer, bias: _native.Buffer, y: _native.Buffer, dtype: str, count: int
    ) -> None:
        try:
            self.product(instruction_set(), self.parts, rows, x, bias, y, dtype, count, torch.get_num_threads())
        except ValueError as error:
            raise CodecError(f"codec {self.codec}: {error}") from None


# The stacks of PyTorch's modes, of torch.func and of torch.jit; it has no public way of asking for the first two.
_modes = torch._C._len_torch_dispatch_stack
_is_transformed = torch._C._functorch.is_functorch_wrapped_tensor
_graph_of_jit = torch._C._get_tracing_state


def is_plain_call(x: torch.Tensor) -> bool:
    """Whether x is in main memory and nobody traces, transforms or watches operators, so that none need be called.

    A call through PyTorch's dispatcher takes longer than all else that Python does for a product.
    """
    return (
        not torch.compiler.is_compiling()
        and type(x) is torch.Tensor
        and x.is_cpu
        and not _modes()
        and not _is_transformed(x)
        and _graph_of_jit() is None
    )


def weight_of(encoded: Encoded, build: Callable[[], Weight]) -> Weight:
    """`build()`, kept as long as the parts lie where they lay: it may hold addresses, but no values.

    Raises:
        CodecError: parts that don't lie in main memory, or what `build` raises.
    """
    memory = [buffer(part) for part in encoded.parts.values()]
    known: tuple[object, Weight] | None = encoded.notes.get("native weight")
    if known is None or known[0] != memory:
        if not all(part.is_cpu for part in encoded.parts.values()):
            raise CodecError("x is in main memory, but not all parts of the weight")
        known = encoded.notes["native weight"] = (memory, build())
    return known[1]


def require_payload(codec: str, **parts: torch.Tensor) -> tuple[_native.Buffer, ...]:
    """The parts payload, offsets and, of some codecs, table, as native code takes them.

    Raises:
        CodecError: a part of another dtype, or with gaps.
    """
    for name, part in parts.items():
        if part.dtype != (torch.int64 if name == "offsets" else torch.uint8) or not part.is_contiguous():
            raise CodecError(f"codec {codec}: the part {name} has the wrong dtype, or is not contiguous")
    return tuple(map(buffer, parts.values()))


def require_contiguous(codec: str, values: torch.Tensor) -> None:
    """Raise `CodecError` unless native code may write to these values."""
    if not values.is_contiguous():
        raise CodecError(f"codec {codec} can only be decoded into a contiguous tensor")


def decode(weight: Weight, rows: Range, columns: Range, dtype: torch.dtype) -> torch.Tensor:
    """Values of a range, `dtype` [rows, columns].

    Raises:
        CodecError: parts that don't fit the tensor's shape.
    """
    values = torch.empty(rows[1] - rows[0], columns[1] - columns[0], dtype=dtype)
    weight.decode_into(values, rows, columns)
    return values


def matmul(x: torch.Tensor, weight: Weight, bias: torch.Tensor | None, rows: Range) -> torch.Tensor:
    """`x @ weight[rows].T + bias`: [..., columns] -> [..., rows] in the dtype of x.

    Raises:
        CodecError: parts or a bias that don't fit the weight's shape.
    """
    batch = x.shape[:-1]
    count = batch.numel()
    if count > _native.MOST_VECTORS:
        return matmul_by_blocks(x, weight.decode_into, bias, rows)
    y = x.new_empty((*batch, rows[1] - rows[0]))
    if count:
        vectors = x.contiguous()
        addend = None if bias is None else _in_main_memory(bias).to(x.dtype).contiguous()
        weight.multiply(rows, buffer(vectors), buffer(addend), buffer(y), DTYPE_NAMES[x.dtype], count)
    return y


def _in_main_memory(bias: torch.Tensor) -> torch.Tensor:
    if not bias.is_cpu:
        raise CodecError("x is in main memory, but not the bias")
    return bias


def matmul_by_blocks(
    x: torch.Tensor,
    decode_into: Callable[[torch.Tensor, Range, Range], None],
    bias: torch.Tensor | None,
    rows: Range,
) -> torch.Tensor:
    """As `matmul`, for any number of rows of x: PyTorch's matmul with one block of decoded rows after the other."""
    columns, height = x.shape[-1], rows[1] - rows[0]
    dtype = dtype_of_many(x.dtype)
    vectors = x.reshape(x.shape[:-1].numel(), columns).to(dtype)
    y = x.new_empty((vectors.shape[0], height))
    step = panels_together(columns, dtype) * PANEL_ROWS
    block = torch.empty(min(step, height), columns, dtype=dtype)
    for first in range(rows[0], rows[1], step):
        last = min(first + step, rows[1])
        values = block[: last - first]
        decode_into(values, (first, last), (0, columns))
        piece = slice(first - rows[0], last - rows[0])
        y[:, piece] = torch.nn.functional.linear(vectors, values, None if bias is None else bias[piece].to(dtype))
    return y.view(*x.shape[:-1], height)


def dtype_of_many(dtype: torch.dtype) -> torch.dtype:
    """In which many rows of x are multiplied: PyTorch's products of 16-bit floats are slow without AVX-512."""
    return dtype if instruction_set() == "avx512" else torch.float32


def panels_together(columns: int, dtype: torch.dtype) -> int:
    """Panels of so many columns that are decoded at a time for many rows of x."""
    return max(1, BLOCK_BYTES // (max(1, columns) * dtype.itemsize * PANEL_ROWS))
