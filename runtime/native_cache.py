"""Caches of Transformers as a native step takes them: with room for a token, which it writes where it reads.

A `DynamicCache` gets a `Room`, which holds the keys and values of all layers. Its tokens are never written again: what
a layer has given away stays as it was, as with Transformers' own layers, which make new tensors for each token. A
layer that is changed in any other way than by a step (cropped, reordered, updated) leaves the room, and the next step
makes another one. A `TilepressCache` has room in the windows of its stores.
"""

from __future__ import annotations

from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from tilepress.kernels import CodecError
from tilepress.kernels.cpu.decoder import DenseCache, StoredCache
from tilepress.kernels.kv_store import KvStore
from tilepress.runtime.kv_cache import TilepressCache, TilepressLayer

LEAST_TOKENS = 256
"""Tokens to come that there is room for, at least; a quarter of those that are there, if that is more."""


class Place(Protocol):
    """Where a step finds a cache's tokens and adds one."""

    @property
    def cache(self) -> DenseCache | StoredCache:
        """As a decoder takes it."""

    @property
    def tokens(self) -> int:
        """All tokens."""

    @property
    def dense_tokens(self) -> int:
        """Those that are not in tiles."""

    def count(self) -> None:
        """Count the token that a step has written."""


class Room:
    """Keys and values of all layers of a `DynamicCache`, [sequences, heads, room, channels] each."""

    cache: DenseCache

    def __init__(self, cache: DenseCache, tokens: int) -> None:
        """Begin with the tokens that have been written to `cache`."""
        self.cache = cache
        self.tokens = tokens

    @property
    def dense_tokens(self) -> int:
        """All of them."""
        return self.tokens

    @property
    def is_full(self) -> bool:
        """Whether no other token can be added."""
        return self.tokens == self.cache.keys[0].shape[2]

    def count(self) -> None:
        """Count the token that a step has written."""
        self.tokens += 1

    def __getstate__(self) -> tuple[Any, Any, int]:
        return self.cache.keys, self.cache.values, self.tokens

    def __setstate__(self, state: tuple[Any, Any, int]) -> None:
        self.__init__(DenseCache(*state[:2]), state[2])  # type: ignore[misc]


class Windows:
    """The stores of all layers of a `TilepressCache`, as long as they have no other tiles than now."""

    cache: StoredCache

    def __init__(self, stores: list[KvStore]) -> None:
        """Raise `CodecError` where the stores are not alike, or have no kernel."""
        self.cache = StoredCache(stores)
        self._stores = stores
        self._blocks = [(store.blocks, len(store.blocks)) for store in stores]
        self._windows = [store.window_room[:2] for store in stores]

    @property
    def tokens(self) -> int:
        """All tokens."""
        return self._stores[0].tokens

    @property
    def dense_tokens(self) -> int:
        """Those that are not in tiles."""
        return self._stores[0].window_room[2]

    def count(self) -> None:
        """Count the token that a step has written."""
        for store in self._stores:
            store.count_written()

    def are_of(self, stores: list[KvStore]) -> bool:
        """Whether these stores are the same and have the same tiles, and as many tokens as each other."""
        return len(stores) == len(self._stores) and all(
            store is mine
            and store.blocks is blocks
            and len(blocks) == count
            and store.window_room[0] is keys
            and store.window_room[1] is values
            and store.window_room[2] == self.dense_tokens
            for store, mine, (blocks, count), (keys, values) in zip(
                stores, self._stores, self._blocks, self._windows, strict=True
            )
        )


