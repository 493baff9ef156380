"""Encoders: one module a codec, found by its name.

Each has one function, `encode(weight, params, statistics) -> Encoded`, which does not change its input. Codecs that
round weights make use of the statistics of a layer's inputs where there are any; the others ignore them.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Protocol, cast

import torch

from tilepress.compress.calibration.statistics import Statistics
from tilepress.kernels import Encoded, Params, parse_spec


class Encoder(Protocol):
    """What an encoder's module offers."""

    def encode(self, weight: torch.Tensor, params: Params, statistics: Statistics | None = None) -> Encoded:
        """The tensor in compressed form."""


def encode(weight: torch.Tensor, spec: str | Params, statistics: Statistics | None = None) -> Encoded:
    """Compress one tensor.

    Args:
        weight: float32, float16 or bfloat16 of any shape (`none` takes every dtype); the last dimension is the columns.
        spec: a codec spec as `"int:bits=4,group=64"`, or parameters.
        statistics: second moments of what the weight multiplies, for codecs that make use of them.

    Raises:
        CodecError: an unknown codec or option, a dtype that can't be compressed, or values (NaN, infinities) that the
            codec has no code for.
    """
    params = parse_spec(spec) if isinstance(spec, str) else spec
    encoder = cast(Encoder, _module(params))
    return encoder.encode(weight.detach(), params, statistics)


def uses_statistics(params: Params) -> bool:
    """Whether the encoder makes use of statistics: then its module says `USES_STATISTICS = True`."""
    return bool(getattr(_module(params), "USES_STATISTICS", False))


def uses_outputs(params: Params) -> bool:
    """Whether it makes use of what they say of outputs, too: then its module says `USES_OUTPUTS = True`."""
    return bool(getattr(_module(params), "USES_OUTPUTS", False))


def expected_error(params: Params) -> float | None:
    """Mean squared error over mean square where it is the same for any tensor and known; else nothing.

    Then the encoder's module has a function of this name.
    """
    known = getattr(_module(params), "expected_error", None)
    return None if known is None else cast("float | None", known(params))


def _module(params: Params) -> ModuleType:
    return importlib.import_module(f"tilepress.compress.codecs.{params.codec}")
