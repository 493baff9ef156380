"""Names in a checkpoint -> names in the model, by the transforms that Transformers itself will apply on loading."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import transformers
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming


@dataclass(frozen=True)
class Target:
    """Where Transformers puts a tensor of the checkpoint.

    Attributes:
        name: in the model's state dict, if the model has it.
        renamed: the same before the base model's prefix is added or taken away.
        plain: after the renamings alone, before any converter.
        converter: the transform that will compute the model's tensor from this one and maybe others; None if it is
            taken as it is.
    """

    name: str
    renamed: str
    plain: str
    converter: Any


class CheckpointNames:
    """The name transforms of one model, with those that tilepress adds."""

    def __init__(self, model: transformers.PreTrainedModel, added: Sequence[Any] = ()) -> None:
        """Look the transforms up.

        Args:
            model: as it is now: its state dict decides about the base model's prefix.
            added: `WeightRenaming`s and `WeightConverter`s that the quantizer will add to Transformers' own.
        """
        transforms = [*get_model_conversion_mapping(model), *added]
        self._renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
        self._converters = [each for each in transforms if isinstance(each, WeightConverter)]
        self._prefix = model.base_model_prefix
        self.known = frozenset(model.state_dict())

    def target(self, name: str) -> Target:
        """Where the tensor `name` of the checkpoint goes."""
        plain = name
        for renaming in self._renamings:
            plain, _ = renaming.rename_source_key(plain)
        renamed, converter = plain, None
        for candidate in self._converters:
            renamed, pattern = candidate.rename_source_key(renamed)
            if pattern is not None:
                converter = candidate
                break
        adjusted = self._with_prefix(renamed)
        if adjusted not in self.known and name in self.known:
            return Target(self._with_prefix(name), name, name, None)
        return Target(adjusted, renamed, plain, converter)

    def _with_prefix(self, name: str) -> str:
        """Add or take away the base model's prefix where only that makes the name known."""
        if not self._prefix:
            return name
        shorter = re.sub(f"^{self._prefix}.", "", name, count=1)
        if name.startswith(self._prefix) and shorter in self.known:
            return shorter
        longer = f"{self._prefix}.{name}"
        return longer if longer in self.known else name
