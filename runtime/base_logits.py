"""The base model's logits on disk, so that each candidate is compared without running the base again.

They are kept whole, since the first k of each token are not enough for a KL divergence, and in the dtype in which the
model gives them. KL divergence of SmolLM2-135M to itself when its logits pass through

    their own dtype     0           bfloat16, float16: 2 bytes a logit; float32: 4
    float16 logits      5e-6        of a float32 model; values beyond 16 are rounded to 1/64
    float16 log-softmax 3e-7        of a float32 model, normalised again

so a 16-bit model takes no more than float16 would, and a float32 model twice that, exact either way.

A cache file is a safetensors file of the windows' logits, tensors `0`, `1`, ..., and `xxh3`, the xxh3-128 of all bytes
before it. A file that isn't whole is as good as none.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
import xxhash

from tilepress.formats.safetensors_header import Header, map_tensor, read_header
from tilepress.formats.safetensors_write import header_json, padded_header, room_for
from tilepress.formats.tensor_info import TensorInfo
from tilepress.kernels import FormatError
from tilepress.kernels.encoded import bytes_of

LIMIT_BYTES = 8 << 30
"""Most bytes of the cache; the files that were used least recently make room for new ones."""

SUFFIX = ".safetensors"
_CHECKSUM = "xxh3"
_CHECKSUM_BYTES = 16
_SPARE_BYTES = 1 << 30
"""Bytes of the disk that the cache leaves free."""


class StoredLogits:
    """Logits mapped from a file of the cache, window by window, as often as wanted."""

    def __init__(self, header: Header) -> None:
        """Take a file that has been found whole."""
        self._header = header

    def __iter__(self) -> Iterator[torch.Tensor]:
        for name, entry in self._header.entries.items():
            if name != _CHECKSUM:
                yield map_tensor(self._header.path, entry)


class LogitsCache:
    """A folder of logits, one file for each base model and text."""

    def __init__(self, folder: Path | None = None, limit_bytes: int = LIMIT_BYTES) -> None:
        """Use a folder, by default the user's cache; it is made when something is stored."""
        self.folder = folder or default_folder()
        self.limit_bytes = limit_bytes

    def find(self, key: str) -> StoredLogits | None:
        """The logits stored under `key`; nothing if there are none, or if the file is damaged."""
        path = self._path(key)
        try:
            header = read_header(path)
            if _checksum_of(header) != _stored_checksum(header):
                return None
            os.utime(path)  # The time of last use, for `_make_room`.
        except (FormatError, OSError):
            return None
        return StoredLogits(header)

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether so many bytes can be stored."""
        nearest = next(place for place in (self.folder, *self.folder.parents) if place.exists())
        return size_bytes <= self.limit_bytes and size_bytes + _SPARE_BYTES <= shutil.disk_usage(nearest).free

    def store(self, key: str, logits: Iterable[torch.Tensor], rows: Sequence[int]) -> StoredLogits | None:
        """Write logits as they come; they appear under `key` once they are whole.

        Args:
            key: as `logits_key` gives it.
            logits: [rows, vocabulary] for each window, all of one dtype and vocabulary.
            rows: of each window.

        Returns:
            the stored logits; nothing if the disk or its permissions don't allow it.
        """
        path = self._path(key)
        partial = path.with_name(f"{key}-{os.getpid()}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                _write(file, logits, rows)
            self._make_room(keep=partial)
            partial.replace(path)
            return StoredLogits(read_header(path))
        except OSError:
            return None
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()

    def _path(self, key: str) -> Path:
        return self.folder / (key + SUFFIX)

    def _make_room(self, keep: Path) -> None:
        """Remove the files that were used least recently, but for `keep`, until all fit under the limit."""
        sizes = {path: path.stat().st_size for path in self.folder.iterdir()}
        total = sum(sizes.values())
        for path in sorted(sizes.keys() - {keep}, key=lambda path: path.stat().st_mtime_ns):
            if total <= self.limit_bytes:
                return
            path.unlink()
            total -= sizes[path]


def default_folder() -> Path:
    """`tilepress/base-logits` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "tilepress" / "base-logits"


def logits_key(windows: Iterable[torch.Tensor], facts: Mapping[str, str | int]) -> str:
    """Key for the logits of a model on these windows.

    Args:
        windows: int64 vectors of tokens.
        facts: whatever else the logits depend on: the model's identity, dtype, versions of libraries.
    """
    digest = xxhash.xxh3_128(json.dumps(dict(facts), sort_keys=True).encode())
    for window in windows:
        digest.update(len(window).to_bytes(8, "little") + bytes(bytes_of(window)))
    return digest.hexdigest()


def _write(file: BinaryIO, logits: Iterable[torch.Tensor], rows: Sequence[int]) -> None:
    pieces = iter(logits)
    first = next(pieces)
    infos = [TensorInfo(str(number), (count, first.shape[1]), first.dtype) for number, count in enumerate(rows)]
    text = header_json({}, [*infos, TensorInfo(_CHECKSUM, (_CHECKSUM_BYTES,), torch.uint8)])
    header = padded_header(text, room_for(len(text)))
    digest = xxhash.xxh3_128(header)
    file.write(header)
    for piece in itertools.chain([first], pieces):
        content = bytes_of(piece.cpu())
        digest.update(content)
        file.write(content)
    file.write(digest.digest())


def _checksum_of(header: Header) -> bytes:
    digest = xxhash.xxh3_128(header.raw)
    for name, entry in header.entries.items():
        if name != _CHECKSUM:
            digest.update(bytes_of(map_tensor(header.path, entry)))
    return digest.digest()


def _stored_checksum(header: Header) -> bytes | None:
    entry = header.entries.get(_CHECKSUM)
    return bytes(bytes_of(map_tensor(header.path, entry))) if entry is not None else None
