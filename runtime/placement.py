"""Which module of a model each compressed tensor goes to, decided and checked before any weight is loaded.

    linear, embedding   the layer is replaced by a compressed one
    fused               a 3-D parameter of a mixture of experts, compressed as a whole
    split               one expert's matrix of such a parameter
    dense               everything else (convolutions, norms, layers of unknown kinds): decoded once, while it is loaded

Layers count by their exact type, since a subclass may use its weight in any way.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers
from torch import nn
from transformers.core_model_loading import Concatenate, MergeModulelist
from transformers.pytorch_utils import Conv1D

from tilepress.formats.container import Container
from tilepress.formats.names import CheckpointNames, Target
from tilepress.formats.record import Record
from tilepress.kernels import FormatError
from tilepress.runtime import experts


class Kind(enum.Enum):
    """What becomes of a compressed tensor; see the module."""

    LINEAR = "linear"
    EMBEDDING = "embedding"
    FUSED = "fused"
    DENSE = "dense"


@dataclass(frozen=True)
class Placed:
    """One compressed tensor and the parameter of the model whose values it holds."""

    record: Record
    target: Target
    kind: Kind

    @property
    def path(self) -> str:
        """Of the module that owns the parameter."""
        return self.target.name.rpartition(".")[0]

    @property
    def parameter(self) -> str:
        """The parameter's name in that module."""
        return self.target.name.rpartition(".")[2]


@dataclass
class Split:
    """A fused parameter that the checkpoint holds as one matrix for each expert and projection.

    Attributes:
        path: of the experts module.
        parameter: its fused parameter.
        projections: name -> expert's number -> record, in the order in which the fused parameter stacks them.
        leaves: name -> what follows the expert's number in the checkpoint, as `w1.weight`.
    """

    path: str
    parameter: str
    projections: dict[str, dict[int, Record]]
    leaves: dict[str, str] = field(default_factory=dict)


@dataclass
class Placement:
    """Where all tensors go.

    Attributes:
        placed: tensors with a parameter of their own, by that parameter's name.
        splits: fused parameters to be kept in pieces, by name.
        shared: parameter without a tensor of its own -> the parameter that it is tied to, which is in `placed`.
        untied: parameters that Transformers must not tie.
    """

    placed: dict[str, Placed] = field(default_factory=dict)
    splits: dict[str, Split] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    untied: set[str] = field(default_factory=set)


def place(model: transformers.PreTrainedModel, container: Container) -> Placement:
    """Find the place of every tensor of a container in a model on the meta device.

    Raises:
        FormatError: a tensor that the model has no place for, or one of another shape.
    """
    names = CheckpointNames(model)
    state = model.state_dict()
    placement = Placement()
    targets = {name: names.target(name) for name in sorted(container.records)}
    taken_over = {
        id(target.converter)
        for name, target in targets.items()
        if container.records[name].params.codec != "none" and _is_expert(model, target)
    }
    for name, target in targets.items():
        record = container.records[name]
        where = f"{container.where(name)}, tensor {name}"
        if id(target.converter) in taken_over:
            _add_expert(placement, model, record, target, where)
        elif target.converter is not None:
            if record.params.codec != "none":
                raise FormatError(
                    f"{where}: Transformers computes {target.name} from it while loading, which it can't do with "
                    "a compressed tensor; compress again and keep this one with codec none"
                )
        elif target.name in state:
            _require_shape(record, state[target.name].shape, f"{target.name} of {type(model).__name__}", where)
            if record.params.codec != "none":
                _add_placed(placement, model, record, target, where)
        elif record.params.codec != "none" and not _is_ignored(model, target.name):
            raise FormatError(
                f"{where}: {type(model).__name__} has no place for it; load the architecture that config.json names "
                "(tilepress.load does)"
            )
    for name, split in placement.splits.items():
        _check_split(name, split, state[name].shape, container)
    _tie(model, placement, {target.name for target in targets.values() if target.converter is None})
    return placement


def _require_shape(record: Record, shape: Sequence[int], owner: str, where: str) -> None:
    if record.shape != tuple(shape):
        raise FormatError(
            f"{where}: has the shape {list(record.shape)}, but {owner} {list(shape)}; "
            "the config.json is not the one of these weights"
        )


def _add_placed(placement: Placement, model: nn.Module, record: Record, target: Target, where: str) -> None:
    other = placement.placed.get(target.name)
    if other is not None:
        raise FormatError(
            f"{where}: is for {target.name}, as {other.record.name} is; the checkpoint contradicts itself"
        )
    placement.placed[target.name] = Placed(record, target, _kind(model, target.name, record))


