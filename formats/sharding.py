"""The files of a sharded safetensors checkpoint: which they are, by index or by name.

model.safetensors                              one file, or
model-00001-of-00003.safetensors ...           shards, and
model.safetensors.index.json                   {"metadata": {...}, "weight_map": {tensor: shard}}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tilepress.kernels import FormatError

CONFIG_NAME = "config.json"
SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MOST_JSON_BYTES = 100_000_000


def shard_name(number: int, count: int) -> str:
    """File name of shard `number` (from 1) of `count`."""
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        FormatError: unreadable, too large, not JSON, or not an object.
    """
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise FormatError(f"{path}: is larger than the {MOST_JSON_BYTES} bytes that a JSON file may have here")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise FormatError(f"{path}: is not JSON; the file is damaged, copy it again") from None
    except OSError as problem:
        raise FormatError(f"{path}: can't be read ({problem.strerror})") from None
    if not isinstance(value, dict):
        raise FormatError(f"{path}: does not hold a JSON object; the file is damaged, copy it again")
    return value


def weight_map(index: Path) -> dict[str, str]:
    """Tensor -> shard, from an index whose shards are plain file names.

    Raises:
        FormatError: an index without that, or one that points outside its folder.
    """
    mapping = read_json_object(index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping or not all(isinstance(file, str) for file in mapping.values()):
        raise FormatError(f"{index}: has no weight_map of tensor to file; the file is damaged, copy it again")
    for file in set(mapping.values()):
        if Path(file).name != file or file in ("", ".", ".."):
            raise FormatError(f"{index}: names {file!r}, which is not a file of this folder")
    return mapping


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, sorted by name.

    Raises:
        FormatError: no such folder, no weights in it, or a shard that the index names and that isn't there.
    """
    if not folder.is_dir():
        raise FormatError(f"{folder}: is not a folder" if folder.exists() else f"{folder}: no such folder")
    index = folder / INDEX_NAME
    if index.exists():
        files = [folder / name for name in sorted(set(weight_map(index).values()))]
        for file in files:
            if not file.is_file():
                raise FormatError(f"{file}: is missing, although {INDEX_NAME} names it; copy it again")
        return files
    if (folder / SINGLE_NAME).is_file():
        return [folder / SINGLE_NAME]
    raise FormatError(f"{folder}: holds neither {INDEX_NAME} nor {SINGLE_NAME}")
