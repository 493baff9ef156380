"""An uncompressed checkpoint, whatever its files, and the way to open one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from tilepress.formats.hub import fetch, is_hub_name
from tilepress.formats.safetensors_checkpoint import (
    PICKLE_SUFFIXES,
    SUFFIX,
    list_folder,
    no_weights,
    open_file,
    open_folder,
)
from tilepress.formats.tensor_info import TensorInfo
from tilepress.kernels.errors import FormatError, RecipeError

GGUF_SUFFIX = ".gguf"

__all__ = ["Checkpoint", "TensorInfo", "open_checkpoint"]


class Checkpoint(Protocol):
    """A checkpoint opened for reading; its tensors are read one by one.

    Attributes:
        path: folder to which the companion files are relative.
        infos: name -> info, in the order in which reading them is fastest.
        config: content of config.json, empty if there is none.
        weight_files: the files that hold the tensors.
    """

    path: Path
    infos: Mapping[str, TensorInfo]
    config: Mapping[str, Any]
    weight_files: Sequence[Path]

    def tensor(self, name: str) -> torch.Tensor:
        """Read one tensor; any number of threads may do so at once.

        Raises:
            FormatError: the file has changed or is damaged.
            KeyError: no such tensor.
        """
        ...

    def companions(self) -> list[Path]:
        """List the files to carry over (tokenizer, chat template, custom code, ...), config.json excluded."""
        ...

    def identity(self) -> str:
        """Give a digest of the weight files and the config that stays the same when they move."""
        ...


def open_checkpoint(source: str | Path) -> Checkpoint:
    """Open a checkpoint for reading; weights stay on the disk.

    Args:
        source: a folder with safetensors files or one GGUF file, a `.safetensors` or `.gguf` file, or, as a `str`, the
            name of a model on the Hugging Face Hub (`organisation/model`), which is downloaded if no such path exists.

    Raises:
        FormatError: a missing, damaged, hostile or unreadable file, or no weights.
        RecipeError: no such path or model, or a checkpoint that is quantized already.
    """
    path = Path(source)
    # These, unlike Path's own methods, take any text without raising.
    if os.path.isdir(path):
        return _open_folder(path)
    if os.path.exists(path):
        return _open_file(path)
    if isinstance(source, str) and is_hub_name(source):
        return _open_folder(fetch(source))
    raise RecipeError(f"{source}: no such file or folder; check the path")


def _open_folder(folder: Path) -> Checkpoint:
    files = [path for path in list_folder(folder) if path.suffix in (SUFFIX, GGUF_SUFFIX)]
    if not files or any(path.suffix == SUFFIX for path in files):
        return open_folder(folder)
    if len(files) > 1:
        raise RecipeError(f"{folder}: holds {len(files)} GGUF files; name one of them, as {files[0]}")
    return _open_gguf(files[0])


def _open_file(file: Path) -> Checkpoint:
    if file.suffix == GGUF_SUFFIX:
        return _open_gguf(file)
    if file.suffix == SUFFIX:
        return open_file(file)
    if file.suffix in PICKLE_SUFFIXES:
        raise no_weights(file.parent)
    raise FormatError(f"{file}: is neither a {SUFFIX} nor a {GGUF_SUFFIX} file; name a checkpoint")


def _open_gguf(file: Path) -> Checkpoint:
    # Imported here because it brings in the whole of Transformers, which safetensors files don't need.
    from tilepress.formats.gguf_checkpoint import GgufCheckpoint

    return GgufCheckpoint(file)
