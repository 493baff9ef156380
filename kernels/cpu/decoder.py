"""A pre-norm decoder's step from one token to the next, in one call of native code (decoder.hpp).

Compressed tensors are read where they lie, as dense ones are: nothing is copied, so that a decoder follows whatever
is written into its tensors. It keeps them alive, but can't know that a model has others now.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from tilepress.kernels import _native
from tilepress.kernels.cpu import attention
from tilepress.kernels.cpu.buffers import DTYPE_NAMES, buffer
from tilepress.kernels.cpu.instruction_set import instruction_set
from tilepress.kernels.dispatch import backend_of
from tilepress.kernels.encoded import PANEL_ROWS, Encoded
from tilepress.kernels.errors import CodecError
from tilepress.kernels.kv_store import KvStore

MOST_SEQUENCES = _native.MOST_VECTORS
"""Sequences that take a step together."""


@dataclass(frozen=True)
class Projection:
    """`x @ weight.T + bias`; the weight is compressed, or a dense matrix in the decoder's dtype."""

    weight: Encoded | torch.Tensor
    bias: torch.Tensor | None = None


@dataclass(frozen=True)
class Layer:
    """One layer. Norms are vectors; those of queries and keys are over a head, and may be missing."""

    input_norm: torch.Tensor
    query: Projection
    key: Projection
    value: Projection
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    output: Projection
    middle_norm: torch.Tensor
    gate: Projection
    up: Projection
    down: Projection


@dataclass(frozen=True)
class Description:
    """A decoder.

    Attributes:
        dtype: of activations, norms, biases and dense matrices: float32, bfloat16 or float16.
        embedding: [tokens, hidden], compressed or dense.
        layers: from the first to the last.
        norm: after the last layer.
        head: makes logits.
        epsilon: of all norms.
        activation: "silu", "gelu" or "gelu_tanh".
        scaling: of attention scores.
        heads: of queries.
        key_heads: of keys and values.
        head_size: channels of a head, a multiple of 16.
    """

    dtype: torch.dtype
    embedding: Encoded | torch.Tensor
    layers: Sequence[Layer]
    norm: torch.Tensor
    head: Projection
    epsilon: float
    activation: str
    scaling: float
    heads: int
    key_heads: int
    head_size: int


