"""Which models take native steps: the parts of a decoder that a model of Transformers is made of, and their state.

Only models are matched whose mathematics is known to be that of kernels/cpu/decoder.hpp: exact classes, made of the
layers that Transformers or tilepress has put there, with no option that changes what they compute.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from tilepress.kernels import Encoded
from tilepress.kernels.cpu.decoder import Description, Layer, Projection
from tilepress.runtime.compressed import CompressedEmbedding, CompressedLinear, CompressedTensor

CLASSES: Mapping[str, str] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""Model type -> the class of Transformers that is matched."""

ACTIVATIONS: Mapping[str, str] = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
"""Name in a config -> name of the kernel."""

STATIC_ROTARY = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings that depend on nothing but the position."""


class Unfit(Exception):
    """The model is none that takes native steps."""


def is_candidate(model: object) -> bool:
    """Whether the model is of a class that may take native steps."""
    return any(
        type(model).__name__ == name and type(model).__module__ == f"transformers.models.{kind}.modeling_{kind}"
        for kind, name in CLASSES.items()
    )


def describe(model: Any) -> Description:
    """The decoder that a candidate is.

    Raises:
        Unfit: the model has been changed, or has an option that there is no kernel for.
    """
    config, inner = model.config, model.model
    rotary = inner.rotary_emb
    _require(config.hidden_act in ACTIVATIONS, "another activation")
    _require(getattr(rotary, "rope_type", None) in STATIC_ROTARY, "another rotary embedding")
    layers = [_layer(layer, config) for layer in inner.layers]
    _require(len(layers) == config.num_hidden_layers > 0, "a number of layers that the config does not have")
    return Description(
        dtype=layers[0].input_norm.dtype,
        embedding=_embedding(inner.embed_tokens),
        layers=layers,
        norm=_norm(inner.norm, config),
        head=_projection(model.lm_head),
        epsilon=config.rms_norm_eps,
        activation=ACTIVATIONS[config.hidden_act],
        scaling=inner.layers[0].self_attn.scaling,
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        head_size=inner.layers[0].self_attn.head_dim,
    )


def visible_tokens(config: Any) -> int | None:
    """Tokens that the next one may look back to, itself included, before some layer forgets the first; None: all."""
    window: int | None = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    return window if kinds is None or "sliding_attention" in kinds else None


class Snapshot:
    """A model's modules and tensors at one time.

    It is looked at for each token, when no cache of the processor holds anything of the model any more, and so looks
    at as little as will do.
    """

    def __init__(self, model: nn.Module) -> None:
        """Remember those of the model as it is."""
        modules = list(model.modules())
        self._children = [module._modules for module in modules if module._modules]
        self._known_children = list(_values(self._children))
        self._parts = [part for module in modules for part in (module._parameters, module._buffers) if part]
        self._known_parts = list(_values(self._parts))
        self._tensors = [tensor for tensor in self._known_parts if tensor is not None]
        self._addresses = list(map(torch.Tensor.data_ptr, self._tensors))
        self._parameters = [tensor for tensor in self._tensors if isinstance(tensor, nn.Parameter)]
        # Hooks of the model itself are called around the step.
        self._hooks = [hooks for module in modules[1:] for hooks in (module._forward_hooks, module._forward_pre_hooks)]
        self._hooks_looked_at = -1
        self._are_capturing = False
        self._attributes = [module.__dict__ for module in modules[1:] if not isinstance(module, CompressedTensor)]

    def is_current(self) -> bool:
        """Whether the model still has the same modules and tensors."""
        return (
            all(map(operator.is_, _values(self._children), self._known_children))
            and all(map(operator.is_, _values(self._parts), self._known_parts))
            and list(map(torch.Tensor.data_ptr, self._tensors)) == self._addresses
        )

    def is_watched(self) -> bool:
        """Whether someone wants to see, or replaces, what modules within the model compute, or their gradients."""
        return (
            self._has_hooks()
            or nn.modules.module._has_any_global_hook()  # type: ignore[no-untyped-call]
            or any("forward" in attributes for attributes in self._attributes)
            or (torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self._parameters))
        )

    def _has_hooks(self) -> bool:
        # PyTorch counts the hooks that are registered anywhere; only what was there at the last look can have gone.
        count = RemovableHandle.next_id
        if count != self._hooks_looked_at:
            hooks = list(_values(self._hooks))
            if not all(getattr(hook, "__module__", None) == _CAPTURING for hook in hooks):
                return True
            self._are_capturing = bool(hooks)
            self._hooks_looked_at = count
        return self._are_capturing and _is_capturing()


_CAPTURING = "transformers.utils.output_capturing"
"""Whose hooks stay on modules once hidden states have been asked for."""


def _is_capturing() -> bool:
    """Whether those hooks do anything now: somebody wants more of a model than logits."""
    collector = getattr(sys.modules[_CAPTURING], "_active_collector", None)
    return collector is None or collector.get() is not None


def _values(dictionaries: list[Any]) -> Any:
    return chain.from_iterable(map(dict.values, dictionaries))


def _layer(layer: Any, config: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    _require(attention.head_dim % 16 == 0, "heads of another size")
    head_norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    query_norm, key_norm = (None if norm is None else _norm(norm, config) for norm in head_norms)
    return Layer(
        input_norm=_norm(layer.input_layernorm, config),
        query=_projection(attention.q_proj),
        key=_projection(attention.k_proj),
        value=_projection(attention.v_proj),
        query_norm=query_norm,
        key_norm=key_norm,
        output=_projection(attention.o_proj),
        middle_norm=_norm(layer.post_attention_layernorm, config),
        gate=_projection(mlp.gate_proj),
        up=_projection(mlp.up_proj),
        down=_projection(mlp.down_proj),
    )


def _norm(norm: Any, config: Any) -> torch.Tensor:
    _require(norm.variance_epsilon == config.rms_norm_eps, "norms of another epsilon")
    weight: torch.Tensor = norm.weight.detach()
    return weight


def _projection(layer: Any) -> Projection:
    _require(type(layer) in (nn.Linear, CompressedLinear), f"a {type(layer).__name__}")
    return Projection(_weight(layer.weight), None if layer.bias is None else layer.bias.detach())


def _embedding(layer: Any) -> Encoded | torch.Tensor:
    _require(type(layer) in (nn.Embedding, CompressedEmbedding), f"a {type(layer).__name__}")
    _require(getattr(layer, "max_norm", None) is None, "an embedding with a largest norm")
    return _weight(layer.weight)


def _weight(weight: Any) -> Encoded | torch.Tensor:
    """The weight in tensors that nobody else can lead to other memory."""
    if isinstance(weight, torch.Tensor):
        return weight.detach()
    encoded: Encoded = weight()
    parts = {name: part.detach() for name, part in encoded.parts.items()}
    return Encoded(encoded.params, encoded.shape, encoded.dtype, parts)


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise Unfit(f"the model has {what}")
