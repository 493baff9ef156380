"""How fast a model runs and how much memory its weights take.

Prefill is one pass over a prompt, of which only the last logits are asked for; the best of a few passes counts.
Decoding is greedy, token by token, after that prompt; its first token does not count. Slow models are measured for a
few seconds only.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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


def measure_speed(model: PreTrainedModel, tokens: torch.Tensor) -> Speed:
    """Time a causal language model.

    Args:
        model: in evaluation mode.
        tokens: int64 vector, the first of which are the prompt.
    """
    room = (context_length(model.config) or PROMPT_TOKENS + DECODED_TOKENS + 1) - 1
    decoded = max(1, min(DECODED_TOKENS, room // 2))
    prompt = tokens[: min(PROMPT_TOKENS, max(1, room - decoded))].to(model.device)[None]
    last_only = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    cache = cache_argument(model)
    state: Any = None

    def prefill() -> None:
        nonlocal state
        state = model(input_ids=prompt, use_cache=True, **last_only)

    def decode() -> None:
        nonlocal state
        chosen = state.logits[:, -1:].argmax(-1)
        state = model(input_ids=chosen, use_cache=True, **{cache: state[cache]})

    with torch.inference_mode():
        passes = _time(prefill, _PREFILLS, model.device)
        decode()
        before = _native_seconds(model)
        steps = _time(decode, decoded, model.device)
    native_share = (_native_seconds(model) - before) / sum(steps)
    return Speed(prompt.shape[1] / min(passes), len(steps) / sum(steps), native_share)


def resident_bytes(model: torch.nn.Module) -> int:
    """Bytes of all parameters and buffers, those that are shared counted once."""
    tensors = [*model.parameters(), *model.buffers()]
    # One tensor tied to two names is one object after loading, or two that begin at the same byte.
    sizes = {(tensor.data_ptr(), tensor.device): tensor.numel() * tensor.element_size() for tensor in tensors}
    return sum(sizes.values())


def _native_seconds(model: PreTrainedModel) -> float:
    return model.forward.native_seconds if isinstance(model.forward, NativeForward) else 0.0


def _time(step: Callable[[], None], times: int, device: torch.device) -> list[float]:
    """Seconds of each step, of which there are so many, or fewer if they take long."""
    seconds: list[float] = []
    while len(seconds) < times and sum(seconds) < _LONGEST_SECONDS:
        _wait_for(device)
        begin = time.perf_counter()
        step()
        _wait_for(device)
        seconds.append(time.perf_counter() - begin)
    return seconds


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
