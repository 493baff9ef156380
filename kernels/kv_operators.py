"""What a model does with the store of a layer, as calls that torch.compile takes into its graphs.

    tilepress::kv_append(handle, keys, values, first_seen)       add tokens
    tilepress::kv_states(handle, like, tokens, are_keys) -> all keys or values, decoded
    tilepress::kv_attend(query, handle, value_size, ...) -> attention, from the tiles

A store is an object of Python, whose tiles no graph can hold. Operators take its handle, and do to the store at run
time what is done to it where nobody traces. `kv_append` declares that it writes to the handle, so that what reads the
store stays before or after it. How many tokens a store has is known while a graph is traced, as a symbol.

None has a gradient: where one is needed, the graph breaks.
"""

from __future__ import annotations

from typing import Any

import torch

from tilepress.kernels import attention as attention_kernels
from tilepress.kernels.kv_store import KvStore, store_of
from tilepress.kernels.operators import LIBRARY
from tilepress.kernels.reference.attention import Attention


def append(store: KvStore, keys: torch.Tensor, values: torch.Tensor, first_seen: int = 0) -> None:
    """As `store.append`."""
    if not _is_compiling():
        store.append(keys, values, first_seen)
    elif _needs_gradient(keys, values):
        _append_between_graphs(store, keys, values, first_seen)
    else:
        counts = store.counts_after(keys.shape[2], first_seen)
        _OPERATORS.kv_append(store.handle, keys, values, first_seen)
        store.first, store.encoded_tokens, store.dense_tokens = counts


def decoded(store: KvStore, like: torch.Tensor, *, are_keys: bool) -> torch.Tensor:
    """All keys or values of a store in a graph, which computes them only if somebody reads them.

    Args:
        store: that holds tokens.
        like: keys or values that have been appended, [sequences, heads, any, channels].
        are_keys: else values.
    """
    states: Any = _OPERATORS.kv_states(store.handle, like.detach(), store.tokens, are_keys)
    states.store = store
    return states  # type: ignore[no-any-return]


def attend(query: torch.Tensor, store: KvStore, value_size: int, attention: Attention) -> torch.Tensor:
    """As `kernels.attention.attend`; values have `value_size` channels."""
    if not _is_compiling():
        return attention_kernels.attend(query, store, attention)
    if _needs_gradient(query):
        return _attend_between_graphs(query, store, attention)  # type: ignore[no-any-return]
    return _OPERATORS.kv_attend(  # type: ignore[no-any-return]
        query,
        store.handle,
        value_size,
        attention.scaling,
        attention.is_causal,
        attention.window,
        attention.mask,
        attention.slopes,
        attention.softcap,
        attention.sinks,
    )


_OPERATORS: Any = torch.ops.tilepress
_is_compiling = torch.compiler.is_compiling
_append_between_graphs: Any = torch.compiler.disable(KvStore.append)  # type: ignore[no-untyped-call]
_attend_between_graphs: Any = torch.compiler.disable(attention_kernels.attend)  # type: ignore[no-untyped-call]


def _needs_gradient(*tensors: torch.Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _append(handle: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, first_seen: int) -> None:
    store_of(handle).append(keys, values, first_seen)


def _states(handle: torch.Tensor, like: torch.Tensor, tokens: int, are_keys: bool) -> torch.Tensor:
    store = store_of(handle)
    return store.dense_keys() if are_keys else store.dense_values()


def _fake_states(handle: torch.Tensor, like: torch.Tensor, tokens: int, are_keys: bool) -> torch.Tensor:
    return like.new_empty(*like.shape[:2], tokens, like.shape[3])


def _attend(query: torch.Tensor, handle: torch.Tensor, value_size: int, *arguments: Any) -> torch.Tensor:
    return attention_kernels.attend(query, store_of(handle), Attention(*arguments))


def _fake_attend(query: torch.Tensor, handle: torch.Tensor, value_size: int, *arguments: Any) -> torch.Tensor:
    return query.new_empty(*query.shape[:3], value_size)


for _schema, _run, _fake in (
    ("kv_append(Tensor(a!) handle, Tensor keys, Tensor values, SymInt first_seen) -> ()", _append, lambda *_: None),
    ("kv_states(Tensor handle, Tensor like, SymInt tokens, bool are_keys) -> Tensor", _states, _fake_states),
    (
        "kv_attend(Tensor query, Tensor handle, SymInt value_size, float scaling, bool is_causal, SymInt window, "
        "Tensor? mask, Tensor? slopes, float? softcap, Tensor? sinks) -> Tensor",
        _attend,
        _fake_attend,
    ),
):
    LIBRARY.define(_schema)
    _name = _schema.partition("(")[0]
    LIBRARY.impl(_name, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"tilepress::{_name}", _fake, lib=LIBRARY)
