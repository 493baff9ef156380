"""Keys and values of one attention layer: old tokens in compressed tiles, the newest ones dense.

    tokens   0 ........................ encoded ......... tokens
             | tile | tile | tile | ... |    window       |
               `group` tokens each        as they came

When the window is full, its oldest tokens become tiles; between `window` and `window + group` tokens are dense. Tiles
come in blocks that are never copied when more follow.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any
from weakref import WeakValueDictionary

import torch

from tilepress.kernels import kv_coding as kv
from tilepress.kernels.errors import CodecError
from tilepress.kernels.layout.kv import KvLayout, KvParams, shape_of

MOST_BLOCK_TILES = 32
"""Tiles that are encoded at a time: what is in float32 meanwhile stays small."""


_stores: WeakValueDictionary[int, KvStore] = WeakValueDictionary()
_numbers = itertools.count()


class KvStore:
    """The cache of one layer. It begins empty and takes its sizes, dtype and device from the first tokens.

    Attributes:
        params: the codec of the tiles.
        window: the fewest of the newest tokens that stay dense, once there are so many.
        first: number of the first token that is there; those before it have been forgotten.
        encoded_tokens: how many are in tiles.
        dense_tokens: how many are in the window, after them.
        blocks: tiles, uint8 [tiles, sequences, heads, bytes of a tile], in the order of their tokens.
        handle: int64 [1], what stands for the store in a graph: `store_of` finds it again.
    """

    def __init__(self, params: KvParams, window: int = 16) -> None:
        """Raise `CodecError` for a negative window."""
        if window < 0:
            raise CodecError(f"window={window}: a KV cache can't keep fewer than 0 tokens dense")
        self.params = params
        self.window = window
        self.reset()
        self._get_number()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy is another store."""
        self.__dict__.update(state)
        self._get_number()

    def _get_number(self) -> None:
        number = next(_numbers)
        _stores[number] = self
        with torch.inference_mode(False):  # operators write to it in any mode
            self.handle = torch.tensor([number])

    def reset(self) -> None:
        """Forget everything, sizes and dtype too."""
        self.first = self.encoded_tokens = self.dense_tokens = 0
        self.blocks: list[torch.Tensor] = []
        self._layout: KvLayout | None = None
        self._keys = self._values = torch.empty(0, 0, 0, 0)
        self._addresses: tuple[list[int], torch.Tensor] | None = None

    @property
    def layout(self) -> KvLayout:
        """Of the tiles.

        Raises:
            CodecError: nothing has been appended yet.
        """
        if self._layout is None:
            raise CodecError("this KV cache is empty")
        return self._layout

    @property
    def sequences(self) -> int:
        """Sequences of the batch."""
        return self._keys.shape[0]

    @property
    def heads(self) -> int:
        """KV heads."""
        return self._keys.shape[1]

    @property
    def tokens(self) -> int:
        """All tokens."""
        return self.encoded_tokens + self.dense_tokens

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, room for tokens to come included."""
        return sum(block.nbytes for block in self.blocks) + self._keys.nbytes + self._values.nbytes

    @property
    def window_keys(self) -> torch.Tensor:
        """Keys of the dense tokens, [sequences, heads, tokens, channels]; a view."""
        return self._keys[:, :, : self.dense_tokens]

    @property
    def window_values(self) -> torch.Tensor:
        """Values of the dense tokens, [sequences, heads, tokens, channels]; a view."""
        return self._values[:, :, : self.dense_tokens]

    @property
    def window_room(self) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Keys and values of the window with all its room, both contiguous, and how many tokens are there."""
        return self._keys, self._values, self.dense_tokens

    def tile_addresses(self) -> torch.Tensor:
        """Where each tile begins, int64 on the device of the cache; the same tensor as long as no tile comes or goes.

        Raises:
            CodecError: tiles that don't begin at multiples of 16 bytes.
        """
        places = [place for block in self.blocks for place in (block.data_ptr(), len(block))]
        if self._addresses is None or self._addresses[0] != places:
            if any(block.data_ptr() % 16 or not block.is_contiguous() for block in self.blocks):
                raise CodecError("the tiles of a KV cache do not begin at a multiple of 16 bytes")
            of_tiles = [block.data_ptr() + i * block[0].nbytes for block in self.blocks for i in range(len(block))]
            tiles = torch.tensor(of_tiles, dtype=torch.int64, device=self.window_keys.device)
            self._addresses = places, tiles
        return self._addresses[1]

    def append(self, keys: torch.Tensor, values: torch.Tensor, first_seen: int = 0) -> None:
        """Add tokens to every sequence: [sequences, heads, tokens, channels].

        Args:
            keys, values: of the tokens.
            first_seen: number of a token; those before it are forgotten, one by one if all are new, else by tiles.

        Raises:
            CodecError: another number of sequences, heads or channels, another dtype or device than before, or what
                tiles can't hold.
        """
        shape = shape_of(keys, values)
        keys, values = keys.detach(), values.detach()
        if self._layout is None:
            self._start(keys, values)
        expected = (self.sequences, self.heads, self._keys.shape[3], self._values.shape[3], self._keys.dtype)
        if (*shape[:2], keys.shape[3], values.shape[3], keys.dtype) != expected or keys.device != self._keys.device:
            raise CodecError(
                f"this KV cache holds {list(self._keys.shape[:2])} sequences and heads of {self._keys.shape[3]} and "
                f"{self._values.shape[3]} channels, {self._keys.dtype} on {self._keys.device}; "
                f"not {list(keys.shape)} and {list(values.shape)}, {keys.dtype} on {keys.device}"
            )
        first, encoded_tokens, dense_tokens = self.counts_after(keys.shape[2], first_seen)
        if self.tokens:
            self.forget(first_seen)
        else:
            skipped = first - self.first
            keys, values = keys[:, :, skipped:], values[:, :, skipped:]
        encoded = encoded_tokens - self.encoded_tokens
        if encoded:
            keys = torch.cat([self.window_keys, keys], dim=2)
            values = torch.cat([self.window_values, values], dim=2)
            self._encode(keys[:, :, :encoded], values[:, :, :encoded])
            keys, values = keys[:, :, encoded:], values[:, :, encoded:]
        self.first, self.encoded_tokens, self.dense_tokens = first, encoded_tokens, dense_tokens
        self.window_keys[:, :, dense_tokens - keys.shape[2] :] = keys
        self.window_values[:, :, dense_tokens - keys.shape[2] :] = values

    def counts_after(self, new: int, first_seen: int) -> tuple[int, int, int]:
        """`first`, `encoded_tokens` and `dense_tokens` as `append` will leave them."""
        if self.tokens:
            first = self.first_without(first_seen)
            encoded, dense = self.encoded_tokens - (first - self.first), self.dense_tokens + new
        else:
            first = self.first + min(max(0, first_seen - self.first), new)
            encoded, dense = 0, new - (first - self.first)
        if dense > self.window + self.params.group:
            tiled = (dense - self.window) // self.params.group * self.params.group
            return first, encoded + tiled, dense - tiled
        return first, encoded, dense

    def make_room(self) -> None:
        """Have room for another token in the window: where it is full, its oldest tokens become tiles."""
        if self.dense_tokens == self._keys.shape[2]:
            group = self.params.group
            self._encode(self._keys[:, :, :group], self._values[:, :, :group])
            self.encoded_tokens += group
            self.dense_tokens -= group
            for states in (self._keys, self._values):
                states[:, :, : self.dense_tokens] = states[:, :, group:].clone()

    def count_written(self) -> None:
        """Count a token that has been written to `window_room`, after those that are there."""
        self.dense_tokens += 1

    def first_without(self, before: int) -> int:
        """The first token that `forget(before)` would leave."""
        forgotten = max(0, before - self.first) // self.params.group * self.params.group
        return self.first + min(forgotten, self.encoded_tokens)

    def forget(self, before: int) -> None:
        """Drop the tiles that hold only tokens before the one with this number."""
        first = self.first_without(before)
        forgotten = (first - self.first) // self.params.group
        self.encoded_tokens -= first - self.first
        self.first = first
        while forgotten:
            tiles = self.blocks.pop(0)
            # One by one, those that are left will need no other copy.
            self.blocks[:0] = [tiles[i : i + 1].clone() for i in range(forgotten, len(tiles))]
            forgotten = max(0, forgotten - len(tiles))

    def crop(self, tokens: int) -> None:
        """Keep the first tokens only. A tile that is cut becomes dense again, as it was decoded.

        Raises:
            CodecError: a negative number.
        """
        if tokens < 0:
            raise CodecError(f"a KV cache can't be cropped to {tokens} tokens")
        if tokens >= self.tokens:
            return
        if tokens >= self.encoded_tokens:
            self.dense_tokens = tokens - self.encoded_tokens
            return
        whole, rest = divmod(tokens, self.params.group)
        cut = self._tile(whole)
        self._keep_tiles(whole)
        self._keys[:, :, :rest] = kv.decode_keys(cut, self.layout)[:, :, :rest]
        self._values[:, :, :rest] = kv.decode_values(cut, self.layout)[:, :, :rest]
        self.encoded_tokens, self.dense_tokens = tokens - rest, rest

    def select(self, rows: torch.Tensor) -> None:
        """Make sequence i what sequence rows[i] is now; `rows` is int64 of any length, or bool [sequences]."""
        if self._layout is None:
            return
        rows = rows.to(self._keys.device)
        if torch.equal(rows, torch.arange(self.sequences, device=rows.device)):
            return  # as in most steps of a search by beams
        self.blocks = [block[:, rows].contiguous() for block in self.blocks]
        self._keys, self._values = self._keys[rows].contiguous(), self._values[rows].contiguous()

    def pieces(self, most_tokens: int) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """The whole sequence, decoded piece by piece.

        Args:
            most_tokens: of a piece; one tile, or the window, is the smallest piece.

        Yields:
            the first token of the piece, its keys and its values, float32 [sequences, heads, tokens, channels].
        """
        first, step = 0, max(1, most_tokens // self.params.group)
        for block in self.blocks:
            for tiles in torch.split(block, step):
                keys = _joined(kv.decode_keys(tiles, self.layout))
                yield first, keys, _joined(kv.decode_values(tiles, self.layout))
                first += keys.shape[2]
        if self.dense_tokens:
            yield first, self.window_keys.float(), self.window_values.float()

    def dense_keys(self) -> torch.Tensor:
        """All keys, decoded: [sequences, heads, tokens, channels]."""
        tiles = [_joined(kv.decode_keys(block, self.layout)).to(self._keys.dtype) for block in self.blocks]
        return torch.cat([*tiles, self.window_keys], dim=2)

    def dense_values(self) -> torch.Tensor:
        """All values, decoded: [sequences, heads, tokens, channels]."""
        tiles = [_joined(kv.decode_values(block, self.layout)).to(self._values.dtype) for block in self.blocks]
        return torch.cat([*tiles, self.window_values], dim=2)

    def _start(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self._layout = KvLayout(self.params, keys.shape[3], values.shape[3], keys.dtype)
        room = (*keys.shape[:2], self.window + self.params.group)
        self._keys = keys.new_empty(*room, keys.shape[3])
        self._values = values.new_empty(*room, values.shape[3])

    def _encode(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        def in_tiles(states: torch.Tensor) -> torch.Tensor:
            return torch.unflatten(states, 2, (-1, self.params.group)).permute(2, 0, 1, 3, 4)

        for first in range(0, keys.shape[2], MOST_BLOCK_TILES * self.params.group):
            some = slice(first, first + MOST_BLOCK_TILES * self.params.group)
            tiles = kv.encode(in_tiles(keys[:, :, some]), in_tiles(values[:, :, some]), self.layout)
            self.blocks.append(tiles)

    def _tile(self, number: int) -> torch.Tensor:
        for block in self.blocks:
            if number < len(block):
                return block[number]
            number -= len(block)
        raise AssertionError("there is no such tile")

    def _keep_tiles(self, count: int) -> None:
        kept: list[torch.Tensor] = []
        for block in self.blocks:
            if count:
                kept.append(block if len(block) <= count else block[:count].clone())
                count -= len(kept[-1])
        self.blocks = kept


def store_of(handle: torch.Tensor) -> KvStore:
    """The store that a handle stands for.

    Raises:
        CodecError: there is no such store any more.
    """
    store = _stores.get(int(handle))
    if store is None:
        raise CodecError("this KV cache is no longer there")
    return store


def _joined(tiles: torch.Tensor) -> torch.Tensor:
    """[tiles, sequences, heads, group, channels] -> [sequences, heads, tokens, channels]."""
    return tiles.permute(1, 2, 0, 3, 4).flatten(2, 3)
