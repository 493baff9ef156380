"""The codec specs that compete for a tensor, and what each would make of it.

Only codecs of fixed rate compete: their sizes are known to the byte before anything is encoded, and every one of them
multiplies straight from its codes. The error of each is measured on a sample of the tensor's own panels, except where
it is the same for any tensor: searching trellis codes takes hundreds of times as long as rounding.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tilepress.compress.codecs import encode, expected_error
from tilepress.compress.codecs.panels import require_finite
from tilepress.compress.plan import part_bytes, sample_panels
from tilepress.formats.checkpoint import Checkpoint
from tilepress.formats.container_writer import Slot
from tilepress.formats.measure import measure_error
from tilepress.kernels import CodecError, Params, RecipeError, parse_spec

CANDIDATES: Sequence[str] = (
    *(f"trellis:bits={bits}" for bits in range(2, 9)),
    *(f"int:bits={bits},group=64" for bits in range(2, 9)),
    "int:bits=4,group=32",
    "nf4",
    "mxfp4",
    "nvfp4",
    "fp8",
    "none",
)
"""Specs that compete unless asked otherwise."""

_SAMPLED_PANELS = 2


@dataclass(frozen=True)
class Candidate:
    """What a codec spec would make of one tensor.

    Attributes:
        params: of the codec.
        size_bytes: of all parts, exact.
        relative_error: mean squared error over mean square, of a sample or as known beforehand.
    """

    params: Params
    size_bytes: int
    relative_error: float


def competing(names: str | None) -> list[Params]:
    """The specs that `--codecs` admits.

    Args:
        names: codec names, separated by commas or spaces, or whole specs separated by spaces: `int,nf4` or
            `trellis int:bits=4,group=32`; everything if None.

    Raises:
        CodecError: a name or spec that doesn't exist.
        RecipeError: a codec whose sizes depend on the data, or no codec at all.
    """
    if names is None:
        return [parse_spec(spec) for spec in CANDIDATES]
    pieces = re.split(r"\s+" if ":" in names else r"[\s,]+", names.strip())
    if not any(pieces):
        raise RecipeError("no codec is left to choose from; name some, as --codecs int,nf4")
    found = [params for piece in pieces if piece for params in _specs_named(piece)]
    return list(dict.fromkeys(found))


def _specs_named(piece: str) -> list[Params]:
    found = [parse_spec(spec) for spec in CANDIDATES if spec.partition(":")[0] == piece] or [parse_spec(piece)]
    if not all(_has_fixed_size(params) for params in found):
        raise RecipeError(f"codec {piece}: its size depends on the data, so no budget can be planned with it")
    return found


def measure_candidates(checkpoint: Checkpoint, slot: Slot, specs: Sequence[Params]) -> list[Candidate]:
    """Size and error of each spec for one tensor; specs that have no code for its values are left out."""
    sample = sample_panels(checkpoint, slot, _SAMPLED_PANELS)
    found = []
    for params in specs:
        error = _relative_error(sample, params)
        if error is not None:
            found.append(Candidate(params, part_bytes(slot, params), error))
    return found


def _relative_error(sample: torch.Tensor, params: Params) -> float | None:
    known = expected_error(params)
    try:
        if known is not None:
            require_finite(sample, params.codec)
            return known
        return measure_error(sample, encode(sample, params)).relative_rms ** 2
    except CodecError:
        return None


def _has_fixed_size(params: Params) -> bool:
    return all(spec.exact for spec in params.part_specs((64, 64), torch.bfloat16).values())
