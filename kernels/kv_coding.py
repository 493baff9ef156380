"""Coding of a KV cache's tiles as `reference.kv` says, by native code for the codecs that have some."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch

from tilepress.kernels.layout.kv import KvLayout
from tilepress.kernels.reference import kv as reference

_NATIVE: Any = (
    importlib.import_module("tilepress.kernels.cpu.kv")
    if importlib.util.find_spec("tilepress.kernels._native") is not None
    else None
)


def encode(keys: torch.Tensor, values: torch.Tensor, layout: KvLayout) -> torch.Tensor:
    """Tiles of keys and values [..., group, channels]: uint8 [..., tile_bytes]."""
    return _backend(keys, layout).encode(keys, values, layout)  # type: ignore[no-any-return]


def decode_keys(tiles: torch.Tensor, layout: KvLayout) -> torch.Tensor:
    """Keys of tiles uint8 [..., tile_bytes]: float32 [..., group, channels]."""
    return _backend(tiles, layout).decode_keys(tiles, layout)  # type: ignore[no-any-return]


def decode_values(tiles: torch.Tensor, layout: KvLayout) -> torch.Tensor:
    """Values of tiles uint8 [..., tile_bytes]: float32 [..., group, channels]."""
    return _backend(tiles, layout).decode_values(tiles, layout)  # type: ignore[no-any-return]


def _backend(tensor: torch.Tensor, layout: KvLayout) -> Any:
    is_native = _NATIVE is not None and layout.params.codec in _NATIVE.CODECS and tensor.is_cpu
    return _NATIVE if is_native else reference
