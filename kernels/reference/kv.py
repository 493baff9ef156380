"""Encoding and decoding of the KV cache's tiles; `layout.kv` says what they are.

Scales are rounded up and minima down to bfloat16, so that every value lies between codes: `int` errs by at most half a
scale, and a scale is at most 1/64 (relative) more than range / (2^bits - 1). `zfp` is zfpy's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import zfpy

from tilepress.kernels.encoded import PANEL_ROWS
from tilepress.kernels.layout.kv import KvLayout, KvParams, KvZfpParams
from tilepress.kernels.reference import zfp

_LARGEST_E4M3 = 448.0


class _Coded(NamedTuple):
    """Codes (uint8) of values; scales and minima (bfloat16) with one value along the dimension of the group."""

    codes: torch.Tensor
    scales: torch.Tensor
    minima: torch.Tensor | None


def encode(keys: torch.Tensor, values: torch.Tensor, layout: KvLayout) -> torch.Tensor:
    """Tiles of keys and values [..., group, channels]: uint8 [..., tile_bytes]."""
    if (whole := _WHOLE.get(layout.params.codec)) is not None:
        sides = {"keys": keys, "values": values}
        return layout.join({name: whole.encode(states, layout.params) for name, states in sides.items()})
    quantize, bits = _QUANTIZERS[layout.params.codec], layout.params.bits
    of_keys = quantize(keys.float(), -2, layout.params)
    of_values = [
        quantize(channels.float(), -1, layout.params) for channels in torch.split(values, layout.group, dim=-1)
    ]  # the last group of channels may be shorter
    sections = {
        "key_codes": _pack(of_keys.codes, bits).mT,
        "value_codes": _pack(torch.cat([channels.codes for channels in of_values], dim=-1), bits),
        "key_scales": of_keys.scales.squeeze(-2),
        "value_scales": torch.cat([channels.scales for channels in of_values], dim=-1).mT,
    }
    if of_keys.minima is not None:
        sections["key_minima"] = of_keys.minima.squeeze(-2)
        minima = [channels.minima for channels in of_values if channels.minima is not None]
        sections["value_minima"] = torch.cat(minima, dim=-1).mT
    return layout.join(sections)


def decode_keys(tiles: torch.Tensor, layout: KvLayout) -> torch.Tensor:
    """Keys of tiles uint8 [..., tile_bytes]: float32 [..., group, channels]."""
    sections = layout.split(tiles)
    if (whole := _WHOLE.get(layout.params.codec)) is not None:
        return whole.decode(sections["keys"], layout.key_size, layout.params)
    codes = _unpack(sections["key_codes"].mT, layout.params.bits)
    constants = {side: sections[f"key_{side}"][..., None, :] for side in _sides(layout)}
    return _value(codes, constants, layout.params)


def decode_values(tiles: torch.Tensor, layout: KvLayout) -> torch.Tensor:
    """Values of tiles uint8 [..., tile_bytes]: float32 [..., group, channels]."""
    sections = layout.split(tiles)
    if (whole := _WHOLE.get(layout.params.codec)) is not None:
        return whole.decode(sections["values"], layout.value_size, layout.params)
    codes = _unpack(sections["value_codes"], layout.params.bits)
    constants = {
        side: sections[f"value_{side}"].mT.repeat_interleave(layout.group, dim=-1)[..., : layout.value_size]
        for side in _sides(layout)
    }
    return _value(codes, constants, layout.params)


class _Whole(NamedTuple):
    """How a codec writes keys, and values alike, to one section.

    Attributes:
        encode: (states [..., group, channels], params) -> section.
        decode: (section, channels, params) -> float32 [..., group, channels].
    """

    encode: Callable[[torch.Tensor, KvParams], torch.Tensor]
    decode: Callable[[torch.Tensor, int, KvParams], torch.Tensor]


def _zfp_encode(states: torch.Tensor, params: KvParams) -> torch.Tensor:
    assert isinstance(params, KvZfpParams)
    panels = torch.unflatten(states.float().cpu(), -2, (-1, PANEL_ROWS))
    streams = [
        zfpy.compress_numpy(panel.numpy(), rate=params.rate, write_header=False)
        for panel in panels.flatten(0, -3).contiguous()
    ]
    joined = torch.frombuffer(bytearray(b"".join(streams)), dtype=torch.uint8)
    return joined.view(*panels.shape[:-2], -1).to(states.device)


def _zfp_decode(section: torch.Tensor, channels: int, params: KvParams) -> torch.Tensor:
    assert isinstance(params, KvZfpParams)
    weight = params.as_weight(section, channels)
    return zfp.decode(weight, range(weight.rows), range(channels)).view(*section.shape[:-2], params.group, channels)


_WHOLE: Mapping[str, _Whole] = {
    "none": _Whole(lambda states, _: states, lambda section, *_: section.float()),
    "zfp": _Whole(_zfp_encode, _zfp_decode),
}


def _sides(layout: KvLayout) -> tuple[str, ...]:
    return ("scales", "minima") if layout.params.has_minima else ("scales",)


def _integers(values: torch.Tensor, dim: int, params: KvParams) -> _Coded:
    top = (1 << params.bits) - 1
    minima = _rounded(values.amin(dim, keepdim=True), up=False)
    scales = _rounded((values.amax(dim, keepdim=True) - minima.float()) / top, up=True)
    codes = _divided(values - minima.float(), scales).round_().clamp_(0, top)
    return _Coded(codes.to(torch.uint8), scales, minima)


def _floats(values: torch.Tensor, dim: int, _: KvParams) -> _Coded:
    scales = _rounded(values.abs().amax(dim, keepdim=True) / _LARGEST_E4M3, up=True)
    codes = _divided(values, scales).clamp_(-_LARGEST_E4M3, _LARGEST_E4M3).to(torch.float8_e4m3fn)
    return _Coded(codes.view(torch.uint8), scales, None)


_QUANTIZERS: Mapping[str, Callable[[torch.Tensor, int, KvParams], _Coded]] = {"int": _integers, "fp8": _floats}


def _value(codes: torch.Tensor, constants: Mapping[str, torch.Tensor], params: KvParams) -> torch.Tensor:
    if not params.has_minima:
        return codes.view(torch.float8_e4m3fn).float() * constants["scales"].float()
    return codes.float() * constants["scales"].float() + constants["minima"].float()


def _divided(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Zero where all values of the group are alike."""
    return torch.where(scales == 0, 0.0, values / scales.float())


def _rounded(values: torch.Tensor, *, up: bool) -> torch.Tensor:
    """The nearest bfloat16 that is not smaller (`up`), or not larger."""
    bits = values.view(torch.int32)
    grows = ((values > 0) if up else (values < 0)).to(torch.int32)
    return ((bits + grows * 0xFFFF) & -0x10000).view(torch.float32).bfloat16()


def _pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes [..., tokens, channels] -> bytes [..., tokens * bits / 8, channels]."""
    fields = torch.unflatten(codes, -2, (8 // bits, -1))
    packed = fields[..., 0, :, :].clone()
    for place in range(1, 8 // bits):
        packed |= fields[..., place, :, :] << (bits * place)
    return packed


def _unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """The inverse of `_pack`."""
    mask = (1 << bits) - 1
    return torch.cat([(packed >> (bits * place)) & mask for place in range(8 // bits)], dim=-2)
