"""Decoding of `fp8`: scale * value of the code."""

from __future__ import annotations

import torch

from tilepress.kernels.encoded import Encoded
from tilepress.kernels.layout.fp8 import Fp8Params
from tilepress.kernels.reference.tiles import codes_of, of_groups


def decode(encoded: Encoded, rows: range, columns: range) -> torch.Tensor:
    """Values of the range in float32."""
    params = encoded.params
    assert isinstance(params, Fp8Params)
    codes = codes_of(encoded, 8, rows, columns).contiguous().view(params.code_dtype)
    return codes.float() * of_groups(encoded, "scales", params.group, rows, columns)
