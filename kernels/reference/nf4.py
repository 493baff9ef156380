"""Decoding of `nf4`: scale * CODE_BOOK[code]."""

from __future__ import annotations

import torch

from tilepress.kernels.encoded import Encoded
from tilepress.kernels.layout.nf4 import CODE_BOOK, Nf4Params
from tilepress.kernels.reference.tiles import codes_of, of_groups


def decode(encoded: Encoded, rows: range, columns: range) -> torch.Tensor:
    """Values of the range in float32."""
    params = encoded.params
    assert isinstance(params, Nf4Params)
    codes = codes_of(encoded, 4, rows, columns)
    book = torch.tensor(CODE_BOOK, dtype=torch.float32, device=codes.device)
    return book[codes.long()] * of_groups(encoded, "scales", params.group, rows, columns)
