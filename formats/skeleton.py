"""A model without weights, and where in it each tensor of a checkpoint belongs.

The names in a checkpoint are not always the model's: Transformers renames some on loading, and merges others (the
experts of a mixture, say, into one tensor). Its own rules are applied here, so nothing has to be listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import MergeModulelist, WeightConverter, WeightRenaming, rename_source_key


@dataclass(frozen=True)
class Place:
    """Where a tensor belongs.

    Attributes:
        path: of the module, as `model.layers.0.mlp.up_proj`.
        parameter: its name in the module, as `weight`.
        module: the module, on the meta device.
        is_expert: the tensor is one expert's matrix, merged with the others' on loading.
    """

    path: str
    parameter: str
    module: torch.nn.Module
    is_expert: bool


class Skeleton:
    """The model that a config.json describes, on the meta device."""

    def __init__(self, model: transformers.PreTrainedModel) -> None:
        """Look up Transformers' renamings for `model`."""
        self.model = model
        self._state = model.state_dict()
        conversions = get_model_conversion_mapping(model)
        self._renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
        self._converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
        self._merging = {
            pattern
            for converter in self._converters
            if converter.operations and isinstance(converter.operations[0], MergeModulelist)
            for pattern in converter.source_patterns
        }

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Skeleton | None:
        """Build the skeleton, or nothing for an architecture that Transformers does not have."""
        architectures = config.get("architectures") or []
        model_class = getattr(transformers, architectures[0], None) if architectures else None
        if model_class is None or not hasattr(model_class, "config_class") or model_class.config_class is None:
            return None
        fields = {key: value for key, value in config.items() if key != "quantization_config"}
        try:
            parsed = model_class.config_class.from_dict(fields)
            with torch.device("meta"):
                model = model_class._from_config(parsed)
        except Exception:  # A config can break a model's constructor in any way; names are a good enough guide then.
            return None
        return cls(model)

    def find(self, name: str) -> Place | None:
        """Place of the checkpoint's tensor `name`; nothing if the model has none for it."""
        renamed, pattern = rename_source_key(
            name, self._renamings, self._converters, self.model.base_model_prefix, self._state
        )
        if renamed not in self._state and name in self._state:
            renamed, pattern = name, None
        if renamed not in self._state:
            return None
        path, _, parameter = renamed.rpartition(".")
        return Place(path, parameter, self.model.get_submodule(path), pattern in self._merging)
