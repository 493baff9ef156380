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
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin

from tilepress.kernels import kv_operators
from tilepress.kernels.errors import CodecError
from tilepress.kernels.kv_store import KvStore
from tilepress.kernels.layout.kv import KvParams, parse_kv_spec


class TilepressCache(Cache):
    """A cache whose old tokens are in compressed tiles: `model.generate(..., past_key_values=TilepressCache())`.

    Tokens that come first, all at once, are attended to exactly; later tokens see what the tiles hold of them.

    Args:
        kv: codec spec of the tiles: `int:bits=8|4|2`, `fp8`, `zfp:rate=R` or `none`, each with `group`, the tokens of
            a tile (64 when left out).
        window: the fewest of the newest tokens that stay in the model's dtype.
        config: of the model. With it, layers with a sliding window forget the tiles that no token sees any more;
            without it, every layer keeps all tokens.

    Raises:
        CodecError: a codec that caches don't have, options that it doesn't take, or a model with layers that have no
            keys and values.
    """

    def __init__(self, kv: str = "int:bits=4", window: int = 16, config: PretrainedConfig | None = None) -> None:
        """Begin empty; without a config, layers come as the model asks for them."""
        params = parse_kv_spec(kv)
        KvStore(params, window)  # refuses what no layer could take
        layer = partial(TilepressLayer, params, window)
        if config is None:
            super().__init__(layer_class_to_replicate=layer)  # type: ignore[arg-type]
        else:
            super().__init__(layers=[layer(sliding_window) for sliding_window in _sliding_windows(config)])
        self.kv = params.spec()

    @property
    def nbytes(self) -> int:
        """Bytes of all layers, room for tokens to come included."""
        return sum(layer.store.nbytes for layer in self.layers if isinstance(layer, TilepressLayer))


def _sliding_windows(config: PretrainedConfig) -> list[int]:
    """Tokens that a query of each layer sees, its own included; 0: all.

    Raises:
        CodecError: layers that have no keys and values.
    """
    text = config.get_text_config(decoder=True)
    sliding_window = getattr(text, "sliding_window", None) or 0
    everywhere = "sliding_attention" if sliding_window else "full_attention"
    kinds = getattr(text, "layer_types", None) or [everywhere] * text.num_hidden_layers
    windows = {"sliding_attention": sliding_window, "full_attention": 0, "chunked_attention": 0}
    for kind in kinds:
        if kind not in windows:
            raise CodecError(f"a compressed KV cache holds keys and values, and layers of {kind} have none")
    return [windows[kind] for kind in kinds]


class TilepressLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # its hook for subclasses
    """The cache of one layer of a model.

    Attributes:
        store: its keys and values.
        sliding_window: tokens that a query sees, its own included; 0: all.
        is_sliding: whether it has such a window.
    """

    is_compileable = False
    is_croppable = True
    supports_early_init = False

    def __init__(self, params: KvParams, window: int, sliding_window: int = 0) -> None:
        """Begin empty."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.store = KvStore(params, window)
        self.sliding_window = sliding_window
        self.is_sliding = sliding_window > 0
        self.record_past = False

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the first tokens tell the store its sizes."""
        self.is_initialized = True

    def activate_past_recording(self) -> None:
        """From now on, only `crop` forgets tokens that a sliding window has left: some may be taken back until then."""
        self.record_past = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add tokens, [sequences, heads, tokens, channels].

        Returns:
            Keys and values of all tokens that the new ones see: the very tensors that came where there were none
            before, else what `states_of` gives.

        Raises:
            CodecError: tokens that don't fit those that are there.
        """
        self.is_initialized = True
        is_first = self.get_seq_length() == 0
        # Of tokens that come first, what the next one sees is kept.
        seeing = key_states.shape[2] if is_first else self.get_seq_length()
        kv_operators.append(
            self.store, key_states, value_states, first_seen=0 if self.record_past else self._first_seen(seeing)
        )
        if is_first:
            return key_states, value_states
        return (
            states_of(self.store, key_states, are_keys=True),
            states_of(self.store, value_states, are_keys=False),
        )

    def _first_seen(self, token: int) -> int:
        """The first token that this token sees."""
        return max(0, token + 1 - self.sliding_window) if self.is_sliding else 0

    def get_mask_sizes(self, query_length: int | torch.Tensor) -> tuple[int, int]:
        """Tokens that there will be with the next queries, and the number of the first of them.

        `query_length` is the positions of the queries in Transformers before 5.6.
        """
        queries = len(query_length) if isinstance(query_length, torch.Tensor) else query_length
        length = self.get_seq_length()
        first = self.store.first if self.record_past else self.store.first_without(self._first_seen(length))
        return length - first + queries, first

    def get_seq_length(self) -> int:
        """Tokens that have come, forgotten ones included."""
        return self.store.first + self.store.tokens

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

        Raises:
            CodecError: a sliding window would show tokens again that have been forgotten.
        """
        length = self.get_seq_length()
        kept = max(0, tokens_to_remove + length) if tokens_to_remove <= 0 else min(tokens_to_remove, length)
        if self._first_seen(kept) < self.store.first:
            raise CodecError(
                f"a KV cache of {length} tokens can't be cropped to {kept}: its sliding window has forgotten tokens "
                "that would be seen again; call activate_past_recording before they come"
            )
        self.store.crop(kept - self.store.first)
        self.store.forget(self._first_seen(kept))

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


def states_of(store: KvStore, like: torch.Tensor, *, are_keys: bool) -> torch.Tensor:
    """Keys or values of all tokens of a store, from whose attribute `store` attention takes the tiles.

    Args:
        store: where they are.
        like: the newest of them.
        are_keys: else values.
    """
    if torch.compiler.is_compiling():
        return kv_operators.decoded(store, like, are_keys=are_keys)
    return StoredStates(store, are_keys=are_keys)


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
