"""How fast a model runs and how much memory its weights take.

Prefill is one pass over a prompt, of which only the last logits are asked for; the best of a few passes counts.
Decoding is greedy, token by token, after that prompt; its first token does not count. Slow models are measured for a
few seconds only.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from tilepress.formats.text import context_length
from tilepress.runtime.kv_generation import cache_argument
from tilepress.runtime.native_forward import NativeForward

PROMPT_TOKENS = 256
DECODED_TOKENS = 32
_PREFILLS = 3
_LONGEST_SECONDS = 4.0
"""After this time neither measurement begins another step."""


class Runner(Protocol):
    """A loaded causal language model, as it is timed."""

    @property
    def memory_bytes(self) -> int:
        """Of its weights."""

    @property
    def vocabulary(self) -> int:
        """Tokens that it knows."""

    @property
    def context(self) -> int | None:
        """Most tokens that it takes; None: any number."""

    @property
    def native_seconds(self) -> float:
        """That decoding has spent in native steps so far."""

    def prefill(self, prompt: torch.Tensor) -> None:
        """Take an int64 vector of tokens from the beginning, and compute the logits of the last."""

    def decode(self) -> None:
        """Take the token that the last logits rank first."""


@dataclass(frozen=True)
class Contestant:
    """A model on disk.

    Attributes:
        name: of its folder or file.
        codec: what most of its weights are in.
        size_bytes: of its weight files.
        load: makes a runner of it, which is gone when the context is left.
    """

    name: str
    codec: str
    size_bytes: int
    load: Callable[[], AbstractContextManager[Runner]]


@dataclass(frozen=True)
class Speed:
    """Tokens a second.

    Attributes:
        prefill: of the best of a few passes over the prompt.
        decode: mean over the decoded tokens.
        native_share: of the time of decoded tokens that native steps took; the rest is Python's and PyTorch's. 0 where
            the model takes none.
    """

    prefill: float
    decode: float
    native_share: float


class ModelRunner:
    """A model of Transformers, in evaluation mode."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Run nothing yet."""
        self.memory_bytes = resident_bytes(model)
        self.vocabulary = int(model.config.get_text_config().vocab_size)
        self.context = context_length(model.config)
        self._model = model
        parameters = inspect.signature(model.forward).parameters
        self._last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self._cache = cache_argument(model)
        self._state: Any = None

    @property
    def native_seconds(self) -> float:
        """Of native steps since the model was prepared for them."""
        forward = self._model.forward
        return forward.native_seconds if isinstance(forward, NativeForward) else 0.0

    def prefill(self, prompt: torch.Tensor) -> None:
        """One pass with an empty cache."""
        self._run(prompt.to(self._model.device)[None], **self._last_only)

    def decode(self) -> None:
        """One pass over one token."""
        self._run(self._state.logits[:, -1:].argmax(-1), **{self._cache: self._state[self._cache]})

    @torch.inference_mode()
    def _run(self, ids: torch.Tensor, **options: Any) -> None:
        self._state = self._model(input_ids=ids, use_cache=True, **options)
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)


def measure_speed(runner: Runner, tokens: torch.Tensor) -> Speed:
    """Time a causal language model.

    Args:
        runner: of the model.
        tokens: int64 vector, the first of which are the prompt.
    """
    room = (runner.context or PROMPT_TOKENS + DECODED_TOKENS + 1) - 1
    decoded = max(1, min(DECODED_TOKENS, room // 2))
    prompt = tokens[: min(PROMPT_TOKENS, max(1, room - decoded))]
    passes = _time(lambda: runner.prefill(prompt), _PREFILLS)
    runner.decode()
    before = runner.native_seconds
    steps = _time(runner.decode, decoded)
    native_share = (runner.native_seconds - before) / sum(steps)
    return Speed(len(prompt) / min(passes), len(steps) / sum(steps), native_share)


def resident_bytes(model: torch.nn.Module) -> int:
    """Bytes of all parameters and buffers, those that are shared counted once."""
    tensors = [*model.parameters(), *model.buffers()]
    # One tensor tied to two names is one object after loading, or two that begin at the same byte.
    sizes = {(tensor.data_ptr(), tensor.device): tensor.numel() * tensor.element_size() for tensor in tensors}
    return sum(sizes.values())


def _time(step: Callable[[], None], times: int) -> list[float]:
    """Seconds of each step, of which there are so many, or fewer if they take long."""
    seconds: list[float] = []
    while len(seconds) < times and sum(seconds) < _LONGEST_SECONDS:
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    return seconds
