"""Layout of a compressed KV cache: tiles of `group` consecutive tokens, a string of bytes for each sequence and head.

    keys      x = scale * code + minimum, of each channel, over the tokens of the tile
    values    x = scale * code + minimum, of each token, over `group` channels

in float32, since keys have channels of outliers and values have none (Liu et al. 2024, "KIVI: A Tuning-Free Asymmetric
2bit Quantization for KV Cache"). `fp8` has no minima.

A byte holds 8 / bits tokens of one channel: byte row r of n = group * bits / 8 has token r + n * i at bit bits * i.

    4 bits, 64 tokens, n = 32       2 bits, 64 tokens, n = 16
    row 0     token 32 |  0         row 0     token 48 | 32 | 16 |  0
    row 1     token 33 |  1         row 1     token 49 | 33 | 17 |  1
    ...                             ...

So 16 neighbouring bytes of keys are 16 tokens of a channel, those of values 16 channels of a token:

    key_codes       uint8     [key channels, n]
    value_codes     uint8     [n, value channels]
    key_scales      bfloat16  [key channels]
    key_minima      bfloat16  [key channels]
    value_scales    bfloat16  [groups of channels, tokens]
    value_minima    bfloat16  [groups of channels, tokens]

one after the other, each a multiple of 16 bytes. `none` has keys and values [tokens, channels] as they came.

`zfp` has keys and values as panels of the codec `zfp` (see `layout.zfp`), 16 tokens each, at a fixed rate:

    keys      uint8     [panels, bytes of a panel]
    values    uint8     [panels, bytes of a panel]
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch

from tilepress.kernels.encoded import DTYPES, PANEL_ROWS, Encoded, dtype_name
from tilepress.kernels.errors import CodecError
from tilepress.kernels.layout.zfp import ZfpParams
from tilepress.kernels.params import ALWAYS_SHOWN, Params, PartSpec, Shape

LINE = 16
"""Bytes that kernels read at a time; head sizes are multiples of it."""
MOST_CHANNELS = 512
MOST_GROUP = 256


@dataclass(frozen=True)
class KvParams(Params):
    """How a cache stores the tokens that have left its window.

    Attributes:
        bits: of a code.
        has_minima: whether codes are relative to the smallest value of their group.
    """

    bits: ClassVar[int]
    has_minima: ClassVar[bool] = False
    group: int = 64

    def __post_init__(self) -> None:
        self._check_group(LINE)

    def _check_group(self, step: int) -> None:
        fits = 0 < self.group <= MOST_GROUP and self.group % step == 0
        self.require(fits, f"group={self.group} is not a multiple of {step} within {step}..{MOST_GROUP}")

    def sections(self, key_size: int, value_size: int, dtype: torch.dtype) -> Mapping[str, PartSpec]:
        """What one tile of one head consists of, in order, for keys and values of these sizes."""
        rows = self.group * self.bits // 8
        of_values = (-(-value_size // self.group), self.group)
        sections = {
            "key_codes": PartSpec(torch.uint8, (key_size, rows)),
            "value_codes": PartSpec(torch.uint8, (rows, value_size)),
            "key_scales": PartSpec(torch.bfloat16, (key_size,)),
            "key_minima": PartSpec(torch.bfloat16, (key_size,)),
            "value_scales": PartSpec(torch.bfloat16, of_values),
            "value_minima": PartSpec(torch.bfloat16, of_values),
        }
        return sections if self.has_minima else {name: of for name, of in sections.items() if "minima" not in name}


@dataclass(frozen=True)
class KvIntParams(KvParams):
    """Integers of 2, 4 or 8 bits between the smallest and the largest value of their group."""

    codec: ClassVar[str] = "int"
    summary: ClassVar[str] = "integers of 2, 4 or 8 bits"
    has_minima: ClassVar[bool] = True
    bits: int = field(default=4, metadata=ALWAYS_SHOWN)  # type: ignore[misc]  # an option here, fixed elsewhere

    def __post_init__(self) -> None:
        self.require(self.bits in (2, 4, 8), f"bits={self.bits} is not 2, 4 or 8")
        self._check_group(LINE * 8 // self.bits)


@dataclass(frozen=True)
class KvFp8Params(KvParams):
    """8-bit floating codes (e4m3) times a scale."""

    codec: ClassVar[str] = "fp8"
    summary: ClassVar[str] = "8-bit floating codes, e4m3"
    bits: ClassVar[int] = 8


@dataclass(frozen=True)
class KvNoneParams(KvParams):
    """Tokens as they came."""

    codec: ClassVar[str] = "none"
    summary: ClassVar[str] = "as they are"

    @property
    def is_bit_identical(self) -> bool:
        return True

    def sections(self, key_size: int, value_size: int, dtype: torch.dtype) -> Mapping[str, PartSpec]:
        sides = {"keys": key_size, "values": value_size}
        return {name: PartSpec(dtype, (self.group, size)) for name, size in sides.items()}


@dataclass(frozen=True)
class KvZfpParams(KvParams):
    """Blocks of 4 tokens x 4 channels by zfp, so many bits a value."""

    codec: ClassVar[str] = "zfp"
    summary: ClassVar[str] = "LLNL zfp at a fixed rate"
    rate: float = field(default=8.0, metadata=ALWAYS_SHOWN)

    def __post_init__(self) -> None:
        super().__post_init__()
        ZfpParams(rate=self.rate)  # refuses a rate that zfp does not have

    def sections(self, key_size: int, value_size: int, dtype: torch.dtype) -> Mapping[str, PartSpec]:
        panels, of_panels = self.group // PANEL_ROWS, self.of_panels
        sides = {"keys": key_size, "values": value_size}
        return {
            name: PartSpec(torch.uint8, (panels, of_panels.panel_bytes(PANEL_ROWS, size)))
            for name, size in sides.items()
        }

    def as_weight(self, panels: torch.Tensor, channels: int) -> Encoded:
        """Panels uint8 [..., bytes of a panel] of so many channels, as one tall matrix that the codec `zfp` decodes."""
        count = panels.shape[:-1].numel()
        offsets = torch.arange(count + 1, device=panels.device) * panels.shape[-1]
        parts = {"payload": panels.reshape(-1), "offsets": offsets}
        return Encoded(self.of_panels, (count * PANEL_ROWS, channels), torch.float32, parts)

    @property
    def of_panels(self) -> ZfpParams:
        """The codec of a panel."""
        return ZfpParams(rate=self.rate)


KV_CODECS: Mapping[str, type[KvParams]] = {
    params.codec: params for params in (KvNoneParams, KvIntParams, KvFp8Params, KvZfpParams)
}
"""The codecs of a cache, by name."""


def parse_kv_spec(spec: str) -> KvParams:
    """`"int:bits=4,group=64"` -> parameters.

    Raises:
        CodecError: a codec that caches don't have, or options that it doesn't take.
    """
    codec, _, options = spec.strip().partition(":")
    if codec not in KV_CODECS:
        raise CodecError(f"a KV cache has no codec {codec!r}; there are {', '.join(KV_CODECS)}")
    return KV_CODECS[codec].parse(options)


@dataclass(frozen=True)
class KvLayout:
    """The tiles of one layer.

    Attributes:
        params: the codec.
        key_size, value_size: channels of a head.
        dtype: of keys and values as they come.
    """

    params: KvParams
    key_size: int
    value_size: int
    dtype: torch.dtype

    def __post_init__(self) -> None:
        """Raise `CodecError` for sizes or a dtype that tiles can't have."""
        for size in (self.key_size, self.value_size):
            if size % LINE or not LINE <= size <= MOST_CHANNELS:
                raise CodecError(f"a KV cache takes heads of 16, 32, 48 ... {MOST_CHANNELS} channels, not of {size}")
        if self.dtype not in DTYPES.values():
            raise CodecError(f"a KV cache takes {', '.join(DTYPES)}, not {dtype_name(self.dtype)}")

    @property
    def group(self) -> int:
        """Tokens of a tile."""
        return self.params.group

    @cached_property
    def sections(self) -> dict[str, tuple[PartSpec, int]]:
        """Name -> dtype and shape, and the offset in bytes."""
        offset, sections = 0, {}
        for name, spec in self.params.sections(self.key_size, self.value_size, self.dtype).items():
            sections[name] = (spec, offset)
            offset += _size(spec)
        return sections

    @property
    def tile_bytes(self) -> int:
        """Bytes of one tile of one sequence and head."""
        spec, offset = list(self.sections.values())[-1]
        return offset + _size(spec)

    def split(self, tiles: torch.Tensor) -> dict[str, torch.Tensor]:
        """Tiles uint8 [..., tile_bytes] -> their sections [..., *shape], without a copy."""
        return {
            name: torch.unflatten(tiles[..., offset : offset + _size(spec)].view(spec.dtype), -1, spec.shape)
            for name, (spec, offset) in self.sections.items()
        }

    def join(self, sections: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sections [..., *shape] -> tiles uint8 [..., tile_bytes], the inverse of `split`."""
        flat = [
            sections[name].contiguous().flatten(-len(spec.shape)).view(torch.uint8)
            for name, (spec, _) in self.sections.items()
        ]
        return torch.cat(flat, dim=-1)


def _size(spec: PartSpec) -> int:
    return math.prod(spec.shape) * spec.dtype.itemsize


def shape_of(keys: torch.Tensor, values: torch.Tensor) -> Shape:
    """Sequences, heads and tokens of keys and values [sequences, heads, tokens, channels].

    Raises:
        CodecError: keys and values that don't belong together.
    """
    if keys.ndim != 4 or values.ndim != 4 or keys.shape[:3] != values.shape[:3]:
        raise CodecError(
            "keys and values have the shape [sequences, heads, tokens, channels] and differ in channels only, "
            f"unlike {list(keys.shape)} and {list(values.shape)}"
        )
    if keys.dtype != values.dtype or keys.device != values.device:
        raise CodecError("keys and values differ in dtype or device")
    return tuple(keys.shape[:3])
