"""The header of one safetensors file: read, checked against the file before anything is believed, and mapped from.

    | 8 bytes: N, little-endian | N bytes: JSON, starts with "{" | data, without holes |

The JSON maps each tensor's name to `{"dtype": "BF16", "shape": [576, 1536], "data_offsets": [begin, end]}`, with
offsets that count from the end of the header; the key `__metadata__` maps strings to strings.
Source: the format's own description, https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NoReturn

import torch

from tilepress.kernels.errors import FormatError

MAX_HEADER_BYTES = 100_000_000
"""Longest JSON header that the format allows."""

MAX_RANK = 64
"""Most dimensions of a tensor: what PyTorch and NumPy can hold."""

MAX_EXTENT = 1 << 48
"""Largest product of a shape's non-zero dimensions, so that no stride can overflow."""

MAX_NAME_SHOWN = 120
"""Characters of a name from a file that an error message repeats."""

LENGTH_BYTES = 8
METADATA = "__metadata__"

_DTYPE_NAMES: Mapping[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F4": "float4_e2m1fn_x2",
}

DTYPES: Mapping[str, torch.dtype] = {
    code: getattr(torch, name) for code, name in _DTYPE_NAMES.items() if hasattr(torch, name)
}
"""Code in a header -> dtype, for every dtype that safetensors and the installed PyTorch both know."""

DTYPE_CODES: Mapping[torch.dtype, str] = {dtype: code for code, dtype in DTYPES.items()}
"""Dtype -> code in a header."""

PACKED_PAIRS = "F4"
"""The one code whose header counts values while PyTorch's dtype holds two of them in a byte (last dimension halved)."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file.

    Attributes:
        name: of the tensor.
        dtype: of the tensor.
        shape: as PyTorch sees it: for `float4_e2m1fn_x2` the last dimension counts pairs.
        begin: first byte, counted from the start of the file.
        end: byte after the last one, counted likewise.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor."""
        return self.end - self.begin


