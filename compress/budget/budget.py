"""What the user asks for: a size, an average of bits per weight, or a bound on the KL divergence."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tilepress.kernels import RecipeError


@dataclass(frozen=True)
class Budget:
    """Exactly one of the three.

    Attributes:
        size_bytes: most bytes of the weight files, headers included.
        bits: most bits per weight, over all tensors of two or more dimensions.
        kl: most KL divergence from the original, nats a token on average.
    """

    size_bytes: int | None = None
    bits: float | None = None
    kl: float | None = None

    def __post_init__(self) -> None:
        """Raise `RecipeError` unless exactly one is given and makes sense."""
        given = [value for value in (self.size_bytes, self.bits, self.kl) if value is not None]
        if len(given) != 1:
            raise RecipeError("a budget is exactly one of a size, bits per weight and a KL divergence")
        if not math.isfinite(given[0]) or given[0] <= 0:
            raise RecipeError(f"a budget of {given[0]} can't be met; give a positive number")

    def __str__(self) -> str:
        """As the command line takes it."""
        if self.size_bytes is not None:
            return f"--size {self.size_bytes}"
        return f"--bits {self.bits:g}" if self.bits is not None else f"--max-kl {self.kl:g}"
