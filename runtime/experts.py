"""Mixtures of experts whose weights stay compressed.

Transformers keeps all experts of a layer in one 3-D parameter ("fused": [experts, rows, columns]) and lets the function
that runs them be chosen by name. Checkpoints mostly hold one matrix an expert and projection, which are compressed one
by one; so a fused parameter becomes either

    CompressedTensor     where the checkpoint holds the 3-D tensor itself, or
    SplitExperts         one CompressedTensor for each expert and projection (gate and up make one fused parameter),

and `experts_forward` multiplies by one expert's tiles at a time. SplitExperts lie at `experts.compressed.<parameter>`,
where none of Transformers' patterns for checkpoint names reaches them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from tilepress.kernels import matmul
from tilepress.runtime.compressed import CompressedTensor

EXPERTS_FUNCTION = "tilepress"
"""Name under which Transformers finds `experts_forward`."""

SPLIT = "compressed"
"""Name of the experts' child that holds their `SplitExperts`."""

_PROJECTIONS = ("gate_up_proj", "up_proj", "down_proj")
_MODEL_CONFIG = "_model_config"
"""Name under which an experts module keeps its model's config while it has one of its own."""


class SplitExperts(nn.Module):
    """One fused parameter as compressed matrices: for each projection that it is made of, one tensor an expert."""

    _is_hf_initialized: ClassVar[bool] = True

    def __init__(self, projections: Mapping[str, Sequence[CompressedTensor]], shape: torch.Size) -> None:
        """Take over the tensors.

        Args:
            projections: name -> the experts' tensors, in the order in which the fused parameter stacks their rows.
            shape: of the fused parameter.
        """
        super().__init__()
        for name, tensors in projections.items():
            self.add_module(name, nn.ModuleList(tensors))
        self.shape = shape

    @property
    def dtype(self) -> torch.dtype:
        """The model's dtype."""
        return self._tensor(0).dtype

    @property
    def device(self) -> torch.device:
        """Where the first expert's parts lie."""
        return self._tensor(0).device

    def forward(self, x: torch.Tensor, expert: int) -> torch.Tensor:
        """`x` times the expert's rows of the fused parameter: [tokens, columns] -> [tokens, rows]."""
        return torch.cat([matmul(x, tensors[expert]()) for tensors in self._lists()], dim=-1)

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The fused parameter, decoded."""
        projections = [torch.stack([tensor.dense(dtype) for tensor in tensors]) for tensors in self._lists()]
        return torch.cat(projections, dim=1)

    def _lists(self) -> list[Any]:
        return list(self.children())

    def _tensor(self, expert: int) -> CompressedTensor:
        tensor: CompressedTensor = self._lists()[0][expert]
        return tensor


def is_supported(module: nn.Module) -> bool:
    """Whether `experts_forward` can stand in for the module's own forward."""
    return (
        hasattr(module, "_apply_gate")
        and hasattr(module, "config")
        and hasattr(module, "has_gate")
        and not getattr(module, "is_transposed", False)
        and not getattr(module, "has_post_expert_norm", False)
    )


def is_fused_parameter(module: nn.Module, name: str) -> bool:
    """Whether `name` is a fused parameter of an experts module that can run compressed."""
    parameter = getattr(module, name, None)
    return name in _PROJECTIONS and is_supported(module) and isinstance(parameter, nn.Parameter) and parameter.ndim == 3


def install(module: nn.Module, name: str, weight: CompressedTensor | SplitExperts) -> None:
    """Put `weight` in the place of a fused parameter and let `experts_forward` run this module, and only this one."""
    delattr(module, name)
    if isinstance(weight, SplitExperts):
        if SPLIT not in dict(module.named_children()):
            module.add_module(SPLIT, nn.Module())
        module.get_submodule(SPLIT).add_module(name, weight)
        module.__dict__[name] = weight
    else:
        module.add_module(name, weight)
    if _MODEL_CONFIG not in module.__dict__:
        module.__dict__[_MODEL_CONFIG] = module.config
        config: Any = copy.copy(module.config)
        config._experts_implementation = EXPERTS_FUNCTION
        module.config = config
    module._is_hf_initialized = True  # type: ignore[assignment]


def uninstall(module: nn.Module, dtype: torch.dtype) -> None:
    """Make the module ordinary again: decoded parameters, and the forward that its model asks for."""
    for name in _PROJECTIONS:
        weight = getattr(module, name, None)
        if isinstance(weight, (CompressedTensor, SplitExperts)):
            parameter = nn.Parameter(weight.dense(dtype), requires_grad=False)
            module.__dict__.pop(name, None)
            module._modules.pop(name, None)
            module.register_parameter(name, parameter)
    module._modules.pop(SPLIT, None)
    module.config = module.__dict__.pop(_MODEL_CONFIG)


def is_installed(module: nn.Module) -> bool:
    """Whether the module is one that `install` has changed."""
    return _MODEL_CONFIG in module.__dict__


def experts_forward(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Run the experts that the router has chosen, one after the other.

    Args:
        self: the experts module.
        hidden_states: [tokens, columns].
        top_k_index: chosen experts, int64 [tokens, choices]; numbers beyond the last expert are skipped.
        top_k_weights: their weights, [tokens, choices].

    Returns:
        [tokens, columns] in the dtype of `hidden_states`.
    """
    result = torch.zeros_like(hidden_states)
    first = "gate_up_proj" if self.has_gate else "up_proj"
    for expert in torch.unique(top_k_index).tolist():
        if expert >= self.num_experts:
            continue
        token, choice = torch.where(top_k_index == expert)
        hidden = _project(self, first, hidden_states[token], expert)
        hidden = self._apply_gate(hidden) if self.has_gate else self.act_fn(hidden)
        hidden = _project(self, "down_proj", hidden, expert) * top_k_weights[token, choice, None]
        result.index_add_(0, token, hidden.to(result.dtype))
    return result


def _project(module: Any, name: str, x: torch.Tensor, expert: int) -> torch.Tensor:
    weight = getattr(module, name)
    if isinstance(weight, SplitExperts):
        y: torch.Tensor = weight(x, expert)
    elif isinstance(weight, CompressedTensor):
        rows = weight.record.shape[1]
        y = matmul(x, weight(), rows=slice(expert * rows, (expert + 1) * rows))
    else:
        y = nn.functional.linear(x, weight[expert])
    bias = getattr(module, f"{name}_bias", None) if getattr(module, "has_bias", False) else None
    return y if bias is None else y + bias[expert]


ALL_EXPERTS_FUNCTIONS.register(EXPERTS_FUNCTION, experts_forward)
