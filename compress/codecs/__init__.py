"""Encoders: one module a codec, found by its name.

Each has one function, `encode(weight, params) -> Encoded`, which does not change its input.
"""

from __future__ import annotations

import importlib
from typing import Protocol, cast

import torch

from tilepress.kernels import Encoded, Params, parse_spec


class Encoder(Protocol):
    """What an encoder's module offers."""

    def encode(self, weight: torch.Tensor, params: Params) -> Encoded:
        """The tensor in compressed form."""


def encode(weight: torch.Tensor, spec: str | Params) -> Encoded:
    """Compress one tensor.

    Args:
        weight: float32, float16 or bfloat16 of any shape (`none` takes every dtype); the last dimension is the columns.
        spec: a codec spec as `"int:bits=4,group=64"`, or parameters.

    Raises:
        CodecError: an unknown codec or option, a dtype that can't be compressed, or values (NaN, infinities) that the
            codec has no code for.
    """
    params = parse_spec(spec) if isinstance(spec, str) else spec
    encoder = cast(Encoder, importlib.import_module(f"tilepress.compress.codecs.{params.codec}"))
    return encoder.encode(weight.detach(), params)
