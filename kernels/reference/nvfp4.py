"""Decoding of `nvfp4`: (global scale * scale) * value of the code."""

from __future__ import annotations

import torch

from tilepress.kernels.encoded import Encoded
from tilepress.kernels.layout import e2m1
from tilepress.kernels.layout.nvfp4 import GROUP
from tilepress.kernels.reference.tiles import codes_of, e2m1_values, e4m3_values, of_groups


def decode(encoded: Encoded, rows: range, columns: range) -> torch.Tensor:
    """Values of the range in float32."""
    values = e2m1_values(codes_of(encoded, e2m1.BITS, rows, columns))
    scales = of_groups(encoded, "scales", GROUP, rows, columns, e4m3_values)
    return values * (scales * encoded.parts["global_scale"][0])
