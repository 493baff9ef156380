"""The 4-bit floating codes of `mxfp4` and `nvfp4`: sign, 2 bits of exponent, 1 bit of mantissa.

The format is FP4 E2M1 of the OCP Microscaling Formats (MX) Specification 1.0 (2023), section 5.3.3: neither NaN nor
infinities.
"""

from __future__ import annotations

BITS = 4

MAGNITUDES: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Of codes 0 to 7."""

CODE_BOOK: tuple[float, ...] = (*MAGNITUDES, *(-value for value in MAGNITUDES))
"""Of codes 0 to 15; code 8 is -0."""
