"""Decoding of `none`: nothing to do."""

from __future__ import annotations

import torch

from tilepress.kernels.encoded import Encoded


def decode(encoded: Encoded, rows: range, columns: range) -> torch.Tensor:
    """The values as they are, in the tensor's own dtype."""
    matrix = encoded.parts[""].reshape(encoded.rows, encoded.columns)
    return matrix[rows.start : rows.stop, columns.start : columns.stop]
