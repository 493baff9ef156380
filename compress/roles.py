"""What each tensor of a checkpoint is for, found by building the model without its weights.

No list of layer names: the architecture that config.json names is built on PyTorch's meta device, the checkpoint's
names go through Transformers' own renamings, and the module that a tensor ends up in says what it is.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tilepress.formats.skeleton import Skeleton


class Role(enum.Enum):
    """Place of a tensor in its model."""

    BLOCK = "block"
    """A matrix that multiplies activations inside a repeated block, experts included."""
    EMBEDDING = "embedding"
    """A table that is looked up."""
    HEAD = "head"
    """A matrix that multiplies activations outside the blocks: output head, pooler, classifier."""
    OTHER = "other"
    """Everything else: norms, biases, routers, convolutions, buffers."""


@dataclass(frozen=True)
class Placement:
    """Role of a tensor, and whether its rows are the input channels (GPT-2's Conv1D)."""

    role: Role
    transposed: bool = False


def placements(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Placement]:
    """Tensor name -> placement.

    For an architecture that Transformers doesn't have, names decide: what is numbered is a block.

    Args:
        config: the checkpoint's config.json.
        names: of the tensors in the checkpoint.
    """
    skeleton = Skeleton.of(config)
    return {name: _by_name(name) if skeleton is None else _by_module(skeleton, name) for name in names}


def _by_module(skeleton: Skeleton, name: str) -> Placement:
    found = skeleton.find(name)
    if found is None or found.is_rearranged:
        return Placement(Role.OTHER)
    inside_block = re.search(r"\.\d+\.", f".{found.path}.") is not None
    matrix = Role.BLOCK if inside_block else Role.HEAD
    if found.is_expert:
        return Placement(matrix)
    if found.parameter != "weight":
        return Placement(Role.OTHER)
    if isinstance(found.module, torch.nn.Embedding):
        return Placement(Role.EMBEDDING)
    if isinstance(found.module, torch.nn.Linear):
        return Placement(matrix)
    if type(found.module).__name__ == "Conv1D":
        return Placement(matrix, transposed=True)
    return Placement(Role.OTHER)


def _by_name(name: str) -> Placement:
    if not name.endswith(".weight") or "norm" in name.lower():
        return Placement(Role.OTHER)
    if "embed" in name or name.endswith(("wte.weight", "wpe.weight")):
        return Placement(Role.EMBEDDING)
    if re.search(r"\.\d+\.", name):
        return Placement(Role.BLOCK)
    return Placement(Role.HEAD if "head" in name else Role.OTHER)
