"""Encoder of `nf4`: the largest magnitude of each group scales it to [-1, 1], then the nearest value of the book."""

from __future__ import annotations

import torch

from tilepress.compress.calibration.statistics import Statistics
from tilepress.compress.codecs.columns import Scales, feedback_run
from tilepress.compress.codecs.groups import (
    divide,
    encode_tiles,
    encode_with_feedback,
    reduce_groups,
    round_scale,
    spread_groups,
)
from tilepress.kernels import Encoded, matrix_shape
from tilepress.kernels.layout.nf4 import CODE_BOOK, Nf4Params

USES_STATISTICS = True


def encode(weight: torch.Tensor, params: Nf4Params, statistics: Statistics | None = None) -> Encoded:
    """Round to the nearest value of the code book, with error feedback where statistics of the inputs are given.

    Raises:
        CodecError: NaN or infinite values, or a dtype that can't be compressed.
    """
    if statistics is not None:
        with_feedback = feedback_run(_Book(), params.group, matrix_shape(tuple(weight.shape))[1], statistics)
        return encode_with_feedback(weight, params, 4, with_feedback)
    book = torch.tensor(CODE_BOOK)
    boundaries = (book[1:] + book[:-1]) / 2

    def encode_run(values: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        scale = round_scale(reduce_groups(values.abs(), params.group, lambda grouped: grouped.amax(-1)))
        scaled = divide(values, spread_groups(scale.float(), params.group, values.shape[1]))
        return torch.bucketize(scaled, boundaries, out_int32=True).to(torch.uint8), {"scales": scale}

    return encode_tiles(weight, params, 4, encode_run)


class _Book:
    """The code as error feedback sees it; see `columns.ScaledCode`."""

    def __init__(self) -> None:
        self._values = torch.tensor(CODE_BOOK)
        self._boundaries = (self._values[1:] + self._values[:-1]) / 2

    def start(self, values: torch.Tensor) -> Scales:
        return {"scales": round_scale(values.abs().amax(0))}

    def rescale(self, scales: Scales, factor: torch.Tensor | float) -> Scales:
        return {"scales": (scales["scales"].float() * factor).bfloat16()}

    def code(self, values: torch.Tensor, scales: Scales) -> torch.Tensor:
        scaled = divide(values, scales["scales"].float())
        return torch.bucketize(scaled, self._boundaries, out_int32=True).to(torch.uint8)

    def decode(self, codes: torch.Tensor, scales: Scales) -> torch.Tensor:
        return self._values[codes.int()] * scales["scales"].float()
