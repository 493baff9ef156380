"""Native steps of one model: what Transformers passes to a forward, as a decoder (kernels/cpu/decoder.py) takes it."""

from __future__ import annotations

from typing import Any

import torch

from tilepress.kernels import CodecError
from tilepress.kernels.cpu import panels
from tilepress.kernels.cpu.decoder import MOST_SEQUENCES, Decoder, Description
from tilepress.runtime.native_cache import place_of
from tilepress.runtime.native_model import Unfit, describe, visible_tokens

MOST_KEPT = 1 << 15
"""Positions whose rotary embedding is kept; those beyond are computed one by one."""


class Steps:
    """Steps of a model whose modules and tensors stay as they are."""

    def __init__(self, model: Any, description: Description) -> None:
        """Find kernels for the decoder that the model is.

        Raises:
            CodecError: it has weights without a kernel, or tensors of different dtypes or devices.
        """
        self._config = model.config
        self._description = description
        self._decoder = Decoder(description)
        self._embed = model.model.embed_tokens
        self._rotary = Rotary(model.model.rotary_emb, description.dtype)

    @classmethod
    def of(cls, model: Any) -> Steps | None:
        """The steps of a model, or None where it takes none."""
        try:
            return cls(model, describe(model))
        except (Unfit, CodecError):
            return None

    @property
    def native_seconds(self) -> float:
        """Of all steps in native code."""
        return self._decoder.native_seconds

    def step(
        self, ids: torch.Tensor, cache: object, mask: torch.Tensor | None, positions: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Take one token more of each sequence, and add it to the cache.

        Args:
            ids: [sequences, 1].
            cache: of the model.
            mask: [sequences, tokens] of numbers that are all but zero, or None.
            positions: [sequences or 1, 1], or None.

        Returns:
            Logits, [sequences, 1, vocabulary], or None where these arguments are not for a native step.

        Raises:
            CodecError: weights with damaged parts.
        """
        description, sequences = self._description, ids.shape[0]
        if sequences > MOST_SEQUENCES or not panels.is_plain_call(ids):
            return None
        tokens: list[int] = ids[:, 0].tolist()
        if not all(0 <= token < self._embed.num_embeddings for token in tokens):
            return None
        shape = (sequences, description.key_heads, description.head_size)
        place = place_of(cache, len(description.layers), shape, description.dtype)
        if place is None or not _sees_all(mask, sequences, place.tokens + 1):
            return None
        most = visible_tokens(self._config)
        if most is not None and place.tokens >= most:
            return None
        of_tokens = _positions(positions, sequences, place.tokens)
        if of_tokens is None:
            return None
        embedded = None if self._decoder.embeds else self._embed(ids[:, 0])
        cosines, sines = self._rotary.at(of_tokens)
        logits = self._decoder.step(place.cache, tokens, place.dense_tokens, cosines, sines, embedded)
        place.count()
        return logits[:, None]


class Rotary:
    """What a model's rotary embedding makes of positions, kept."""

    def __init__(self, rotary: Any, dtype: torch.dtype) -> None:
        """Compute nothing yet."""
        self._rotary = rotary
        self._like = torch.empty(0, dtype=dtype)
        self._kept = torch.empty(0), torch.empty(0)
        self._constants: tuple[torch.Tensor, float] | None = None

    def at(self, positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines, contiguous [positions, channels]."""
        last = max(positions)
        if not 0 <= last < MOST_KEPT:
            return self._compute(torch.tensor(positions))
        constants = self._constants
        if (
            constants is None
            or constants[1] != self._rotary.attention_scaling
            or not torch.equal(constants[0], self._rotary.inv_freq)
        ):
            self._kept = torch.empty(0), torch.empty(0)
            self._constants = self._rotary.inv_freq.clone(), self._rotary.attention_scaling
        if last >= len(self._kept[0]):
            self._kept = self._compute(torch.arange(min(MOST_KEPT, 2 * (last + 128))))
        cosines, sines = self._kept
        if len(positions) == 1:
            return cosines[last : last + 1], sines[last : last + 1]
        rows = torch.tensor(positions)
        return cosines[rows], sines[rows]

    def _compute(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cosines, sines = self._rotary(self._like, positions[None])
        return cosines[0].contiguous(), sines[0].contiguous()


def _sees_all(mask: object, sequences: int, tokens: int) -> bool:
    """Whether a mask hides nothing."""
    if mask is None:
        return True
    return isinstance(mask, torch.Tensor) and mask.shape == (sequences, tokens) and bool(mask.all())


def _positions(positions: object, sequences: int, cached: int) -> list[int] | None:
    """A position for each sequence, or None where they are of another shape."""
    if positions is None:
        return [cached] * sequences
    if not isinstance(positions, torch.Tensor) or positions.shape not in ((1, 1), (sequences, 1)):
        return None
    places: list[int] = positions[:, 0].tolist()
    return places * (sequences // len(places))