class DenseCache:
    """Keys and values of all layers as they came, with room for tokens to come.

    Attributes:
        keys, values: of each layer, contiguous [sequences, key heads, room, head size].
    """

    def __init__(self, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
        """Take the tensors, which a step writes to.

        Raises:
            CodecError: tensors of different sizes.
        """
        self.keys, self.values = keys, values
        self.native = _native_cache(map(_without_tiles, keys, values))


class StoredCache:
    """Keys and values of all layers with their old tokens in tiles; good until a store gets or loses tiles."""

    def __init__(self, stores: Sequence[KvStore]) -> None:
        """Take the stores, to whose windows a step writes.

        Raises:
            CodecError: stores of different sizes, or of a codec without a kernel.
        """
        self._stores = stores
        if any(store.params.codec not in attention.CODES for store in stores):
            raise CodecError("attention has no kernel for this cache")
        # What the stores hold now stays in memory while it may be read.
        self._parts = [(list(store.blocks), store.window_room) for store in stores]
        self.native = _native_cache(map(attention.cache_of, stores))


def _native_cache(layers: Iterable[_native.KvCache]) -> _native.DecoderCache:
    try:
        return _native.DecoderCache(list(layers))
    except ValueError as error:
        raise CodecError(f"a decoder's cache: {error}") from None


def _without_tiles(keys: torch.Tensor, values: torch.Tensor) -> _native.KvCache:
    sequences, heads, room, size = keys.shape
    window = buffer(keys), buffer(values), room, 0, DTYPE_NAMES[keys.dtype]
    return _native.KvCache("int", 8, PANEL_ROWS, sequences, heads, size, size, [], *window)


class Decoder:
    """A decoder in main memory, ready for steps.

    Attributes:
        embeds: whether it looks tokens up; else their embeddings are to be given.
        native_seconds: of all its steps in native code.
    """

    def __init__(self, description: Description) -> None:
        """Find the kernels.

        Raises:
            CodecError: weights that have no kernel, and tensors that don't fit each other.
        """
        self._description = description
        self._dtype = description.dtype
        self.native_seconds = 0.0
        try:
            self._native = self._build(description)
        except ValueError as error:
            raise CodecError(f"a decoder can't be made of these tensors: {error}") from None

    def step(
        self,
        cache: DenseCache | StoredCache,
        tokens: Sequence[int],
        cached: int,
        cosines: torch.Tensor,
        sines: torch.Tensor,
        embedded: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Take one token more of each sequence.

        Args:
            cache: with room for a token; its keys and values are written there.
            tokens: one a sequence.
            cached: tokens that are in the cache, as many in each sequence; of a `StoredCache`, those in its windows.
            cosines: of the rotary embedding, [sequences, head size] in the decoder's dtype.
            sines: likewise.
            embedded: [sequences, hidden], where the decoder does not look tokens up.

        Returns:
            Logits, [sequences, rows of the head].

        Raises:
            CodecError: sizes that don't fit, tokens outside the embedding, or damaged parts.
        """
        logits = torch.empty(len(tokens), self._rows, dtype=self._dtype)
        begin = time.perf_counter()
        try:
            self._native.step(
                cache.native,
                tokens,  # type: ignore[arg-type]
                buffer(embedded),
                cached,
                buffer(cosines),
                buffer(sines),
                buffer(logits),
                torch.get_num_threads(),
            )
        except ValueError as error:
            raise CodecError(f"a decoder's step: {error}") from None
        self.native_seconds += time.perf_counter() - begin
        return logits

    def _build(self, description: Description) -> _native.Decoder:
        embedding = self._weight(description.embedding)
        self.embeds = embedding.decodes_rows
        head = self._projection(description.head)
        self._rows = head[0].rows
        return _native.Decoder(
            instruction_set(),
            DTYPE_NAMES[description.dtype],
            embedding if self.embeds else None,
            [self._layer(layer) for layer in description.layers],
            self._vector(description.norm),
            head,
            description.epsilon,
            description.activation,
            description.scaling,
            description.heads,
            description.key_heads,
            description.head_size,
        )

    def _layer(self, layer: Layer) -> _native.DecoderLayer:
        return _native.DecoderLayer(
            self._vector(layer.input_norm),
            self._projection(layer.query),
            self._projection(layer.key),
            self._projection(layer.value),
            self._vector(layer.query_norm),
            self._vector(layer.key_norm),
            self._projection(layer.output),
            self._vector(layer.middle_norm),
            self._projection(layer.gate),
            self._projection(layer.up),
            self._projection(layer.down),
        )

    def _projection(self, projection: Projection) -> _native.Projection:
        return self._weight(projection.weight), self._vector(projection.bias)

    def _weight(self, weight: Encoded | torch.Tensor) -> _native.Weight:
        if isinstance(weight, torch.Tensor):
            self._require_plain(weight)
            return _native.dense_weight(instruction_set(), buffer(weight), DTYPE_NAMES[weight.dtype], *weight.shape)
        make = backend_of(weight.codec, weight.device.type).weight
        native: _native.Weight | None = make(weight) if make is not None else None
        if native is None:
            raise CodecError(f"codec {weight.spec} has no kernel for decoders on {weight.device}")
        return native

    def _vector(self, values: torch.Tensor | None) -> _native.Buffer:
        if values is not None:
            self._require_plain(values)
        return buffer(values)

    def _require_plain(self, tensor: torch.Tensor) -> None:
        if tensor.dtype != self._dtype or not tensor.is_contiguous() or not tensor.is_cpu:
            raise CodecError(f"a tensor is not contiguous {self._dtype} in main memory")
