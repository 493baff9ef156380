"""Attention over a compressed KV cache on a GPU, whose codes become operands of tensor cores in registers."""

from __future__ import annotations

import torch

from tilepress.kernels.attention_extras import bias_of, bias_steps, floats
from tilepress.kernels.cuda import registry
from tilepress.kernels.cuda.launch import Float, Int, Launcher, Long, Pointer, launcher
from tilepress.kernels.cuda.panels import require_on
from tilepress.kernels.kv_store import KvStore
from tilepress.kernels.reference.attention import Attention

MOST_FEW = 8
"""Queries that `attention_few` takes; more are `attention_many`'s in 16 bits, and PyTorch's in float32."""

CODECS = frozenset(codec for codec, _ in registry.KV_CODES)
"""Codecs of caches that have kernels."""

_BLOCKS_A_MULTIPROCESSOR = 3
_PARTIAL_EXTRAS = 4
"""Floats of a partial besides the sums of values."""


def is_for(query: torch.Tensor, store: KvStore) -> bool:
    """Whether `attend` takes this call; it has no gradient."""
    return (
        query.is_cuda
        and store.params.codec in CODECS
        and (query.shape[2] <= MOST_FEW or query.dtype in registry.HALF_DTYPES)
        and query.dtype == store.layout.dtype
        and not (torch.is_grad_enabled() and query.requires_grad)
        and not torch.compiler.is_compiling()
    )


def attend(query: torch.Tensor, store: KvStore, attention: Attention) -> torch.Tensor:
    """As `kernels.attention.attend`, which has checked the arguments."""
    return attend_on(launcher(query.device), query, store, attention)


def attend_on(device: Launcher, query: torch.Tensor, store: KvStore, attention: Attention) -> torch.Tensor:
    """The same by kernels of this device.

    Raises:
        CodecError: tiles that kernels can't read, or a mask, slopes or sinks on another device than the queries.
    """
    layout = store.layout
    group, value_size = layout.group, layout.value_size
    for name in ("mask", "slopes", "sinks"):
        extra: torch.Tensor | None = getattr(attention, name)
        if extra is not None:
            require_on(query, name, extra)
    query = query.contiguous() if query.data_ptr() % 16 == 0 else query.clone(memory_format=torch.contiguous_format)
    sequences, heads, queries, _ = query.shape
    tiles = store.tile_addresses()
    keys, values, window_tokens = store.window_room

    kernel_of, block_rows, workers = (
        (registry.attention_few, registry.KV_FEW_ROWS, registry.KV_WARPS)
        if queries <= MOST_FEW
        else (registry.attention_many, registry.KV_MANY_ROWS, 1)
    )
    units, rows = sequences * store.heads, heads // store.heads * queries
    blocks = units * -(-rows // block_rows) * -(-value_size // registry.KV_SLICE_CHANNELS)
    passes = len(tiles) * -(-group // registry.KV_PASS_TOKENS) + -(-window_tokens // registry.KV_PASS_TOKENS)
    wanted = _BLOCKS_A_MULTIPROCESSOR * device.multiprocessors // blocks
    splits = max(1, min(wanted, -(-passes // workers), registry.MOST_GRID_Y))
    partials = query.new_empty(units * rows, splits, value_size + _PARTIAL_EXTRAS, dtype=torch.float32)
    slopes, sinks, bias = floats(attention.slopes), floats(attention.sinks), bias_of(attention.mask)
    device.launch(
        kernel_of(store.params.codec, store.params.bits, query.dtype),
        (blocks, splits),
        (
            *map(Pointer, (query, tiles, keys, values, slopes, bias, partials)),
            *map(Int, (group, layout.key_size, value_size, store.heads, heads, queries)),
            *map(Int, (len(tiles), window_tokens, keys.shape[2])),
            Float(attention.scaling),
            Float(attention.softcap or 0.0),
            Int(attention.is_causal),
            Int(attention.window),
            *map(Long, bias_steps(bias)),
        ),
    )
    result = query.new_empty(sequences, heads, queries, value_size)
    device.launch(
        registry.attention_merge(query.dtype),
        (units * rows, 1),
        (*map(Pointer, (partials, sinks, result)), *map(Int, (splits, value_size, heads, queries))),
    )
    return result
