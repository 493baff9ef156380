"""The codecs, their options and guarantees, for people: what `tilepress codecs` prints."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tilepress.kernels.params import Params
from tilepress.kernels.registry import CODECS


@dataclass(frozen=True)
class CatalogueLine:
    """One codec, in words."""

    name: str
    options: str
    guarantee: str
    summary: str


def catalogue() -> list[CatalogueLine]:
    """One line a codec, in the order of the registry."""
    return [CatalogueLine(name, _options(params), params.guarantee, params.summary) for name, params in CODECS.items()]


def _options(params: type[Params]) -> str:
    return ", ".join(
        field.name if field.default is None else f"{field.name}={str(field.default).lower()}"
        for field in dataclasses.fields(params)
    )