@dataclass(frozen=True)
class Header:
    """What a file says of itself, checked.

    Attributes:
        path: of the file.
        entries: name -> entry, in the order in which the data lies in the file.
        metadata: `__metadata__`, empty if there is none.
        size: bytes of the length and the JSON together: where the data begins.
        raw: those bytes.
    """

    path: Path
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    size: int
    raw: bytes = field(repr=False)


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file; its data is not read.

    Raises:
        FormatError: the file is missing, unreadable, truncated, or says anything about itself that isn't so.
    """
    try:
        # A pipe or a device would block or never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise FormatError(f"{path}: not a regular file; name a safetensors file")
        with path.open("rb") as file:
            total = os.fstat(file.fileno()).st_size
            raw = _read_raw(path, file, total)
    except OSError as problem:
        raise FormatError(f"{path}: can't be read ({problem.strerror}); check the path and its permissions") from None
    fields = _parse_json(path, raw[LENGTH_BYTES:])
    metadata = _parse_metadata(path, fields.pop(METADATA, None))
    entries = [_parse_entry(path, name, value, len(raw)) for name, value in fields.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    _check_layout(path, entries, len(raw), total)
    return Header(path, {entry.name: entry for entry in entries}, metadata, len(raw), raw)


def map_tensor(path: Path, entry: Entry) -> torch.Tensor:
    """Map a tensor from the file: pages are read when touched and unmapped when the tensor dies.

    The mapping is private, so writing to the tensor never changes the file. A tensor whose data does not start at a
    multiple of its dtype's size is copied into memory instead.

    Returns:
        a tensor of `entry.dtype` and `entry.shape`.

    Raises:
        FormatError: the file has become shorter or unreadable since its header was read.
    """
    if entry.begin == entry.end:
        return torch.empty(entry.shape, dtype=entry.dtype)
    flat = map_bytes(path, entry.begin, entry.end, entry.name)
    if entry.begin % _alignment(entry.dtype):
        flat = flat.clone()
    return flat.view(entry.dtype).reshape(entry.shape)


def map_bytes(path: Path, begin: int, end: int, name: str) -> torch.Tensor:
    """Map the bytes of the tensor `name` as `map_tensor` does, as uint8 [end - begin], which must not be empty.

    Raises:
        FormatError: the file is shorter than `end`, or unreadable.
    """
    page = begin - begin % mmap.ALLOCATIONGRANULARITY
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < end:
                _refuse(
                    path,
                    f"the file has {size} bytes now, but this tensor ends at byte {end}; something is "
                    "writing to it: wait for that to finish and start again",
                    name,
                )
            pages = mmap.mmap(file.fileno(), end - page, access=mmap.ACCESS_COPY, offset=page)
    except OSError as problem:
        _refuse(path, f"can't be mapped ({problem.strerror}); check the file and the free memory", name)
    # The tensor keeps `pages` alive and the mapping goes with it.
    return torch.frombuffer(pages, dtype=torch.uint8, count=end - begin, offset=begin - page)


def shown(name: object) -> str:
    """Make a name out of a file fit for an error message: one line, no control characters, not too long."""
    try:
        text = str(name)
    except RecursionError:
        text = "(lists in lists)"
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= MAX_NAME_SHOWN else text[:MAX_NAME_SHOWN] + "..."


def _refuse(path: Path, what: str, tensor: str | None = None) -> NoReturn:
    where = f"{path}" if tensor is None else f"{path}, tensor {shown(tensor)}"
    raise FormatError(f"{where}: {what}")


def _damaged(path: Path, what: str, tensor: str | None = None) -> NoReturn:
    _refuse(path, f"{what}; the file is damaged, fetch or convert it again", tensor)


def _read_raw(path: Path, file: BinaryIO, total: int) -> bytes:
    """Length and JSON as they stand in the file, once the length has been found to fit into it."""
    prefix = file.read(LENGTH_BYTES)
    if prefix == b"version ":
        _refuse(path, "a Git LFS pointer stands in the place of the file; run `git lfs pull` in its folder")
    if len(prefix) < LENGTH_BYTES:
        _damaged(path, f"truncated: {total} bytes are there, a safetensors file has at least {LENGTH_BYTES + 2}")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        _refuse(
            path,
            f"its header claims {length} bytes, more than the {MAX_HEADER_BYTES} that the format allows; "
            "it is damaged or no safetensors file",
        )
    if LENGTH_BYTES + length > total:
        _damaged(path, f"truncated: {total} bytes are there, {LENGTH_BYTES + length} are expected for the header alone")
    text = file.read(length)
    if len(text) != length:
        _damaged(path, f"truncated: {LENGTH_BYTES + len(text)} bytes are there, {LENGTH_BYTES + length} are expected")
    return prefix + text


def _parse_json(path: Path, text: bytes) -> dict[str, object]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                _damaged(path, f"its header has the key {shown(key)} twice")
            found[key] = value
        return found

    if text[:1] != b"{":
        _damaged(path, "its header does not start with '{'")
    try:
        # Decoded here because `json` would guess UTF-16 or UTF-32 from zero bytes.
        fields = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        _damaged(path, "its header is not JSON in UTF-8")
    assert isinstance(fields, dict)  # it starts with "{" and is JSON
    return fields


def _parse_metadata(path: Path, value: object) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        _damaged(path, f"{METADATA} is not a map from strings to strings")
    return value


def _parse_entry(path: Path, name: str, value: object, data: int) -> Entry:
    """One tensor of the header, checked by itself; `data` is where the file's data begins."""
    if not _encodable(name):
        _damaged(path, "its name is not Unicode text", name)
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= set(value):
        _damaged(path, "its header entry lacks dtype, shape or data_offsets", name)
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        _refuse(path, f"dtype {shown(code)} is not one that this PyTorch has; convert the tensor first", name)
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        _damaged(path, f"shape {shown(shape)} is not a list of sizes", name)
    if len(shape) > MAX_RANK:
        _damaged(path, f"it has {len(shape)} dimensions, more than {MAX_RANK}", name)
    if any(side > MAX_EXTENT for side in shape) or math.prod(side for side in shape if side) > MAX_EXTENT:
        _damaged(path, f"shape {shown(shape)} is too large for any memory", name)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(offset) is int for offset in offsets):
        _damaged(path, f"data_offsets {shown(offsets)} is not a pair of integers", name)
    begin, end = offsets
    if not 0 <= begin <= end:
        _damaged(path, f"data_offsets {shown(offsets)} do not go forward from 0", name)
    if code == PACKED_PAIRS:
        if not shape or shape[-1] % 2:
            _damaged(path, f"shape {shown(shape)} does not fill whole bytes in dtype {code}", name)
        shape = [*shape[:-1], shape[-1] // 2]
    dtype = DTYPES[code]
    needed = math.prod(shape) * dtype.itemsize
    if needed != end - begin:
        _damaged(path, f"{code} of shape {shown(value['shape'])} takes {needed} bytes, not {end - begin}", name)
    return Entry(name, dtype, tuple(shape), data + begin, data + end)


def _check_layout(path: Path, entries: list[Entry], data: int, total: int) -> None:
    """`entries` (sorted) follow each other from `data` to the end of the file at `total`."""
    position = data
    for entry in entries:
        if entry.begin != position:
            fault = "overlaps the tensor before it" if entry.begin < position else "leaves a hole before it"
            _damaged(path, f"its data at byte {entry.begin} {fault}, byte {position} was expected", entry.name)
        position = entry.end
    if position > total:
        _damaged(path, f"truncated: {total} bytes are there, {position} are expected")
    if position < total:
        _damaged(path, f"{total - position} bytes follow the last tensor: {total} are there, {position} are expected")


def _encodable(name: str) -> bool:
    """JSON can escape lone surrogates, which no text encoding can write again."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _alignment(dtype: torch.dtype) -> int:
    return dtype.itemsize // 2 if dtype.is_complex else dtype.itemsize
