"""What `save_pretrained` writes of a compressed model: its state dict, and the records that make it a container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import transformers
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from tilepress.formats.record import Error, Record, container_metadata
from tilepress.kernels import BackendError
from tilepress.kernels.layout.none import NoneParams
from tilepress.runtime.compressed import CompressedTensor


def state_and_metadata(
    model: transformers.PreTrainedModel, tensors: Mapping[str, CompressedTensor]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """State dict to save, under the model's names, and the metadata that every shard gets.

    Transformers will turn the names back to those of the checkpoint; the records must have them already. Whatever is
    dense in the model, tensors that were decoded on loading included, gets a record with codec `none`.

    Args:
        model: to be saved.
        tensors: path in the model -> compressed tensor.

    Raises:
        BackendError: weights that are offloaded, or a compressed tensor whose name can't be turned back.
    """
    state = model.state_dict()
    for name in model._keys_to_ignore_on_save or ():
        state.pop(name, None)
    for name, value in state.items():
        if value.device.type == "meta":
            raise BackendError(f"{name} is offloaded, so the model can't be saved; load it without offloading first")
    state = remove_tied_weights_from_state_dict(state, model)
    on_disk = revert_weight_conversion(model, dict(state))
    names = {id(value): name for name, value in on_disk.items()}
    records: list[Record] = []
    parts_on_disk: set[str] = set()
    for path, tensor in tensors.items():
        found = {part: names.get(id(state[key]), "") for part, key in tensor.part_keys(path).items()}
        record = _renamed(tensor, found)
        if {part: record.part_name(part) for part in found} != found:
            raise BackendError(
                f"{record.name} would be saved as {', '.join(found.values())}, which can't be loaded again; "
                "compress the source once more instead of saving the model"
            )
        records.append(record)
        parts_on_disk.update(found.values())
    for name, value in on_disk.items():
        if name not in parts_on_disk:
            dense = Record(name, NoneParams(), tuple(value.shape), value.dtype, False, Error(0.0, 0.0))
            records.append(dense.seal({"": value.cpu()}))
    return state, container_metadata(records)


def _renamed(tensor: CompressedTensor, found: Mapping[str, str]) -> Record:
    """The tensor's record under the name that it gets on disk; its checksum covers the name."""
    part, part_name = next(iter(found.items()))
    name = part_name.removesuffix(f".{part}") if part else part_name
    if name == tensor.record.name:
        return tensor.record
    parts = {part: value.cpu() for part, value in tensor.encoded.parts.items()}
    return replace(tensor.record, name=name).seal(parts)
