"""A codec's kernels as tests call them: of an encoded tensor, the whole of it where no range is said."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch

from tilepress.kernels import Encoded
from tilepress.kernels.cuda.launch import Launcher


class Calls(NamedTuple):
    """What `module` of tilepress.kernels.cuda runs on a device, of weights as `weight_of` makes them."""

    module: ModuleType
    weight_of: Callable[[Encoded], Any]

    def decode(
        self,
        device: Launcher,
        encoded: Encoded,
        dtype: torch.dtype,
        rows: range | None = None,
        columns: range | None = None,
    ) -> torch.Tensor:
        """Dense values of a range, `dtype` [rows, columns]."""
        piece = _ends(rows, encoded.rows), _ends(columns, encoded.columns)
        found: torch.Tensor = self.module.decode_on(device, self.weight_of(encoded), *piece, dtype)
        return found

    def matmul(
        self,
        device: Launcher,
        x: torch.Tensor,
        encoded: Encoded,
        bias: torch.Tensor | None = None,
        rows: range | None = None,
    ) -> torch.Tensor:
        """`x @ weight[rows].T + bias`."""
        piece = _ends(rows, encoded.rows)
        found: torch.Tensor = self.module.matmul_on(device, x, self.weight_of(encoded), bias, piece)
        return found


def _ends(chosen: range | None, count: int) -> tuple[int, int]:
    return (0, count) if chosen is None else (chosen.start, chosen.stop)