def _kind(model: nn.Module, name: str, record: Record) -> Kind:
    path, _, parameter = name.rpartition(".")
    module = model.get_submodule(path)
    if parameter == "weight" and type(module) is (Conv1D if record.transposed else nn.Linear):
        return Kind.LINEAR
    if parameter == "weight" and type(module) is nn.Embedding and not record.transposed and module.max_norm is None:
        return Kind.EMBEDDING
    if experts.is_fused_parameter(module, parameter) and not record.transposed:
        return Kind.FUSED
    return Kind.DENSE


def _is_ignored(model: Any, name: str) -> bool:
    """Whether the model itself says that checkpoints may hold this tensor for nothing."""
    return any(re.search(pattern, name) for pattern in model._keys_to_ignore_on_load_unexpected or ())


def _is_expert(model: nn.Module, target: Target) -> bool:
    """Whether the tensor is one expert's matrix, which Transformers stacks with the others', and with no more to it."""
    operations = target.converter.operations if target.converter is not None else []
    kinds = [type(operation) for operation in operations]
    if kinds not in ([MergeModulelist], [MergeModulelist, Concatenate]):
        return False
    if [operation.dim for operation in operations] != [0, 1][: len(operations)]:
        return False
    path, _, parameter = target.name.rpartition(".")
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return False
    return experts.is_fused_parameter(module, parameter) and _expert_of(target) is not None


def _expert_of(target: Target) -> tuple[int, str] | None:
    """(expert's number, rest) of a name such as `...experts.3.w1.weight` that is merged into `...experts.x`."""
    module = target.renamed.rpartition(".")[0]
    match = re.fullmatch(rf"{re.escape(module)}\.(\d+)\.(.+)", target.plain)
    return (int(match[1]), match[2]) if match else None


def _add_expert(placement: Placement, model: nn.Module, record: Record, target: Target, where: str) -> None:
    found = _expert_of(target)
    if found is None or not _is_expert(model, target) or record.transposed:
        raise FormatError(f"{where}: is no matrix of an expert as the others are; keep it and them with codec none")
    path, _, parameter = target.name.rpartition(".")
    split = placement.splits.get(target.name)
    if split is None:
        order = [_projection(pattern) for pattern in target.converter.source_patterns]
        split = placement.splits[target.name] = Split(path, parameter, {name: {} for name in order})
    expert, leaf = found
    projection = leaf.removesuffix(".weight")
    if projection not in split.projections:
        raise FormatError(f"{where}: is no projection that {target.name} is made of; keep it with codec none")
    split.projections[projection][expert] = record
    split.leaves[projection] = leaf


def _projection(pattern: str) -> str:
    """Name of the projection in a converter's source pattern: `.experts.*.w1.weight` -> `w1`."""
    return pattern.rpartition("*.")[2].replace("\\", "").removesuffix(".weight")


def _check_split(name: str, split: Split, shape: torch.Size, container: Container) -> None:
    """Raise `FormatError` unless all experts are there and stack up to the fused parameter."""
    count, rows, columns = shape
    height = rows // len(split.projections)
    for projection, records in split.projections.items():
        missing = sorted(set(range(count)) - set(records))
        if missing or len(records) != count:
            what = f"expert {missing[0]} is missing" if missing else f"there are {len(records)} experts, not {count}"
            raise FormatError(f"{container.path}, {name}, projection {projection}: {what}; convert the source again")
        for record in records.values():
            where = f"{container.where(record.name)}, tensor {record.name}"
            _require_shape(record, (height, columns), f"an expert of {name}", where)


def _tie(model: transformers.PreTrainedModel, placement: Placement, present: set[str]) -> None:
    """Decide for parameters that the model ties to each other: who owns the compressed tensor, who shares it."""
    groups: dict[str, list[str]] = {}
    for name, source in (getattr(model, "all_tied_weights_keys", None) or {}).items():
        groups.setdefault(source, [source]).append(name)
    for members in groups.values():
        compressed = [name for name in members if name in placement.placed]
        owners = [name for name in members if name in present]
        if not compressed:
            continue
        if len(owners) > 1:
            placement.untied.update(compressed)
        absent = [name for name in members if name not in present]
        owner = owners[0]
        if owner not in placement.placed:
            continue
        if all(_can_share(model, name) for name in absent) and placement.placed[owner].kind in _LAYERS:
            placement.untied.update(members)
            placement.shared.update(dict.fromkeys(absent, owner))
        else:
            placement.placed[owner] = replace(placement.placed[owner], kind=Kind.DENSE)


_LAYERS: Sequence[Kind] = (Kind.LINEAR, Kind.EMBEDDING)


def _can_share(model: nn.Module, name: str) -> bool:
    path, _, parameter = name.rpartition(".")
    return parameter == "weight" and type(model.get_submodule(path)) in (nn.Linear, nn.Embedding)
