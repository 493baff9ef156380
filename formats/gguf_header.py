"""The header of a GGUF file, checked against the file before the libraries that read it are let near it.

    | "GGUF" | version u32 | tensors u64 | keys u64 | key, type u32, value ... | tensor infos ... | padding | data |

A tensor info is `name, rank u32, dimensions u64 (fastest first), type u32, offset u64`; a string is its length (u64)
and UTF-8 bytes; all little-endian. Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import itertools
import math
import mmap
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TypeAlias

import gguf

from tilepress.formats.safetensors_header import MAX_EXTENT, shown
from tilepress.kernels.errors import FormatError

VERSIONS = (2, 3)
MAX_RANK = 4
MAX_ARRAY_ITEMS = 1 << 22
"""Most items of all metadata arrays together; the largest vocabularies with their merges have 1.5 million."""

DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 20
ALIGNMENT_KEY = "general.alignment"
ARCHITECTURE_KEY = "general.architecture"
SPLIT_KEY = "split.count"

Scalar: TypeAlias = "str | int | float | bool"

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of a file.

    Attributes:
        name: as llama.cpp names it.
        type: of its blocks.
        shape: as PyTorch has it, slowest dimension first.
        begin: first byte, counted from the start of the file.
        end: byte after the last one.
    """

    name: str
    type: gguf.GGMLQuantizationType
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class GgufHeader:
    """What a file says of itself, checked.

    Attributes:
        path: of the file.
        metadata: key -> value; of an array only its length.
        tensors: name -> tensor, in the order of the file.
        size: bytes up to where the data begins.
    """

    path: Path
    metadata: Mapping[str, Scalar] = field(repr=False)
    tensors: Mapping[str, GgufTensor] = field(repr=False)
    size: int

    @property
    def architecture(self) -> str:
        """Name of the architecture, as llama.cpp has it."""
        return str(self.metadata[ARCHITECTURE_KEY])


