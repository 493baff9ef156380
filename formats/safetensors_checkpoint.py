"""A checkpoint in safetensors files, as Transformers saves it: one file, or shards with an index.

Opening reads headers only; a tensor is mapped from its file when it is asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tilepress.formats.fingerprint import fingerprint
from tilepress.formats.plan_document import PLAN_NAME, RECIPE_NAME
from tilepress.formats.safetensors_header import Entry, Header, map_tensor, read_header, shown
from tilepress.formats.sharding import CONFIG_NAME, INDEX_NAME, SINGLE_NAME, read_json_object, weight_map
from tilepress.formats.tensor_info import TensorInfo
from tilepress.kernels.errors import FormatError, RecipeError

SUFFIX = ".safetensors"
PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt"}
"""Files of PyTorch's own format, which can run code when they are read."""

WEIGHT_SUFFIXES = PICKLE_SUFFIXES | {SUFFIX, ".gguf", ".onnx", ".onnx_data", ".h5", ".msgpack", ".ot", ".tflite"}
INDEX_SUFFIX = ".index.json"
UNFINISHED_SUFFIX = ".partial"
_QUANTIZATION_KEYS = ("quantization_config", "compression_config")


class SafetensorsCheckpoint:
    """A checkpoint whose tensors lie in safetensors files of one folder.

    Attributes:
        path: the folder.
        infos: name -> info, in the order of the files and of the tensors in them.
        config: content of config.json, empty if there is none.
        weight_files: the files that hold the tensors.
    """

    def __init__(self, files: Sequence[Path], index: Mapping[str, str] | None = None) -> None:
        """Read and check the headers.

        Args:
            files: the weight files, all in one folder.
            index: tensor -> file name, if the folder has an index.

        Raises:
            FormatError: a missing, damaged or hostile file, or files that contradict each other or the index.
            RecipeError: the checkpoint is quantized already.
        """
        self.path = files[0].parent
        self.weight_files: Sequence[Path] = tuple(files)
        self.config: Mapping[str, Any] = read_config(self.path)
        self._headers = [read_header(file) for file in files]
        self._places: dict[str, tuple[Header, Entry]] = {}
        for header in self._headers:
            self._add(header)
        if index is not None:
            self._check_index(index)
        self.infos: Mapping[str, TensorInfo] = {
            name: TensorInfo(name, entry.shape, entry.dtype) for name, (_, entry) in self._places.items()
        }

    def tensor(self, name: str) -> torch.Tensor:
        """Map one tensor; its pages are let go when it dies. Writing to it does not change the file.

        Raises:
            FormatError: the file has changed since it was opened.
            KeyError: no such tensor.
        """
        header, entry = self._places[name]
        return map_tensor(header.path, entry)

    def companions(self) -> list[Path]:
        """Files to carry over: all but weights, their indexes, config.json, hidden and unfinished files; relative."""
        return companion_files(self.path)

    def identity(self) -> str:
        """Digest of the weight files and config.json, the same wherever the folder lies; see `fingerprint`."""
        config = json.dumps(self.config, sort_keys=True).encode()
        return fingerprint({header.path: header.size for header in self._headers}, config)

    def _add(self, header: Header) -> None:
        for name, entry in header.entries.items():
            if name in self._places:
                raise FormatError(
                    f"{header.path}, tensor {shown(name)}: is also in {self._places[name][0].path.name}; "
                    "remove the file that does not belong to the checkpoint"
                )
            self._places[name] = header, entry

    def _check_index(self, index: Mapping[str, str]) -> None:
        for name, file in index.items():
            place = self._places.get(name)
            if place is None or place[0].path.name != file:
                raise FormatError(
                    f"{self.path / file}, tensor {shown(name)}: {INDEX_NAME} says that it is in this file, "
                    "but it isn't; fetch the checkpoint again"
                )


