"""The rotation that spreads a weight's outliers: signs, then an orthogonal symmetric matrix, its own inverse.

A side of n = 2^k m values, m odd, is cut into blocks of odd * power values. The matrix of a block is the Kronecker
product of

    the Hartley matrix of `odd`          cas(2 pi i j / odd) / sqrt(odd), cas = cos + sin, for any size
    the Walsh-Hadamard matrix of `power` +-1 / sqrt(power)

with power = 2^k, at most 4096, and odd the largest divisor of m up to 127. So 576 = 9 x 64 and 1536 = 3 x 512 are mixed
as a whole. Index i * power + j of a block is row i of the Hartley matrix and row j of the Walsh-Hadamard matrix.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch

MOST_POWER = 4096
MOST_ODD = 127


class Rotation(NamedTuple):
    """Sizes of the two factors of a block's matrix."""

    odd: int
    power: int

    @property
    def block(self) -> int:
        """Values of a block."""
        return self.odd * self.power


@cache
def rotation_of(side: int) -> Rotation:
    """The blocks into which a side is cut; of an empty side, blocks of one."""
    if not side:
        return Rotation(1, 1)
    power = side & -side
    rest = side // power
    odd = max(divisor for divisor in range(1, MOST_ODD + 1, 2) if rest % divisor == 0)
    return Rotation(odd, min(power, MOST_POWER))


@cache
def hartley(odd: int) -> torch.Tensor:
    """cas(2 pi i j / odd) / sqrt(odd), float32 [odd, odd]; computed in float64 and rounded once."""
    angles = [2.0 * math.pi * i / odd for i in range(odd)]
    row = [(math.cos(angle) + math.sin(angle)) / math.sqrt(odd) for angle in angles]
    return torch.tensor([[row[i * j % odd] for j in range(odd)] for i in range(odd)], dtype=torch.float32)


def packed_bytes(side: int) -> int:
    """Bytes of a side's signs: value i has bit i % 8 of byte i // 8, which is set where the sign is negative."""
    return -(-side // 8)
