"""`TilepressCache`: a KV cache for any model of Transformers that keeps old tokens compressed.

A layer's `update` answers with tensors that stand for the whole sequence and hold nothing. `attn_implementation=
"tilepress"` takes the compressed tiles from them; whatever else touches them gets decoded keys and values, so that
every attention of every model works.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_map_only
from transformers.cache_utils import Cache, CacheLayerMixin

from tilepress.kernels.errors import CodecError
from tilepress.kernels.kv_store import KvStore
from tilepress.kernels.layout.kv import KvParams, parse_kv_spec


class TilepressCache(Cache):
    """A cache whose old tokens are in compressed tiles: `model.generate(..., past_key_values=TilepressCache())`.

    Tokens that come first, all at once, are attended to exactly; later tokens see what the tiles hold of them.

    Args:
        kv: codec spec of the tiles: `int:bits=8|4|2`, `fp8` or `none`, each with `group`, the tokens of a tile
            (64 when left out).
        window: the fewest of the newest tokens that stay in the model's dtype.

    Raises:
        CodecError: a codec that caches don't have, or options that it doesn't take.
    """

    def __init__(self, kv: str = "int:bits=4", window: int = 16) -> None:
        """Begin empty; layers come as the model asks for them."""
        params = parse_kv_spec(kv)
        KvStore(params, window)  # refuses what no layer could take
        super().__init__(layer_class_to_replicate=partial(TilepressLayer, params, window))  # type: ignore[arg-type]
        self.kv = params.spec()

    @property
    def nbytes(self) -> int:
        """Bytes of all layers, room for tokens to come included."""
        return sum(layer.store.nbytes for layer in self.layers if isinstance(layer, TilepressLayer))


class TilepressLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # its hook for subclasses
    """The cache of one layer of a model.

    Attributes:
        store: its keys and values.
    """

    is_sliding = False
    is_compileable = False
    is_croppable = True
    supports_early_init = False

    def __init__(self, params: KvParams, window: int) -> None:
        """Begin empty."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.store = KvStore(params, window)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the first tokens tell the store its sizes."""
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add tokens, [sequences, heads, tokens, channels].

        Returns:
            Keys and values of all tokens: the very tensors that came where there were none before, else `StoredStates`.

        Raises:
            CodecError: tokens that don't fit those that are there.
        """
        self.is_initialized = True
        is_first = self.store.tokens == 0
        self.store.append(key_states, value_states)
        if is_first:
            return key_states, value_states
        return StoredStates(self.store, are_keys=True), StoredStates(self.store, are_keys=False)

    def get_mask_sizes(self, query_length: int | torch.Tensor) -> tuple[int, int]:
        """Tokens that the next queries will see, and the number of the first of them.

        `query_length` is the positions of the queries in Transformers before 5.6.
        """
        queries = len(query_length) if isinstance(query_length, torch.Tensor) else query_length
        return self.store.tokens + queries, 0

    def get_seq_length(self) -> int:
        """Tokens that are there."""
        return self.store.tokens

    def get_max_length(self) -> int:
        """-1: there is no most."""
        return -1

    get_max_cache_shape = get_max_length  # its name in older versions of Transformers

    def reset(self) -> None:
        """Forget all tokens."""
        self.store.reset()
        self.is_initialized = False

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens where the number is negative; where it is positive, keep so many.

        Transformers has used both meanings.
        """
        if tokens_to_remove:
            kept = tokens_to_remove if tokens_to_remove > 0 else self.store.tokens + tokens_to_remove
            self.store.crop(max(0, kept))

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Make sequence i what sequence beam_idx[i] is."""
        self.store.select(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Have each sequence `repeats` times, one after the other."""
        self.store.select(torch.arange(self.store.sequences).repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some of the sequences."""
        self.store.select(indices)

    def offload(self) -> None:
        """Refuse: tiles stay where they are.

        Raises:
            CodecError: always.
        """
        raise CodecError("a compressed KV cache can't be offloaded")

    prefetch = offload


class StoredStates(torch.Tensor):
    """Keys or values of all tokens of a store, decoded when an operator asks for them; valid until the store changes.

    Attributes:
        store: where they are.
    """

    store: KvStore
    _are_keys: bool
    _decoded: torch.Tensor | None

    @staticmethod
    def __new__(cls, store: KvStore, *, are_keys: bool) -> StoredStates:
        """Stand for all tokens that the store has now."""
        window = store.window_keys if are_keys else store.window_values
        shape = (store.sequences, store.heads, store.tokens, window.shape[3])
        states: StoredStates = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=window.dtype, device=window.device)
        states.store, states._are_keys, states._decoded = store, are_keys, None
        return states

    def decoded(self) -> torch.Tensor:
        """The states as a plain tensor.

        Raises:
            CodecError: the store has got or lost tokens meanwhile.
        """
        if self._decoded is None:
            if self.store.tokens != self.shape[2]:
                raise CodecError("the KV cache has changed since these states were asked for")
            self._decoded = self.store.dense_keys() if self._are_keys else self.store.dense_values()
        return self._decoded

    def __repr__(self) -> str:  # type: ignore[override]
        """Shape and codec."""
        return f"StoredStates({list(self.shape)}, {self.store.params.spec()})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operator: Any, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute on decoded states."""
        args, kwargs = tree_map_only(StoredStates, StoredStates.decoded, (args, dict(kwargs or {})))
        return operator(*args, **kwargs)
