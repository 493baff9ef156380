"""What codecs whose panels differ in length share on a GPU: checks of their parts, and products.

Offsets and payloads stay on the GPU, and are not looked at before a kernel does: that would make every call wait. So
kernels read nothing outside of a payload, whatever its bytes and offsets are, and what is damaged becomes NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from tilepress.kernels.cuda import registry
from tilepress.kernels.cuda.launch import Int, Launcher, Pointer
from tilepress.kernels.cuda.panels import matmul_by_blocks, require_on
from tilepress.kernels.encoded import PANEL_ROWS
from tilepress.kernels.errors import CodecError
from tilepress.kernels.layout.offsets import ALIGNMENT

_MOST = 2**31 - 1
"""Kernels count rows and columns in 32 bits."""


def require_payload(payload: torch.Tensor, offsets: torch.Tensor, table: torch.Tensor | None = None) -> None:
    """Check that kernels may read these parts.

    Raises:
        CodecError: a part of another dtype or rank, with gaps, or on another device than the payload.
    """
    for name, part, dtype in (
        ("payload", payload, torch.uint8),
        ("offsets", offsets, torch.int64),
        ("table", table, torch.uint8),
    ):
        if part is None:
            continue
        require_on(payload, f"the part {name}", part)
        if part.dtype != dtype or part.ndim != 1 or not part.is_contiguous():
            raise CodecError(f"the part {name} is no contiguous vector of {dtype}")
    if payload.data_ptr() % ALIGNMENT or payload.numel() % ALIGNMENT:
        raise CodecError(f"the payload does not begin and end at a multiple of {ALIGNMENT} bytes")


def require_range(shape: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> None:
    """Raise `CodecError` unless a weight of `shape` has this range."""
    if not (0 <= rows[0] <= rows[1] <= shape[0] <= _MOST and 0 <= columns[0] <= columns[1] <= shape[1] <= _MOST):
        raise CodecError(f"there are no rows {rows[0]}:{rows[1]} and columns {columns[0]}:{columns[1]} in {shape}")


def panels_of(rows: tuple[int, int]) -> int:
    """Panels that hold these rows."""
    return -(-rows[1] // PANEL_ROWS) - rows[0] // PANEL_ROWS


def matmul(
    device: Launcher,
    x: torch.Tensor,
    payload: torch.Tensor,
    bias: torch.Tensor | None,
    rows: tuple[int, int],
    decode: Callable[[tuple[int, int]], torch.Tensor],
    partial_sums: Callable[[torch.Tensor], torch.Tensor] | None,
) -> torch.Tensor:
    """`x @ weight[rows].T + bias`: [..., columns] -> [..., rows] in the dtype of x.

    Args:
        device: what runs kernels.
        x, payload, bias, rows: of the operator, with the payload of the weight.
        decode: rows of the weight, dense in the dtype of x.
        partial_sums: one to `MOST_VECTORS` rows of x -> float32 [splits of the columns, rows of x, rows]; None where
            blocks of decoded rows are multiplied instead.

    Raises:
        CodecError: x on another device, or a bias that doesn't fit.
    """
    batch, height = x.shape[:-1], rows[1] - rows[0]
    require_on(payload, "x", x)
    if bias is not None:
        require_on(payload, "the bias", bias)
        if bias.shape != (height,):
            raise CodecError(f"a bias of shape {tuple(bias.shape)} does not fit {height} rows")
        bias = bias.to(x.dtype).contiguous()
    vectors = x.reshape(batch.numel(), x.shape[-1]).contiguous()
    y = x.new_empty((len(vectors), height))
    if not y.numel():
        return y.reshape(*batch, height)
    if partial_sums is None or len(vectors) > registry.MOST_VECTORS:
        return matmul_by_blocks(vectors, decode, bias, rows).reshape(*batch, height)
    partials = partial_sums(vectors)
    device.launch(
        registry.add_splits(x.dtype),
        (-(-y.numel() // registry.THREADS), 1),
        (Pointer(partials), Pointer(bias), Pointer(y), Int(len(partials)), Int(len(vectors)), Int(height)),
    )
    return y.reshape(*batch, height)
