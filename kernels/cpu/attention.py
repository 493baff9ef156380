"""Native attention over a compressed KV cache, for a few queries: codes become values in registers as they are read."""

from __future__ import annotations

import torch

from tilepress.kernels import _native
from tilepress.kernels.attention_extras import bias_of, bias_steps, floats
from tilepress.kernels.cpu import panels
from tilepress.kernels.cpu.buffers import DTYPE_NAMES, buffer
from tilepress.kernels.cpu.instruction_set import instruction_set
from tilepress.kernels.encoded import dtype_name
from tilepress.kernels.errors import CodecError
from tilepress.kernels.kv_store import KvStore
from tilepress.kernels.reference.attention import Attention

CODES = {"int": "int", "fp8": "e4m3"}
"""Codecs of caches that have a kernel, and what native code calls their codes."""
MOST_QUERIES = 8
"""Queries for which codes are worth decoding in registers; more are left to PyTorch's matmuls."""


def is_for(query: torch.Tensor, store: KvStore) -> bool:
    """Whether `attend` takes this call; it has no gradient."""
    return (
        store.params.codec in CODES
        and query.shape[2] <= MOST_QUERIES
        and query.dtype in DTYPE_NAMES
        and not (torch.is_grad_enabled() and query.requires_grad)
        and panels.is_plain_call(query)
    )


def attend(query: torch.Tensor, store: KvStore, attention: Attention) -> torch.Tensor:
    """As `kernels.attention.attend`, which has checked the arguments.

    Raises:
        CodecError: shapes that don't fit the cache.
    """
    query = query.contiguous()
    sequences, heads, queries, _ = query.shape
    result = query.new_empty(sequences, heads, queries, store.layout.value_size)
    slopes, sinks, bias = floats(attention.slopes), floats(attention.sinks), bias_of(attention.mask)
    try:
        _native.attention_attend(
            instruction_set(),
            cache_of(store),
            buffer(query),
            buffer(result),
            DTYPE_NAMES[query.dtype],
            heads,
            queries,
            attention.scaling,
            attention.softcap or 0.0,
            attention.is_causal,
            attention.window,
            buffer(slopes),
            buffer(sinks),
            buffer(bias),
            bias_steps(bias),
            torch.get_num_threads(),
        )
    except ValueError as error:
        raise CodecError(f"attention: {error}") from None
    return result


def cache_of(store: KvStore) -> _native.KvCache:
    """The cache as native code reads it, by address: it ends where the store changes."""
    layout = store.layout
    keys, values, tokens = store.window_room
    return _native.KvCache(
        CODES[store.params.codec],
        store.params.bits,
        layout.group,
        store.sequences,
        store.heads,
        layout.key_size,
        layout.value_size,
        [buffer(block) for block in store.blocks],
        buffer(keys),
        buffer(values),
        keys.shape[2],
        tokens,
        dtype_name(layout.dtype),
    )
