"""Decoding of `int`: scale * (code - zero point)."""

from __future__ import annotations

import torch

from tilepress.kernels.encoded import Encoded
from tilepress.kernels.layout.int import IntParams
from tilepress.kernels.reference.tiles import codes_of, of_groups


def decode(encoded: Encoded, rows: range, columns: range) -> torch.Tensor:
    """Values of the range in float32."""
    params = encoded.params
    assert isinstance(params, IntParams)
    codes = codes_of(encoded, params.bits, rows, columns).float()
    if params.symmetric:
        codes -= float(1 << (params.bits - 1))
    else:
        codes -= of_groups(encoded, "zero_points", params.group, rows, columns)
    return codes * of_groups(encoded, "scales", params.group, rows, columns)
