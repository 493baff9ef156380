"""Attention over a compressed KV cache, whose tiles are decoded as they are read and never lie dense as a whole."""

from __future__ import annotations

import importlib
import importlib.util
import math
from typing import Any

import torch

from tilepress.kernels.errors import CodecError
from tilepress.kernels.kv_store import KvStore
from tilepress.kernels.reference import attention as reference
from tilepress.kernels.reference.attention import Attention

_NATIVE: Any = (
    importlib.import_module("tilepress.kernels.cpu.attention")
    if importlib.util.find_spec("tilepress.kernels._native") is not None
    else None
)
_CUDA: Any = (
    importlib.import_module("tilepress.kernels.cuda.attention")
    if _NATIVE is not None and importlib.util.find_spec("cupy") is not None
    else None
)
PIECE_TOKENS = 256
"""Tokens that are decoded at a time for many queries: few enough to stay in a near cache."""


def attend(query: torch.Tensor, store: KvStore, attention: Attention) -> torch.Tensor:
    """Attention of the last tokens' queries over all tokens of a cache.

    Args:
        query: [sequences, heads, queries, key channels], float32, float16 or bfloat16; heads are a multiple of the
            cache's KV heads.
        store: the cache, which already holds the queries' own tokens.
        attention: masks and what else there is.

    Returns:
        [sequences, heads, queries, value channels] in the dtype of `query`; zeros where a query sees nothing.

    Raises:
        CodecError: shapes, dtypes or numbers that don't fit the cache or each other.
    """
    _check(query, store, attention)
    if _NATIVE is not None and _NATIVE.is_for(query, store):
        return _NATIVE.attend(query, store, attention)  # type: ignore[no-any-return]
    if _CUDA is not None and _CUDA.is_for(query, store):
        return _CUDA.attend(query, store, attention)  # type: ignore[no-any-return]
    return reference.attend(query, store.pieces(PIECE_TOKENS), store.tokens, attention)


def _check(query: torch.Tensor, store: KvStore, attention: Attention) -> None:
    layout = store.layout
    if query.ndim != 4 or query.shape[0] != store.sequences or query.shape[3] != layout.key_size:
        raise CodecError(
            f"queries {list(query.shape)} don't fit a KV cache of {store.sequences} sequences and "
            f"{layout.key_size} channels"
        )
    if not query.shape[1] or query.shape[1] % store.heads:
        raise CodecError(f"{query.shape[1]} heads can't share {store.heads} KV heads")
    if not 1 <= query.shape[2] <= store.tokens:
        raise CodecError(f"there are {query.shape[2]} queries, and {store.tokens} tokens in the KV cache")
    if not query.is_floating_point() or query.device != store.window_keys.device:
        raise CodecError("queries are floating, and on the device of the KV cache")
    if not math.isfinite(attention.scaling):
        raise CodecError(f"scaling={attention.scaling} is not finite")
    if attention.window < 0:
        raise CodecError(f"window={attention.window}: must be 0 or more")
    if attention.softcap is not None and not 0 < attention.softcap < math.inf:
        raise CodecError(f"softcap={attention.softcap}: must be above 0")
    for name in ("slopes", "sinks"):
        of_heads: torch.Tensor | None = getattr(attention, name)
        if of_heads is not None and of_heads.shape != query.shape[1:2]:
            raise CodecError(f"{name} have the shape {list(of_heads.shape)}, not one value for each head")
    if attention.mask is not None:
        _check_mask(attention.mask, (*query.shape[:3], store.tokens))


def _check_mask(mask: torch.Tensor, shape: tuple[int, ...]) -> None:
    fits = mask.ndim == 4 and mask.shape[3] == shape[3]
    if not fits or any(found not in (1, wanted) for found, wanted in zip(mask.shape, shape, strict=True)):
        raise CodecError(f"a mask {list(mask.shape)} does not fit scores {list(shape)}")
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise CodecError(f"a mask is bool or floating, not {mask.dtype}")
