"""Turning a model on the meta device into one with room for compressed tensors, and the transforms to fill it.

Transformers' loader then does the rest: it reads the parts of a container as it reads any tensor, puts each on its
device or leaves it on disk. Two kinds of transforms are added to its own. Renamings lead the parts of single experts
past the converters that would stack them. Converters decode the tensors that no compressed layer can hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import transformers
from torch import nn
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming

from tilepress.formats.container import Container
from tilepress.formats.names import CheckpointNames
from tilepress.formats.record import Record, check_encoded
from tilepress.kernels import CodecError, FormatError
from tilepress.runtime import experts
from tilepress.runtime.compressed import PLAIN_PART, CompressedEmbedding, CompressedLinear, CompressedTensor, dense_of
from tilepress.runtime.placement import Kind, Placed, Placement, Split


class DecodeParts(ConversionOps):
    """Step of a converter: the parts of one tensor -> the dense parameter.

    Attributes:
        problem: why the parts could not be decoded. Kept instead of raised, because Transformers would bury it in a
            report of its own; the parameter is then NaN, and whoever loads the model has to raise it.
    """

    def __init__(self, record: Record, where: str, dtype: torch.dtype) -> None:
        """Decode the tensor of `record`, which lies in the file `where`, to `dtype`."""
        self.record = record
        self.where = where
        self.dtype = dtype
        self.problem: FormatError | None = None

    def __deepcopy__(self, memo: object) -> DecodeParts:
        # Transformers copies a converter for each tensor that it makes; the problem must be found in this one.
        return self

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        """Pattern -> tensors that matched it, in; parameter -> values, out."""
        parts = {}
        for part, pattern in zip(self.record.part_specs(), source_patterns, strict=True):
            found = input_dict[pattern]
            parts[part] = found[0] if isinstance(found, list) else found
        values = torch.full((), torch.nan, dtype=self.dtype).expand(self.record.shape)
        try:
            values = dense_of(self.record, check_encoded(self.record, parts, self.where), self.dtype)
        except FormatError as problem:
            self.problem = problem
        except CodecError as problem:
            self.problem = FormatError(f"{self.where}, tensor {self.record.name}: {problem}")
        return {kwargs["full_layer_name"]: values}


@dataclass
class Assembly:
    """What `assemble` has done to a model.

    Attributes:
        transforms: to be added to those with which Transformers loads the model.
        tensors: path in the model -> compressed tensor.
        shared: path of a layer -> path of the layer whose weight it shares.
        decoding: the steps that decode tensors which no compressed layer can hold.
    """

    transforms: list[Any] = field(default_factory=list)
    tensors: dict[str, CompressedTensor] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    decoding: list[DecodeParts] = field(default_factory=list)

    def part_dtypes(self) -> dict[str, torch.dtype]:
        """Name in the state dict -> dtype, for every part of every compressed tensor."""
        return {
            key: tensor.record.part_specs()[part].dtype
            for path, tensor in self.tensors.items()
            for part, key in tensor.part_keys(path).items()
        }


def assemble(model: transformers.PreTrainedModel, container: Container, placement: Placement) -> Assembly:
    """Replace layers and parameters by their compressed counterparts, still on the meta device.

    Raises:
        FormatError: parts that don't fit their record, or names that Transformers would lead elsewhere.
    """
    assembly = Assembly()
    state = model.state_dict()
    _forbid_tying(model, placement.untied)
    for name, placed in placement.placed.items():
        if placed.kind is Kind.DENSE:
            where = container.where(placed.record.name)
            assembly.decoding.append(DecodeParts(placed.record, where, state[name].dtype))
            assembly.transforms.append(_decoding(placed, assembly.decoding[-1]))
        else:
            assembly.tensors[name] = _read(container, placed.record, state[name].dtype)
            _install(model, placed, assembly.tensors[name])
    for name, split in placement.splits.items():
        _install_split(model, container, split, state[name], assembly)
    for name, owner in placement.shared.items():
        path = name.rpartition(".")[0]
        layer = _layer(model.get_submodule(path), assembly.tensors[owner], is_shared=True)
        model.set_submodule(path, layer)
        assembly.shared[path] = owner.rpartition(".")[0]
    assembly.transforms[:0] = _expert_renamings(placement.splits.values())
    _check_names(model, placement, assembly, container)
    return assembly


def _read(container: Container, record: Record, dtype: torch.dtype) -> CompressedTensor:
    # Checks may create tensors, and models are built where every new tensor is a meta tensor.
    with torch.device("cpu"):
        parts = container.encoded(record.name).parts
    return CompressedTensor(record, parts, dtype)


def _install(model: nn.Module, placed: Placed, tensor: CompressedTensor) -> None:
    module = model.get_submodule(placed.path)
    if placed.kind is Kind.FUSED:
        experts.install(module, placed.parameter, tensor)
    else:
        cast(Any, model).set_submodule(placed.path, _layer(module, tensor))


def _layer(dense: nn.Module, weight: CompressedTensor, is_shared: bool = False) -> nn.Module:
    layer: nn.Module
    if isinstance(dense, nn.Embedding):
        layer = CompressedEmbedding(dense, weight, is_shared)
    else:
        layer = CompressedLinear(dense, weight, is_shared)
    # Nothing is missing from a model that loads at all, so there is nothing for Transformers to initialise.
    layer._is_hf_initialized = True  # type: ignore[assignment]
    return layer.requires_grad_(False)


def _install_split(
    model: nn.Module, container: Container, split: Split, fused: torch.Tensor, assembly: Assembly
) -> None:
    projections: dict[str, list[CompressedTensor]] = {}
    for projection, records in split.projections.items():
        child = _child_name(projection)
        projections[child] = [_read(container, records[expert], fused.dtype) for expert in sorted(records)]
        for expert, tensor in enumerate(projections[child]):
            path = f"{split.path}.{experts.SPLIT}.{split.parameter}.{child}.{expert}"
            assembly.tensors[path] = tensor
    module = model.get_submodule(split.path)
    experts.install(module, split.parameter, experts.SplitExperts(projections, fused.shape))


def _child_name(projection: str) -> str:
    return projection.replace(".", "_")


def _expert_renamings(splits: Iterable[Split]) -> list[Any]:
    """`experts.3.w1.weight.codes` -> `experts.compressed.gate_up_proj.w1.3.codes`, and back on saving.

    One renaming serves all layers and experts, since each is tried on every name. The unnamed part comes last: when
    its turn comes, names of other parts have changed already. Dots are not escaped because the pattern of one
    direction is the replacement of the other.
    """
    wanted: dict[tuple[str, str], None] = {}
    for part_is_named in (True, False):
        for split in splits:
            module = split.path.rpartition(".")[2]
            for projection, records in split.projections.items():
                leaf = split.leaves[projection]
                inner = f"{module}.{experts.SPLIT}.{split.parameter}.{_child_name(projection)}"
                for part in sorted({part for record in records.values() for part in record.part_specs()}):
                    if bool(part) is part_is_named:
                        source = f"{module}.(\\d+).{leaf}" + (f".{part}" if part else "")
                        wanted[source, f"{inner}.\\1.{part or PLAIN_PART}"] = None
    return [WeightRenaming(source_patterns=source, target_patterns=target) for source, target in wanted]


def _decoding(placed: Placed, step: DecodeParts) -> Any:
    name = placed.target.renamed
    parts = [re.escape(f"{name}.{part}") for part in placed.record.part_specs()]
    return WeightConverter(source_patterns=[f"^{part}$" for part in parts], target_patterns=name, operations=[step])


def _forbid_tying(model: transformers.PreTrainedModel, names: set[str]) -> None:
    """Take parameters out of what Transformers ties, now and whenever it works the ties out again."""
    if not names:
        return
    for path, module in model.named_modules():
        if isinstance(module, transformers.PreTrainedModel):
            prefix = f"{path}." if path else ""
            module._tied_weights_keys = {
                target: source
                for target, source in module.get_expanded_tied_weights_keys(all_submodels=False).items()
                if prefix + target not in names and prefix + source not in names
            }
    for target, source in list(model.all_tied_weights_keys.items()):
        if target in names or source in names:
            model.all_tied_weights_keys.pop(target)


def _check_names(
    model: transformers.PreTrainedModel, placement: Placement, assembly: Assembly, container: Container
) -> None:
    """Raise `FormatError` if Transformers would lead a part anywhere but to the buffer that is meant for it."""
    names = CheckpointNames(model, assembly.transforms)
    expected: dict[str, str] = {}
    for path, tensor in assembly.tensors.items():
        for part, key in tensor.part_keys(path).items():
            expected[tensor.record.part_name(part)] = key
    for name, placed in placement.placed.items():
        if placed.kind is Kind.DENSE:
            expected.update(dict.fromkeys(map(placed.record.part_name, placed.record.part_specs()), name))
    for part_name in sorted(expected):
        found = names.target(part_name).name
        if found != expected[part_name]:
            raise FormatError(
                f"{container.path}, tensor {part_name}: Transformers leads it to {found} instead of "
                f"{expected[part_name]}; compress again and keep this tensor with codec none"
            )


def transforms_to_keep(transforms: Iterable[Any], tensors: Mapping[str, CompressedTensor]) -> list[Any]:
    """Of the transforms that loaded a model, those to be reversed when it is saved.

    Decoded tensors are saved dense, and a converter that would split a fused parameter must not take its parts for it.
    """
    keys = [key for path, tensor in tensors.items() for key in tensor.part_keys(path).values()]
    kept = []
    for transform in transforms:
        if isinstance(transform, WeightConverter):
            if any(isinstance(step, DecodeParts) for step in transform.operations):
                continue
            reverse = transform.reverse_transform()
            if any(reverse.rename_source_key(key)[1] is not None for key in keys):
                continue
        kept.append(transform)
    return kept
