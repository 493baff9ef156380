"""Dynamic caches of Transformers with room for tokens to come, so that a native step can write where it reads.

A `Room` holds the keys and values of all layers. Its tokens are never written again: what a layer has given away stays
as it was, as with Transformers' own layers, which make new tensors for each token. A layer that is changed in any
other way than by a step (cropped, reordered, updated) leaves the room, and the next step makes another one.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from tilepress.kernels.cpu.decoder import Cache

LEAST_TOKENS = 256
"""Tokens to come that there is room for, at least; a quarter of those that are there, if that is more."""


class Room:
    """Keys and values of all layers.

    Attributes:
        cache: [sequences, heads, room, channels] of each layer.
        tokens: how many there are.
    """

    def __init__(self, cache: Cache, tokens: int) -> None:
        """Begin with the tokens that have been written to `cache`."""
        self.cache = cache
        self.tokens = tokens

    @property
    def is_full(self) -> bool:
        """Whether no other token can be added."""
        return self.tokens == self.cache.keys[0].shape[2]

    def __getstate__(self) -> tuple[Any, Any, int]:
        return self.cache.keys, self.cache.values, self.tokens

    def __setstate__(self, state: tuple[Any, Any, int]) -> None:
        self.__init__(Cache(*state[:2]), state[2])  # type: ignore[misc]


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


def room_of(cache: object, layers: int, shape: tuple[int, int, int], dtype: torch.dtype) -> Room | None:
    """The room of a cache for another token, made if need be; None where the cache is not such a one.

    Args:
        cache: of a model; only a `DynamicCache` in main memory whose layers all see the whole text has a room.
        layers: of the model.
        shape: sequences, heads and channels.
        dtype: of keys and values.
    """
    if type(cache) is not DynamicCache or len(cache.layers) != layers or cache.offloading:
        return None
    old: list[Any] = cache.layers
    room: Room | None = getattr(old[0], "room", None)
    if room is not None and not room.is_full and all(getattr(layer, "room", None) is room for layer in old):
        return room if _fits(room.cache.keys[0], shape, dtype) else None
    if not all(type(layer) in (DynamicLayer, RoomyLayer) and layer.is_initialized for layer in old):
        return None
    keys, values = [layer.keys for layer in old], [layer.values for layer in old]
    if any(states.shape != keys[0].shape or not _fits(states, shape, dtype) for states in keys + values):
        return None
    room = Room(Cache(*([_with_room(states) for states in some] for some in (keys, values))), keys[0].shape[2])
    cache.layers[:] = [RoomyLayer(room, number) for number in range(layers)]
    return room


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
