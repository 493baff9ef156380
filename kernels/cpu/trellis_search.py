"""The native search for trellis codes."""

from __future__ import annotations

import torch

from tilepress.kernels import _native
from tilepress.kernels.cpu.buffers import buffer
from tilepress.kernels.cpu.instruction_set import instruction_set


def search(wanted: torch.Tensor, bits: int, window: int, survivors: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes whose values come close to those that are wanted.

    Args:
        wanted: float32 [rows, columns], multiples of 16, in units of the code's integers.
        bits: a weight, 1..8.
        window: bits of a state, 12..16.
        survivors: paths that are followed, about; 0 for an exact search.

    Returns:
        The codes, uint8 [rows / 16, columns / 16, 32 bits], and what they decode to, float32 [rows, columns].
    """
    rows, columns = wanted.shape
    wanted = wanted.contiguous()
    codes = torch.empty(rows // 16, columns // 16, 32 * bits, dtype=torch.uint8)
    found = torch.empty_like(wanted)
    _native.trellis_encode(
        instruction_set(),
        bits,
        window,
        survivors,
        rows // 16,
        columns // 16,
        buffer(wanted),
        buffer(found),
        buffer(codes),
        torch.get_num_threads(),
    )
    return codes, found
