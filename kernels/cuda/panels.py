"""What the cuda backend's operators share: splitting small products, and products with many rows of x."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from tilepress.kernels.encoded import PANEL_ROWS
from tilepress.kernels.errors import CodecError

BLOCK_VALUES = 1 << 24
"""Weights that are decoded at a time for many rows of x: 32 MiB in bfloat16."""

_BLOCKS_A_MULTIPROCESSOR = 4
_LEAST_STAGES = 8
"""Stages of a split: one for each warp of a block."""


def splits_of(panels: int, stages: int, multiprocessors: int) -> int:
    """Into how many pieces the columns of a product are split, so that a small matrix keeps all of a GPU busy.

    Args:
        panels: blocks that there are without splitting.
        stages: pieces into which the columns could be split.
        multiprocessors: of the GPU.
    """
    wanted = _BLOCKS_A_MULTIPROCESSOR * multiprocessors // max(1, panels)
    return max(1, min(wanted, stages // _LEAST_STAGES))


def matmul_by_blocks(
    x: torch.Tensor,
    decode: Callable[[tuple[int, int]], torch.Tensor],
    bias: torch.Tensor | None,
    rows: tuple[int, int],
) -> torch.Tensor:
    """`x @ weight[rows].T + bias`, [count, rows], by one block of decoded rows after the other."""
    y = x.new_empty((len(x), rows[1] - rows[0]))
    step = max(1, BLOCK_VALUES // max(1, x.shape[1]) // PANEL_ROWS) * PANEL_ROWS
    for first in range(rows[0], rows[1], step):
        last = min(first + step, rows[1])
        piece = slice(first - rows[0], last - rows[0])
        of_block = None if bias is None else bias[piece]
        y[:, piece] = torch.nn.functional.linear(x, decode((first, last)), of_block)
    return y


def whole_tiles(x: torch.Tensor, tiles: int) -> torch.Tensor:
    """Rows of x, padded with zeros to whole tiles, where kernels can copy 16 bytes at a time; a copy where need be."""
    columns = tiles * PANEL_ROWS
    if x.shape[1] < columns:
        return torch.nn.functional.pad(x, (0, columns - x.shape[1]))
    return x if x.data_ptr() % 16 == 0 else x.clone()


def require_on(other: torch.Tensor, name: str, tensor: torch.Tensor) -> None:
    """Raise `CodecError` unless two tensors lie on the same device."""
    if tensor.device != other.device:
        raise CodecError(f"{name} is on {tensor.device}, the codes on {other.device}")


def require_parts(
    codes: torch.Tensor, wanted: Iterable[tuple[str, torch.Tensor | None, torch.dtype | None, tuple[int, ...]]]
) -> None:
    """Check name, part, dtype and shape of each part that is there; codes have to begin at a multiple of 16 bytes.

    Raises:
        CodecError: a part of another dtype or shape, with gaps, or on another device than the codes.
    """
    for name, part, dtype, shape in wanted:
        if part is None:
            continue
        require_on(codes, f"the part {name}", part)
        if part.dtype != dtype or not part.is_contiguous() or tuple(part.shape) != shape:
            raise CodecError(f"the part {name} is no contiguous {dtype} of shape {shape}")
    if codes.data_ptr() % 16:
        raise CodecError("the part codes does not begin at a multiple of 16 bytes")


def require_rows(rows: tuple[int, int], panels: int) -> None:
    """Raise `CodecError` unless so many panels have these rows."""
    if not 0 <= rows[0] <= rows[1] <= panels * PANEL_ROWS:
        raise CodecError(f"there are no rows {rows[0]} to {rows[1]} in {panels} panels")