def read_gguf_header(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF file; its data is not read.

    Raises:
        FormatError: the file is missing, unreadable, truncated, one part of several, or says anything about itself
            that isn't so.
    """
    try:
        # A pipe or a device would block or never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise FormatError(f"{path}: not a regular file; name a GGUF file")
        if not path.stat().st_size:
            raise FormatError(f"{path}: the file is empty; fetch it again")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
            return _Reader(path, pages).header()
    except OSError as problem:
        raise FormatError(f"{path}: can't be read ({problem.strerror}); check the path and its permissions") from None


class _Reader:
    """A position in the file that never goes past its end."""

    def __init__(self, path: Path, pages: mmap.mmap) -> None:
        self._path = path
        self._pages = pages
        self._total = len(pages)
        self._at = 0
        self._array_items = 0

    def header(self) -> GgufHeader:
        """Read everything, once."""
        if self._take(len(_MAGIC)) != _MAGIC:
            self._refuse("does not start with GGUF; it is damaged or no GGUF file")
        version = self._number("I")
        if version not in VERSIONS:
            kind = "big-endian" if version & 0xFFFF == 0 else f"version {version}"
            self._refuse(f"is a {kind} GGUF file; convert it to version 3, little-endian, first")
        count, keys = self._number("Q"), self._number("Q")
        metadata: dict[str, Scalar] = {}
        for _ in range(keys):
            key = self._string("a metadata key")
            if key in metadata:
                self._damaged(f"has the metadata key {shown(key)} twice")
            metadata[key] = self._value(self._number("I"), key)
        self._check_metadata(metadata)
        infos = [self._tensor_info() for _ in range(count)]
        alignment = int(metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT))
        data = -(-self._at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, shape, code, offset in sorted(infos, key=lambda info: info[3]):
            if name in tensors:
                self._damaged("it is there twice", name)
            if offset % alignment:
                self._damaged(f"its offset {offset} is no multiple of {alignment}", name)
            tensors[name] = self._place(name, shape, code, data + offset)
        self._check_layout(list(tensors.values()))
        return GgufHeader(self._path, metadata, tensors, min(data, self._total))

    def _check_metadata(self, metadata: Mapping[str, Scalar]) -> None:
        if not isinstance(metadata.get(ARCHITECTURE_KEY), str):
            self._damaged(f"has no {ARCHITECTURE_KEY}")
        alignment = metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            self._damaged(f"{ALIGNMENT_KEY} {shown(alignment)} is not a power of two")
        parts = metadata.get(SPLIT_KEY, 1)
        if parts not in (0, 1):
            self._refuse(f"is one of {shown(parts)} parts; merge them first, with llama-gguf-split --merge")

    def _tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string("a tensor's name")
        rank = self._number("I")
        if not 1 <= rank <= MAX_RANK:
            self._damaged(f"has {rank} dimensions", name)
        shape = tuple(self._number("Q") for _ in range(rank))[::-1]
        if not all(0 < side <= MAX_EXTENT for side in shape) or math.prod(shape) > MAX_EXTENT:
            self._damaged(f"shape {shown(list(shape))} is empty or too large for any memory", name)
        return name, shape, self._number("I"), self._number("Q")

    def _place(self, name: str, shape: tuple[int, ...], code: int, begin: int) -> GgufTensor:
        try:
            kind = gguf.GGMLQuantizationType(code)
        except ValueError:
            self._refuse(f"is of type {code}, which the installed gguf package does not know; update it", name)
        values, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        if shape[-1] % values:
            self._damaged(f"rows of {shape[-1]} values do not fill whole blocks of {kind.name} ({values} values)", name)
        end = begin + math.prod(shape) // values * block_bytes
        if end > self._total:
            self._damaged(f"truncated: {self._total} bytes are there, {end} are expected", name)
        return GgufTensor(name, kind, shape, begin, end)

    def _check_layout(self, tensors: list[GgufTensor]) -> None:
        for before, after in itertools.pairwise(tensors):
            if after.begin < before.end:
                self._damaged(f"its data overlaps that of {shown(before.name)}", after.name)

    def _value(self, code: int, key: str) -> Scalar:
        if code in _SCALARS:
            return self._number(_SCALARS[code])
        if code == _STRING:
            return self._string(f"the value of {shown(key)}")
        if code != _ARRAY:
            self._damaged(f"the metadata key {shown(key)} has the unknown type {code}")
        item, count = self._number("I"), self._number("Q")
        self._array_items += count
        if self._array_items > MAX_ARRAY_ITEMS:
            self._damaged(f"the metadata key {shown(key)} has {count} items, more than any vocabulary")
        if item in _SCALARS:
            self._take(count * struct.calcsize(_SCALARS[item]))
        elif item == _STRING:
            for _ in range(count):
                self._skip(self._number("Q"))
        else:
            self._damaged(f"the metadata key {shown(key)} is an array of type {item}, which is not known")
        return count

    def _string(self, what: str) -> str:
        text = self._take(self._number("Q"))
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError:
            self._damaged(f"{what} is not UTF-8")

    # A number's type is known from its code only, so it is the caller who knows what comes back.
    def _number(self, code: str) -> int:
        (value,) = struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))
        return value  # type: ignore[no-any-return]

    def _take(self, count: int) -> bytes:
        begin = self._at
        self._skip(count)
        return self._pages[begin : self._at]

    def _skip(self, count: int) -> None:
        if count > self._total - self._at:
            self._damaged(f"truncated: {self._total} bytes are there, {self._at + count} are expected")
        self._at += count

    def _refuse(self, what: str, tensor: str | None = None) -> NoReturn:
        where = f"{self._path}" if tensor is None else f"{self._path}, tensor {shown(tensor)}"
        raise FormatError(f"{where}: {what}")

    def _damaged(self, what: str, tensor: str | None = None) -> NoReturn:
        self._refuse(f"{what}; the file is damaged, fetch or convert it again", tensor)
