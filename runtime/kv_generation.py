"""`generate` with compressed KV caches: `model.generate(..., kv="int:bits=4")`, or for every call of a model.

Transformers asks a model for its cache through `_prepare_cache_for_generation`, and carries what a generation config
has of its own, so that `kv` reaches that place as any option of `generate` does.
"""

from __future__ import annotations

import inspect
from types import MethodType
from typing import Any

from transformers import PreTrainedModel

from tilepress.kernels.errors import CodecError
from tilepress.kernels.layout.kv import parse_kv_spec
from tilepress.runtime.attention import NAME, attends_by_name
from tilepress.runtime.kv_cache import TilepressCache


def use_kv(model: PreTrainedModel, kv: str | None = None) -> None:
    """Let `generate` of any model keep its KV cache in compressed tiles, and its attention read them.

    Args:
        model: a decoder of Transformers, compressed or not.
        kv: codec spec of the cache of every call that is given none (see `TilepressCache`); None: only calls with
            `generate(..., kv=...)` get one.

    Raises:
        CodecError: a codec that caches don't have, options that it doesn't take, or a model whose cache tiles can't be.
    """
    if kv is not None:
        parse_kv_spec(kv)
    if not model.can_generate() or model.config.is_encoder_decoder:
        raise CodecError(f"{type(model).__name__} generates no text as a decoder does, and has no KV cache to compress")
    TilepressCache(config=model.config)  # refuses layers that have no keys and values
    if attends_by_name(model):
        model.set_attn_implementation(NAME)
    setattr(model.generation_config, "kv", kv)  # noqa: B010  # not one of its own attributes
    model._prepare_cache_for_generation = MethodType(_prepare_cache_for_generation, model)  # type: ignore[assignment]


def _prepare_cache_for_generation(
    model: Any, generation_config: Any, model_kwargs: dict[str, Any], *arguments: Any, **options: Any
) -> Any:
    """Put a `TilepressCache` where `generate` expects one, unless there is a cache or none is wanted."""
    kv = getattr(generation_config, "kv", None)
    name = cache_argument(model)
    if kv is not None and model_kwargs.get(name) is None and generation_config.use_cache is not False:
        model_kwargs[name] = TilepressCache(kv, config=model.config)
        if getattr(generation_config, "is_assistant", False):
            model_kwargs[name].activate_past_recording()
    return type(model)._prepare_cache_for_generation(model, generation_config, model_kwargs, *arguments, **options)


def cache_argument(model: Any) -> str:
    """The argument of `forward` that takes a cache; Transformers has changed its name."""
    return "cache" if "cache" in inspect.signature(type(model).forward).parameters else "past_key_values"
