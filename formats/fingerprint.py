"""A digest of weight files that stays the same when they move, for recognising the source of a conversion.

It covers each file's name, size, header and a sample of its data (the start, middle and end of the data), and the
config: another checkpoint, another revision or a retrained one differ in these, and a conversion of many gigabytes
need not read its source twice. It is no proof: a change confined to bytes between the samples goes unseen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import xxhash

from tilepress.kernels.errors import FormatError

SAMPLE_BYTES = 64 * 1024
"""Bytes of each of the three samples of a file's data."""


def fingerprint(files: Mapping[Path, int], config: bytes) -> str:
    """Digest weight files and a config.

    Args:
        files: weight file -> bytes of its header, where its data begins.
        config: content of config.json.

    Returns:
        32 hexadecimal digits.

    Raises:
        FormatError: a file has become unreadable.
    """
    digest = xxhash.xxh3_128()
    for path, data in sorted(files.items(), key=lambda item: item[0].name):
        for piece in _pieces(path, data):
            _update(digest, piece)
    _update(digest, config)
    return digest.hexdigest()


def _pieces(path: Path, data: int) -> Iterable[bytes]:
    yield path.name.encode("utf-8", "surrogateescape")
    try:
        size = path.stat().st_size
        yield str(size).encode()
        with path.open("rb") as file:
            yield file.read(data)
            middle = data + (size - data) // 2
            for begin in (data, middle, max(data, size - SAMPLE_BYTES)):
                file.seek(begin)
                yield file.read(SAMPLE_BYTES)
    except OSError as problem:
        raise FormatError(f"{path}: can't be read ({problem.strerror}); check the file") from None


def _update(digest: Any, piece: bytes) -> None:
    """Add a piece, preceded by its length so that pieces can't run into each other."""
    digest.update(len(piece).to_bytes(8, "little") + piece)