def open_folder(folder: Path) -> SafetensorsCheckpoint:
    """Open the safetensors checkpoint of a folder.

    The weights are `model.safetensors`, else the shards of `model.safetensors.index.json`, else the only
    `*.safetensors` file, in the order in which Transformers looks for them.

    Raises:
        FormatError: no such weights, or as `SafetensorsCheckpoint`.
        RecipeError: as `SafetensorsCheckpoint`.
    """
    if (folder / SINGLE_NAME).exists():
        return SafetensorsCheckpoint([folder / SINGLE_NAME])
    if (folder / INDEX_NAME).exists():
        index = weight_map(folder / INDEX_NAME)
        return SafetensorsCheckpoint(_shards(folder, index), index)
    files = [path for path in list_folder(folder) if path.suffix == SUFFIX]
    if len(files) == 1:
        return SafetensorsCheckpoint(files)
    if files:
        raise FormatError(
            f"{folder}: holds {len(files)} safetensors files but neither {SINGLE_NAME} nor {INDEX_NAME}; "
            "name one file, or fetch the index"
        )
    raise no_weights(folder)


def open_file(file: Path) -> SafetensorsCheckpoint:
    """Open a single safetensors file; config and companions come from its folder.

    Raises:
        FormatError: as `SafetensorsCheckpoint`.
        RecipeError: the file is one of several shards, or as `SafetensorsCheckpoint`.
    """
    index = file.parent / INDEX_NAME
    if index.exists():
        shards = set(weight_map(index).values())
        if file.name in shards and len(shards) > 1:
            raise RecipeError(f"{file}: is one of {len(shards)} shards of a checkpoint; name the folder {file.parent}")
    return SafetensorsCheckpoint([file])


def no_weights(folder: Path) -> FormatError:
    """Say what is wrong with a folder that has no safetensors file."""
    pickles = [path.name for path in list_folder(folder) if path.suffix in PICKLE_SUFFIXES]
    if pickles:
        return FormatError(
            f"{folder}: its weights are in PyTorch's pickle format ({shown(pickles[0])}), which can run code and is "
            "not read; save the model as safetensors first, with save_pretrained"
        )
    return FormatError(f"{folder}: holds no weights (*.safetensors or *.gguf); name the folder of a checkpoint")


def list_folder(folder: Path) -> list[Path]:
    """List what lies in a folder, sorted.

    Raises:
        FormatError: the folder can't be read.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as problem:
        raise FormatError(f"{folder}: can't be read ({problem.strerror}); check its permissions") from None


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json, empty if there is none.

    Raises:
        FormatError: it is not a JSON object.
        RecipeError: it says that the checkpoint is quantized already.
    """
    path = folder / CONFIG_NAME
    config = read_json_object(path) if path.exists() else {}
    for part in (config, config.get("text_config")):
        for key in _QUANTIZATION_KEYS:
            if isinstance(part, dict) and part.get(key):
                raise _already_quantized(folder, part[key])
    return config


def companion_files(folder: Path) -> list[Path]:
    """List the files of a folder that belong to a checkpoint but hold no weights, relative and sorted.

    Subfolders are entered, linked folders are not; linked files count as files, since the Hub's cache is made of them.
    """
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(place, name)
            if _is_companion(path) and path != folder / CONFIG_NAME:
                found.append(path.relative_to(folder))
    return sorted(found)


def _is_companion(path: Path) -> bool:
    if path.name.startswith(".") or path.name.endswith(INDEX_SUFFIX) or path.name in (PLAN_NAME, RECIPE_NAME):
        return False
    return path.suffix not in WEIGHT_SUFFIXES | {UNFINISHED_SUFFIX} and path.is_file()


def _shards(folder: Path, index: Mapping[str, str]) -> list[Path]:
    files = [folder / name for name in sorted(set(index.values()))]
    for file in files:
        if file.suffix != SUFFIX:
            raise FormatError(f"{folder / INDEX_NAME}: names {shown(file.name)}, which is not a safetensors file")
        if not file.exists():
            raise FormatError(f"{file}: is missing, although {INDEX_NAME} names it; fetch it again")
    return files


def _already_quantized(folder: Path, quantization: object) -> RecipeError:
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if method == "tilepress":
        return RecipeError(f"{folder}: is already compressed by tilepress; decompress it first")
    named = f"with {shown(method)}" if method else "already"
    return RecipeError(
        f"{folder}: is quantized {named} ({CONFIG_NAME}, quantization_config); start from the unquantized checkpoint"
    )
