"""What the encoders of 4-bit floating codes share: rounding to a code, and the choice between two scales."""

from __future__ import annotations

import torch

from tilepress.kernels.layout import e2m1


def round_to_codes(scaled: torch.Tensor) -> torch.Tensor:
    """Values -> the nearest codes, uint8; ties go to the even code, and what is too large to the largest."""
    magnitude = scaled.abs().clamp_(max=e2m1.MAGNITUDES[-1])
    step = 0.5 + 0.5 * (magnitude >= 2) + (magnitude >= 4)
    rounded = (magnitude / step).round_().mul_(step)
    codes = torch.bucketize(rounded, torch.tensor(e2m1.MAGNITUDES), out_int32=True).to(torch.uint8)
    return codes | (scaled.signbit().to(torch.uint8) << 3)


def values_of(codes: torch.Tensor) -> torch.Tensor:
    """Codes -> float32 values."""
    return torch.tensor(e2m1.CODE_BOOK)[codes.long()]


def squared_error(grouped: torch.Tensor) -> torch.Tensor:
    """Sum of squares over the last dimension, a power of two, always added up in the same order: in halves."""
    squares = grouped.square()
    while squares.shape[-1] > 1:
        half = squares.shape[-1] // 2
        squares = squares[..., :half] + squares[..., half:]
    return squares[..., 0]
