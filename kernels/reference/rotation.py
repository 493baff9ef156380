"""The rotation of `layout.rotation` in PyTorch, along the last dimension, in the dtype of the values.

Sums are taken in the order that is written here, which is what makes decoding bit-identical everywhere.
"""

from __future__ import annotations

import math

import torch

from tilepress.kernels.layout.rotation import hartley, rotation_of


def rotate(values: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """The signs, then the symmetric matrix: [..., n] -> [..., n] in the same dtype, float32 or float64.

    Args:
        values: n is a multiple of 16.
        signs: uint8 [n / 8], packed as `layout.rotation` says.
    """
    return _mix(values * unpack_signs(signs, values.dtype))


def rotate_back(values: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """The inverse of `rotate`: the same matrix, then the signs."""
    return _mix(values) * unpack_signs(signs, values.dtype)


def unpack_signs(signs: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Packed signs [n / 8] -> +1 and -1, [n]."""
    bits = (signs[:, None] >> torch.arange(8, device=signs.device)) & 1
    return (1 - 2 * bits.to(dtype)).flatten()


def _mix(values: torch.Tensor) -> torch.Tensor:
    odd, power = rotation_of(values.shape[-1])
    shape = values.shape
    half = 1
    while half < power:
        pairs = values.reshape(*shape[:-1], shape[-1] // (2 * half), 2, half)
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        values = torch.stack((first + second, first - second), dim=-2).reshape(shape)
        half *= 2
    values = values * torch.tensor(1.0 / math.sqrt(power), dtype=torch.float32).to(values.dtype)
    if odd == 1:
        return values
    table = hartley(odd).to(values.dtype).to(values.device)
    blocks = values.reshape(*shape[:-1], shape[-1] // (odd * power), odd, power)
    mixed = table[:, :1] * blocks[..., :1, :]
    for i in range(1, odd):
        mixed = mixed + table[:, i : i + 1] * blocks[..., i : i + 1, :]
    return mixed.reshape(shape)