class RoomyLayer(DynamicLayer):
    """A layer whose keys and values lie in a room, until they are changed.

    Attributes:
        room: where they are, or None.
    """

    def __init__(self, room: Room, number: int) -> None:
        """Be layer `number` of the room."""
        self.room: Room | None = None
        super().__init__()  # type: ignore[no-untyped-call]
        self.room = room
        self._number = number
        states = room.cache.keys[number]
        self.dtype, self.device = states.dtype, states.device
        self.is_initialized = True

    @property
    def keys(self) -> torch.Tensor | None:
        """[sequences, heads, tokens, channels]."""
        return self._keys if self.room is None else self._filled(self.room.cache.keys)

    @keys.setter
    def keys(self, keys: torch.Tensor | None) -> None:
        self._leave()
        self._keys = keys

    @property
    def values(self) -> torch.Tensor | None:
        """As keys."""
        return self._values if self.room is None else self._filled(self.room.cache.values)

    @values.setter
    def values(self, values: torch.Tensor | None) -> None:
        self._leave()
        self._values = values

    def get_seq_length(self) -> int:
        """Tokens that are there."""
        return super().get_seq_length() if self.room is None else self.room.tokens

    def _filled(self, states: Any) -> torch.Tensor:
        assert self.room is not None
        whole: torch.Tensor = states[self._number]
        return whole[:, :, : self.room.tokens]

    def _leave(self) -> None:
        if self.room is not None:
            self._keys, self._values = self.keys, self.values
            self.room = None


_windows: WeakKeyDictionary[TilepressCache, Windows] = WeakKeyDictionary()


def place_of(cache: object, layers: int, shape: tuple[int, int, int], dtype: torch.dtype) -> Place | None:
    """Where a token can be added to a cache, made if need be; None where a step can't use the cache.

    Args:
        cache: of a model, in main memory, whose layers all see the whole text.
        layers: of the model.
        shape: sequences, heads and channels.
        dtype: of keys and values.
    """
    if type(cache) is DynamicCache and len(cache.layers) == layers and not cache.offloading:
        return _room_of(cache, shape, dtype)
    if type(cache) is TilepressCache and len(cache.layers) == layers:
        return _windows_of(cache, shape, dtype)
    return None


def _room_of(cache: DynamicCache, shape: tuple[int, int, int], dtype: torch.dtype) -> Room | None:
    old: list[Any] = cache.layers
    room: Room | None = getattr(old[0], "room", None)
    if room is not None and not room.is_full and all(getattr(layer, "room", None) is room for layer in old):
        return room if _fits(room.cache.keys[0], shape, dtype) else None
    if not all(type(layer) in (DynamicLayer, RoomyLayer) and layer.is_initialized for layer in old):
        return None
    keys, values = [layer.keys for layer in old], [layer.values for layer in old]
    if any(states.shape != keys[0].shape or not _fits(states, shape, dtype) for states in keys + values):
        return None
    tokens: int = keys[0].shape[2]
    room = Room(DenseCache(*([_with_room(states) for states in some] for some in (keys, values))), tokens)
    cache.layers[:] = [RoomyLayer(room, number) for number in range(len(old))]
    return room


def _windows_of(cache: TilepressCache, shape: tuple[int, int, int], dtype: torch.dtype) -> Windows | None:
    if not all(type(layer) is TilepressLayer and not layer.is_sliding and layer.store.tokens for layer in cache.layers):
        return None
    stores: list[KvStore] = [layer.store for layer in cache.layers]  # type: ignore[union-attr]
    for store in stores:
        if not all(_fits(states, shape, dtype) for states in store.window_room[:2]):
            return None
        store.make_room()
    windows = _windows.get(cache)
    if windows is None or not windows.are_of(stores):
        try:
            windows = _windows[cache] = Windows(stores)
        except CodecError:
            return None
    return windows if windows.are_of(stores) else None


def _fits(states: torch.Tensor, shape: tuple[int, int, int], dtype: torch.dtype) -> bool:
    sequences, heads, channels = shape
    return (
        states.ndim == 4
        and (states.shape[0], states.shape[1], states.shape[3]) == (sequences, heads, channels)
        and states.dtype == dtype
        and states.is_cpu
    )


def _with_room(states: torch.Tensor) -> torch.Tensor:
    sequences, heads, tokens, channels = states.shape
    room = states.new_empty(sequences, heads, tokens + max(LEAST_TOKENS, tokens // 4), channels)
    room[:, :, :tokens] = states
    return room
