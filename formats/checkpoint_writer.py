"""Writing an ordinary safetensors checkpoint, tensor by tensor, so that it is whole or not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tilepress.formats.atomic_folder import atomic_folder
from tilepress.formats.safetensors_write import header_json, padded_header, room_for
from tilepress.formats.sharding import CONFIG_NAME, INDEX_NAME, SINGLE_NAME, shard_name
from tilepress.formats.tensor_info import TensorInfo
from tilepress.kernels.encoded import bytes_of


def write_checkpoint(
    destination: Path,
    tensors: Sequence[TensorInfo],
    load: Callable[[str], torch.Tensor],
    config: Mapping[str, Any],
    companions: Mapping[str, Path],
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write a folder that any reader of safetensors checkpoints takes.

    Args:
        destination: folder to write; must not exist, or be empty.
        tensors: name, shape and dtype of each tensor.
        load: gives a tensor by name; called once for each, in order.
        config: content of config.json; left out when empty.
        companions: relative name -> file to copy.
        max_shard_bytes: size at which a new shard is begun.

    Raises:
        RecipeError: the destination exists.
        TilepressError: the disk is full, or its permissions don't allow it.
    """
    # Wider elements first, so that every tensor in the file is aligned.
    ordered = sorted(tensors, key=lambda tensor: -tensor.dtype.itemsize)
    shards = _shards(ordered, max_shard_bytes)
    with atomic_folder(destination) as folder:
        mapping = {}
        for number, shard in enumerate(shards, 1):
            name = SINGLE_NAME if len(shards) == 1 else shard_name(number, len(shards))
            _write_shard(folder / name, shard, load)
            mapping.update({tensor.name: name for tensor in shard})
        if len(shards) > 1:
            index = {"metadata": {"total_size": sum(tensor.size_bytes for tensor in ordered)}, "weight_map": mapping}
            (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        if config:
            (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for name, source in companions.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)


def _write_shard(path: Path, shard: Sequence[TensorInfo], load: Callable[[str], torch.Tensor]) -> None:
    text = header_json({"format": "pt"}, shard)
    with open(path, "wb") as file:
        file.write(padded_header(text, room_for(len(text))))
        for info in shard:
            file.write(bytes_of(load(info.name)))


def _shards(tensors: Sequence[TensorInfo], max_shard_bytes: int) -> list[list[TensorInfo]]:
    shards: list[list[TensorInfo]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.size_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.size_bytes
    return shards
