"""A model without weights, and where in it each tensor of a checkpoint belongs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers.core_model_loading import MergeModulelist

from tilepress.formats.names import CheckpointNames, Target


@dataclass(frozen=True)
class Place:
    """Where a tensor belongs.

    Attributes:
        path: of the module, as `model.layers.0.mlp.up_proj`.
        parameter: its name in the module, as `weight`.
        module: the module, on the meta device.
        is_expert: the tensor is one expert's matrix, merged with the others' on loading.
        is_rearranged: the model's parameter is computed from this tensor in some other way.
    """

    path: str
    parameter: str
    module: torch.nn.Module
    is_expert: bool
    is_rearranged: bool


class Skeleton:
    """The model that a config.json describes, on the meta device."""

    def __init__(self, model: transformers.PreTrainedModel) -> None:
        """Look up Transformers' renamings for `model`."""
        self.model = model
        self._names = CheckpointNames(model)

    @classmethod
    def of(cls, config: Mapping[str, Any], real_buffers: bool = False) -> Skeleton | None:
        """Build the skeleton, or nothing for an architecture that Transformers does not have.

        Args:
            config: the checkpoint's config.json.
            real_buffers: what the model computes for itself, as rotary embeddings, is in main memory: with weights
                from elsewhere the model can then run, in float32.
        """
        architectures = config.get("architectures") or []
        model_class = getattr(transformers, str(architectures[0]), None) if architectures else None
        if model_class is None or getattr(model_class, "config_class", None) is None:
            return None
        fields = {key: value for key, value in config.items() if key != "quantization_config"}
        try:
            parsed = model_class.config_class.from_dict(fields)
            if real_buffers:
                from accelerate import init_empty_weights  # Takes seconds to import, and few need it.

                with init_empty_weights(include_buffers=False):
                    model = model_class._from_config(parsed, dtype=torch.float32)
            else:
                with torch.device("meta"):
                    model = model_class._from_config(parsed)
        except Exception:  # A config can break a model's constructor in any way; names are a good enough guide then.
            return None
        return cls(model)

    @property
    def known(self) -> frozenset[str]:
        """Names in the model's state dict."""
        return self._names.known

    def target(self, name: str) -> Target:
        """Where Transformers puts the checkpoint's tensor `name`."""
        return self._names.target(name)

    def find(self, name: str) -> Place | None:
        """Place of the checkpoint's tensor `name`; nothing if the model has none for it."""
        target = self._names.target(name)
        if target.name not in self._names.known:
            return None
        operations = target.converter.operations if target.converter is not None else []
        is_expert = bool(operations) and isinstance(operations[0], MergeModulelist)
        path, _, parameter = target.name.rpartition(".")
        is_rearranged = target.converter is not None and not is_expert
        return Place(path, parameter, self.model.get_submodule(path), is_expert, is_rearranged)
