"""Writing a container so that it is whole or not there: everything goes to `DST.partial`, which is renamed at the end.

Which tensor goes into which shard is fixed by the plan before anything is encoded, so a shard's header can be given
room in front and be filled in at the end, and tensors are written once, straight to their place. Within a shard the
compressed tensors come first: their parts are multiples of 16 bytes, so everything in the file stays aligned.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch
import xxhash

from tilepress.formats.atomic_folder import PARTIAL_SUFFIX, explained_os_errors, partial_folder, publish
from tilepress.formats.container import HEADER_CHECKSUMS, QUANT_METHOD, header_checksum
from tilepress.formats.journal import Journal, Written
from tilepress.formats.record import FORMAT_VERSION, Error, Record, check_encoded, container_metadata
from tilepress.formats.safetensors_header import read_header
from tilepress.formats.safetensors_write import header_json, padded_header, room_for
from tilepress.formats.sharding import CONFIG_NAME, INDEX_NAME, shard_name
from tilepress.formats.tensor_info import TensorInfo
from tilepress.kernels import Encoded, FormatError, Params, decode
from tilepress.kernels.encoded import bytes_of
from tilepress.kernels.params import Shape

_ROOM_FOR_OTHER_PARAMS = 64
"""Bytes by which a record may grow because the encoder had to change the parameters."""
_WIDEST_FIGURE = 1.2345678901234567e-300


@dataclass(frozen=True)
class Slot:
    """The place of one tensor in the output, known before it is encoded."""

    name: str
    params: Params
    shape: Shape
    dtype: torch.dtype
    transposed: bool

    def record(self, encoded_params: Params, error: Error) -> Record:
        """The record, still without a checksum, of the tensor that came to lie here."""
        return Record(self.name, encoded_params, self.shape, self.dtype, self.transposed, error)


class ContainerWriter:
    """Writes one container, tensor by tensor in the order of the shards.

    Use as a context manager. Leaving it early, by an exception or a crash, keeps `DST.partial` for the next try.

    Attributes:
        resumed: number of tensors that an earlier, interrupted run has already written.
    """

    def __init__(
        self,
        destination: Path,
        shards: Sequence[Sequence[Slot]],
        identity: str,
        summary: str,
        restart: bool = False,
    ) -> None:
        """Begin or resume.

        Args:
            destination: folder to write; must not exist, or be empty.
            shards: the slots of each shard.
            identity: of the source and of everything else that decides the output's bytes.
            summary: for people: what is being done, for the message when another conversion is in the way.
            restart: throw an unfinished conversion away.

        Raises:
            RecipeError: the destination exists, or holds another unfinished conversion.
            TilepressError: the disk or its permissions don't allow it.
        """
        self.destination = destination
        self._shards = shards
        self._slots = [slot for shard in shards for slot in shard]
        self._file: IO[bytes] | None = None
        with self._explained():
            self.folder = partial_folder(destination)
            if restart and self.folder.is_dir():
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            keys = [list(map(_slot_key, shard)) for shard in shards]
            fingerprint = xxhash.xxh3_128_hexdigest(json.dumps([FORMAT_VERSION, identity, keys]).encode())
            self._journal = Journal(self.folder, fingerprint, summary)
            try:
                self._begins = [header_room(shard) for shard in shards]
                self.resumed = self._check_written()
            except BaseException:
                self._journal.close()
                raise

    def __enter__(self) -> ContainerWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_shard()
        self._journal.close()

    def remaining(self) -> Sequence[Slot]:
        """The slots that are still to be written, in order."""
        return self._slots[len(self._journal.written) :]

    def records(self) -> list[Record]:
        """The records of the tensors written so far."""
        return [written.record for written in self._journal.written]

    def read(self, name: str) -> torch.Tensor | None:
        """A tensor that has been written, decoded to its own shape, dtype and orientation; nothing if it hasn't been.

        Raises:
            FormatError: its parts are no longer what was written.
        """
        first = 0
        for path, begin, shard in zip(self._paths(), self._begins, self._shards, strict=True):
            for written in self._journal.written[first : first + len(shard)]:
                if written.record.name == name:
                    parts = _read_parts(path, begin, written)
                    if parts is None or written.record.compute_checksum(parts) != written.record.checksum:
                        raise FormatError(f"{path}, tensor {name}: has changed since it was written; pass --restart")
                    dense = decode(check_encoded(written.record, parts, str(path)))
                    return dense.T.contiguous() if written.record.transposed else dense
                begin += _data_bytes(written)
            first += len(shard)
        return None

    def write(self, slot: Slot, encoded: Encoded, error: Error) -> Record:
        """Write the parts of the next slot.

        Raises:
            TilepressError: the disk is full or failing.
        """
        position = len(self._journal.written)
        if self._slots[position] != slot:
            raise ValueError(f"{slot.name} is not the next tensor to be written")
        record = slot.record(encoded.params, error).seal(encoded.parts)
        with self._explained():
            file = self._open_shard(position)
            for part in record.part_specs():
                file.write(bytes_of(encoded.parts[part]))
            file.flush()
            shapes = {part: tuple(encoded.parts[part].shape) for part in record.part_specs()}
            self._journal.append(Written(record, shapes))
        return record

    def write_documents(self, documents: Mapping[str, str]) -> None:
        """Write text files, name -> content, that belong to the container.

        Raises:
            TilepressError: the disk is full or failing.
        """
        with self._explained():
            for name, text in documents.items():
                unfinished = self.folder / (name + PARTIAL_SUFFIX)
                unfinished.write_text(text, encoding="utf-8")
                unfinished.replace(self.folder / name)

    def finish(self, config: Mapping[str, Any], companions: Mapping[str, Path]) -> None:
        """Write headers, index, config and companion files, and give the folder its final name.

        Args:
            config: of the source; `quantization_config` is added.
            companions: relative name -> file to copy.

        Raises:
            TilepressError: the disk is full or failing.
        """
        with self._explained():
            self._close_shard()
            self._write_headers_and_index()
            for name, source in companions.items():
                target = self.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            quantization = {"quant_method": QUANT_METHOD, "format_version": FORMAT_VERSION}
            text = json.dumps({**config, "quantization_config": quantization}, indent=2) + "\n"
            (self.folder / CONFIG_NAME).write_text(text, encoding="utf-8")
            self._journal.remove()
            publish(self.folder, self.destination)

    def _explained(self) -> AbstractContextManager[None]:
        advice = "make room or choose another place, then run the same command again: it goes on where it stopped"
        return explained_os_errors(self.destination, advice)

    def _shard_of(self, position: int) -> tuple[int, int]:
        """(shard, first position of that shard) of the slot at `position`."""
        first = 0
        for number, shard in enumerate(self._shards):
            if position < first + len(shard):
                return number, first
            first += len(shard)
        raise IndexError(position)

    def _paths(self) -> list[Path]:
        return [self.folder / shard_name(number + 1, len(self._shards)) for number in range(len(self._shards))]

    def _open_shard(self, position: int) -> IO[bytes]:
        number, first = self._shard_of(position)
        path = self._paths()[number]
        if self._file is None or Path(self._file.name) != path:
            self._close_shard()
            self._file = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115
            end = self._begins[number]
            for written in self._journal.written[first:position]:
                end += _data_bytes(written)
            self._file.truncate(end)
            self._file.seek(end)
        return self._file

    def _close_shard(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _check_written(self) -> int:
        """Check what an earlier run has left, by checksum, and keep what is whole."""
        good = 0
        for path, begin, shard in zip(self._paths(), self._begins, self._shards, strict=True):
            for slot, written in zip(shard, self._journal.written[good:], strict=False):
                if written.record.name != slot.name or not _is_whole(path, begin, written):
                    self._journal.keep(good)
                    return good
                begin += _data_bytes(written)
                good += 1
        return good

    def _write_headers_and_index(self) -> None:
        mapping: dict[str, str] = {}
        checksums: dict[str, str] = {}
        total, position = 0, 0
        for path, begin, shard in zip(self._paths(), self._begins, self._shards, strict=True):
            group = self._journal.written[position : position + len(shard)]
            position += len(shard)
            path.touch()
            size = _fill_header(path, begin, group)
            total += size
            for written in group:
                for part in written.record.part_specs():
                    mapping[written.record.part_name(part)] = path.name
            checksums[path.name] = header_checksum(read_header(path))
        metadata = {"total_size": total, HEADER_CHECKSUMS: checksums}
        text = json.dumps({"metadata": metadata, "weight_map": mapping}, indent=2) + "\n"
        (self.folder / INDEX_NAME).write_text(text, encoding="utf-8")


def header_room(shard: Sequence[Slot]) -> int:
    """Where a shard's data begins, in bytes: behind the longest header that its slots could need."""
    widest = Error(_WIDEST_FIGURE, _WIDEST_FIGURE)
    records = [replace(slot.record(slot.params, widest), checksum="0" * 32) for slot in shard]
    parts = [
        TensorInfo(record.part_name(part), spec.shape, spec.dtype)
        for record in records
        for part, spec in record.part_specs().items()
    ]
    text = header_json(container_metadata(records), parts)
    return room_for(len(text) + _ROOM_FOR_OTHER_PARAMS * len(shard))


