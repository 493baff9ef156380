"""Native steps of generation: a model's `forward` that takes one token more in one call of native code where it can.

Where it can't (a prompt, padding, outputs that only Transformers makes, hooks, gradients, a cache of another kind, an
adapter), and where the environment has TILEPRESS_NATIVE=0, Transformers' own forward is called. Both give the same
logits within rounding, and the caches of either are continued by the other.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from transformers.modeling_outputs import CausalLMOutputWithPast

SWITCH = "TILEPRESS_NATIVE"
"""Environment variable; 0 leaves every token to Transformers."""

ATTENTION = ("eager", "sdpa", "tilepress")
"""Implementations of attention that compute the same."""

# Transformers has renamed it.
_CACHE_NAMES = ("cache", "past_key_values")
_CACHE_FIELD = next(field.name for field in fields(CausalLMOutputWithPast) if field.name in _CACHE_NAMES)
# What a step looks at; `cache_position` says what positions and the cache say already.
_ARGUMENTS = {
    *_CACHE_NAMES,
    "input_ids",
    "attention_mask",
    "position_ids",
    "cache_position",
    "use_cache",
    "return_dict",
    "logits_to_keep",
}
_HAS_NATIVE_CODE = importlib.util.find_spec("tilepress.kernels._native") is not None


def install(model: Any) -> None:
    """Have a model take native steps, if it is of a kind that can."""
    if _HAS_NATIVE_CODE:
        from tilepress.runtime.native_model import is_candidate

        if is_candidate(model):
            model.forward = NativeForward(model)


class NativeForward:
    """Stands for a model's `forward`. A copy of the model gets one of its own."""

    def __init__(self, model: Any) -> None:
        """Prepare nothing: the first step does."""
        self.model = model
        self._prepared: Any = None

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(type(self.model).forward.__get__(self.model))

    @property
    def native_seconds(self) -> float:
        """Of the steps in native code since the model was last prepared for them."""
        steps = None if self._prepared is None else self._prepared[1]
        return 0.0 if steps is None else float(steps.native_seconds)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is about this model's memory."""
        return {"model": self.model, "_prepared": None}

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """As the model's own forward."""
        if not torch.compiler.is_compiling() and not arguments:
            output = self._step(options)
            if output is not None:
                return output
        return type(self.model).forward(self.model, *arguments, **options)

    def _step(self, options: Mapping[str, Any]) -> CausalLMOutputWithPast | None:
        """The output of a native step, or None where there is none for these arguments."""
        ids = options.get("input_ids")
        cache = next((options[name] for name in _CACHE_NAMES if name in options), None)
        if cache is None or not isinstance(ids, torch.Tensor) or ids.ndim != 2 or ids.shape[1] != 1:
            return None
        if os.environ.get(SWITCH) == "0" or not _asks_for_logits_only(self.model, options):
            return None
        steps = self._steps()
        if steps is None:
            return None
        logits = steps.step(ids, cache, options.get("attention_mask"), options.get("position_ids"))
        if logits is None:
            return None
        output: Any = CausalLMOutputWithPast
        return output(logits=logits, **{_CACHE_FIELD: cache})  # type: ignore[no-any-return]

    def _steps(self) -> Any:
        """Steps of the model as it is now, or None where it can take none."""
        from tilepress.runtime.native_model import Snapshot
        from tilepress.runtime.native_step import Steps

        if self._prepared is None or not self._prepared[0].is_current():
            self._prepared = Snapshot(self.model), Steps.of(self.model)
        snapshot, steps = self._prepared
        return None if steps is None or snapshot.is_watched() else steps


def _asks_for_logits_only(model: Any, options: Mapping[str, Any]) -> bool:
    config = model.config
    uses_cache = options.get("use_cache")
    return (
        not model.training
        and bool(config.use_cache if uses_cache is None else uses_cache)
        and options.get("return_dict") in (None, True)
        and type(options.get("logits_to_keep", 0)) is int
        and all(value is None or value is False for name, value in options.items() if name not in _ARGUMENTS)
        and not (getattr(config, "output_attentions", False) or getattr(config, "output_hidden_states", False))
        and getattr(config, "return_dict", True)
        and config._attn_implementation in ATTENTION
        and (options.get("cache_position") is None or options.get("position_ids") is not None)
    )
