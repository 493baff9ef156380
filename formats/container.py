"""Reading a container: a compressed checkpoint, itself a valid safetensors checkpoint.

    config.json                          with quantization_config {"quant_method": "tilepress", "format_version": 1}
    model.safetensors                    or shards, and
    model.safetensors.index.json         which tensor lies in which shard
    tokenizer files, ...                 as in the source

Tensor `a.b.weight` is stored as `a.b.weight.<part>` for each part of its codec; the records (see `record`) in the
shards' `__metadata__` say how to put it together. Opening reads headers only; parts are mapped when asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xxhash

from tilepress.formats.record import (
    FORMAT_VERSION,
    METADATA_KEY,
    METADATA_PREFIX,
    Record,
    check_encoded,
    part_fits,
)
from tilepress.formats.safetensors_header import Entry, Header, map_tensor, read_header
from tilepress.formats.sharding import CONFIG_NAME, INDEX_NAME, read_json_object, weight_files
from tilepress.formats.tensor_info import TensorInfo
from tilepress.kernels import Encoded, FormatError, decode, dtype_name

QUANT_METHOD = "tilepress"
HEADER_CHECKSUMS = "tilepress_header_xxh3"
"""Key of the index's metadata: shard -> xxh3-128 of its header."""


class Container:
    """A compressed checkpoint opened for reading.

    Attributes:
        path: its folder.
        records: tensor name -> record, in the order of the files.
        headers: file name -> header of each shard.
    """

    def __init__(self, path: Path, headers: Mapping[str, Header]) -> None:
        self.path = path
        self.headers = headers
        self.records: dict[str, Record] = {}
        self._entries: dict[str, tuple[Header, Entry]] = {}
        self._record_files: dict[str, Path] = {}
        for header in headers.values():
            _check_version(header)
            for name, entry in header.entries.items():
                if name in self._entries:
                    raise FormatError(f"{header.path}, tensor {name}: is also in {self._entries[name][0].path.name}")
                self._entries[name] = header, entry
            for key, text in header.metadata.items():
                if key.startswith(METADATA_PREFIX):
                    self._add_record(header, key.removeprefix(METADATA_PREFIX), text)
        self._match_records_and_entries()

    @classmethod
    def open(cls, path: Path | str) -> Container:
        """Open a folder, checking every header, record and part shape against each other.

        Raises:
            FormatError: a folder that holds no container, or a damaged, hostile or newer one.
        """
        folder = Path(path)
        files = weight_files(folder)
        config = read_json_object(folder / CONFIG_NAME) if (folder / CONFIG_NAME).exists() else {}
        quantization = config.get("quantization_config")
        if isinstance(quantization, dict) and quantization.get("quant_method") not in (None, QUANT_METHOD):
            method = quantization["quant_method"]
            raise FormatError(f"{folder}: is quantized with {method!r}, not a checkpoint that tilepress wrote")
        return cls(folder, {file.name: read_header(file) for file in files})

    @classmethod
    def from_files(cls, files: Sequence[Path]) -> Container:
        """Open the shards of one container, wherever they lie.

        Raises:
            FormatError: as `open`.
        """
        return cls(files[0].parent, {file.name: read_header(file) for file in files})

    @property
    def config(self) -> dict[str, Any]:
        """config.json, empty where there is none."""
        path = self.path / CONFIG_NAME
        return read_json_object(path) if path.exists() else {}

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Name -> what is known of each tensor as the source had it."""
        return {name: TensorInfo(name, record.shape, record.dtype) for name, record in self.records.items()}

    @property
    def size_bytes(self) -> int:
        """Bytes of all weight files."""
        return sum(header.path.stat().st_size for header in self.headers.values())

    def encoded(self, name: str) -> Encoded:
        """One tensor in compressed form, its parts mapped from the file.

        Raises:
            FormatError: parts that can't be decoded safely.
        """
        record = self.records[name]
        parts = self.parts(name)
        return check_encoded(record, parts, self.where(name))

    def parts(self, name: str) -> dict[str, torch.Tensor]:
        """The parts of one tensor, mapped from the file, with the right dtypes and shapes but otherwise unchecked."""
        record = self.records[name]
        return {part: self._map(record.part_name(part)) for part in record.part_specs()}

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor as the source had it: decoded, in its own shape, dtype and orientation.

        Raises:
            FormatError: parts that can't be decoded.
        """
        dense = decode(self.encoded(name))
        return dense.T.contiguous() if self.records[name].transposed else dense

    def stored_bytes(self, name: str) -> int:
        """Bytes of the parts of one tensor."""
        record = self.records[name]
        entries = (self._entries[record.part_name(part)][1] for part in record.part_specs())
        return sum(entry.end - entry.begin for entry in entries)

    def where(self, name: str) -> str:
        """The shard that holds a tensor's first part, for messages."""
        record = self.records[name]
        first = next(iter(record.part_specs()))
        return str(self._entries[record.part_name(first)][0].path)

    def header_checksums(self) -> Mapping[str, str]:
        """Shard -> checksum of its header, from the index; empty for a container that Transformers saved."""
        index = self.path / INDEX_NAME
        if not index.exists():
            return {}
        metadata = read_json_object(index).get("metadata")
        checksums = metadata.get(HEADER_CHECKSUMS) if isinstance(metadata, dict) else None
        return checksums if isinstance(checksums, dict) else {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.records)

    def _map(self, part_name: str) -> torch.Tensor:
        header, entry = self._entries[part_name]
        return map_tensor(header.path, entry)

    def _add_record(self, header: Header, name: str, text: str) -> None:
        record = Record.from_json(name, text, str(header.path))
        first = self._record_files.setdefault(name, header.path)
        if self.records.setdefault(name, record) != record:
            raise FormatError(f"{header.path}, tensor {name}: its record is not the one in {first.name}")

    def _match_records_and_entries(self) -> None:
        left = dict(self._entries)
        for name, record in self.records.items():
            for part, spec in record.part_specs().items():
                found = left.pop(record.part_name(part), None)
                if found is None:
                    raise FormatError(f"{self.path}, tensor {name}: part {part or 'itself'} is missing from the shards")
                header, entry = found
                if not part_fits(spec, entry.dtype, entry.shape):
                    raise FormatError(
                        f"{header.path}, tensor {name}: part {part or 'itself'} is {dtype_name(entry.dtype)} "
                        f"{list(entry.shape)}, but {record.params.spec()} needs {dtype_name(spec.dtype)} "
                        f"{list(spec.shape)}; the file is damaged, copy or convert it again"
                    )
        for name, (header, _) in left.items():
            raise FormatError(f"{header.path}, tensor {name}: no record says what it is; the file is damaged")


def header_checksum(header: Header) -> str:
    """xxh3-128 of a shard's length field and JSON, padding included."""
    return xxhash.xxh3_128_hexdigest(header.raw)


def _check_version(header: Header) -> None:
    text = header.metadata.get(METADATA_KEY)
    if text is None:
        raise FormatError(f"{header.path}: is not compressed by tilepress; compress the checkpoint first")
    try:
        version = json.loads(text)["format_version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise FormatError(f"{header.path}: has no readable format version; the file is damaged") from None
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise FormatError(
            f"{header.path}: has format version {version}, this tilepress reads up to {FORMAT_VERSION}; upgrade it"
        )