def _slot_key(slot: Slot) -> list[object]:
    return [slot.name, slot.params.codec, slot.params.as_dict(), list(slot.shape), str(slot.dtype), slot.transposed]


def _part_infos(written: Written) -> list[TensorInfo]:
    record = written.record
    return [
        TensorInfo(record.part_name(part), written.part_shapes[part], spec.dtype)
        for part, spec in record.part_specs().items()
    ]


def _data_bytes(written: Written) -> int:
    return sum(part.size_bytes for part in _part_infos(written))


def _fill_header(path: Path, begin: int, group: Sequence[Written]) -> int:
    """Write a shard's header into the room in front of its data; returns the bytes of the data."""
    parts = [part for written in group for part in _part_infos(written)]
    text = header_json(container_metadata([written.record for written in group]), parts)
    size = sum(part.size_bytes for part in parts)
    with open(path, "r+b") as file:
        file.truncate(begin + size)
        file.write(padded_header(text, begin))
    return size


def _is_whole(path: Path, begin: int, written: Written) -> bool:
    """Whether the bytes of a tensor that the journal names are in the shard."""
    parts = _read_parts(path, begin, written)
    return parts is not None and written.record.compute_checksum(parts) == written.record.checksum


def _read_parts(path: Path, begin: int, written: Written) -> dict[str, torch.Tensor] | None:
    """The parts of a tensor that the journal names; nothing if the shard ends before them."""
    parts = {}
    try:
        with open(path, "rb") as file:
            file.seek(begin)
            for part, info in zip(written.record.part_specs(), _part_infos(written), strict=True):
                data = bytearray(file.read(info.size_bytes))
                if len(data) != info.size_bytes:
                    return None
                raw = torch.frombuffer(data or bytearray(1), dtype=torch.uint8)[: len(data)]
                parts[part] = raw.view(info.dtype).view(info.shape)
    except OSError:
        return None
    return parts
