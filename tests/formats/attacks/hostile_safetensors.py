"""Safetensors files that break the format, each in one way."""

from __future__ import annotations

import json
from collections.abc import Mapping

ROOMY = b"\0" * 64


def pack(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with this header (JSON text as bytes, or an object to be dumped), whatever its length field claims."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape: object, begin: object, end: object, dtype: object = "U8") -> dict[str, object]:
    """One tensor of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def one(data: int = 4, **changes: object) -> bytes:
    """A file with one tensor of four bytes, one field of which is changed."""
    return pack({"a": {**entry([4], 0, 4), **changes}}, b"\0" * data)


ATTACKS: Mapping[str, bytes] = {
    "empty file": b"",
    "length cut short": b"\x10\0\0",
    "length and no header": (2).to_bytes(8, "little"),
    "header longer than the file": pack({}, length=500),
    "header of 100 MB and one byte": pack({}, length=100_000_001),
    "header of 2**64 - 1 bytes": pack({}, length=2**64 - 1),
    "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "pickle": b"PK\x03\x04" + ROOMY,
    "header starts with a space": pack(b' {"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}', b"1234"),
    "header is a list": pack(b"[]"),
    "header is cut-off JSON": pack(b'{"a":{"dtype":"U8"'),
    "header is not UTF-8": pack(b'{"\xff":1}'),
    "header is UTF-16": pack("{}".encode("utf-16-le")),
    "header has text behind it": pack(b"{}{}"),
    "header nests without end": pack(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "tensor twice": pack(
        b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
        b"1234",
    ),
    "metadata key twice": pack(b'{"__metadata__":{"a":"1","a":"2"}}'),
    "metadata twice": pack(b'{"__metadata__":{},"__metadata__":{}}'),
    "metadata of numbers": pack({"__metadata__": {"a": 1}}),
    "metadata is a list": pack({"__metadata__": []}),
    "name with half a surrogate": pack(b'{"\\ud800":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}', b"1234"),
    "entry is a list": pack({"a": ["U8", [4], [0, 4]]}, b"1234"),
    "entry is null": pack({"a": None}),
    "entry without shape": pack({"a": {"dtype": "U8", "data_offsets": [0, 4]}}, b"1234"),
    "unknown dtype": one(dtype="Q4_K"),
    "dtype that no PyTorch has": one(dtype="F6_E2M3"),
    "dtype is a number": one(dtype=8),
    "dtype is a list": one(dtype=["U8"]),
    "negative size": one(shape=[-4]),
    "two negative sizes": one(shape=[-2, -2]),
    "size is a fraction": one(shape=[4.0]),
    "size is true": one(shape=[True, 4]),
    "size is text": one(shape=["4"]),
    "size has ten thousand digits": pack(
        b'{"a":{"dtype":"U8","shape":[' + b"9" * 10_000 + b'],"data_offsets":[0,4]}}', b"1234"
    ),
    "sizes overflow 64 bits to 4": one(shape=[2**62 + 1, 4]),
    "sizes overflow 64 bits to 0": pack({"a": entry([2**32, 2**32], 0, 0)}),
    "empty but for strides that overflow": pack({"a": entry([0, 2**62, 2**62], 0, 0)}),
    "65 dimensions": one(shape=[4] + [1] * 64),
    "a million dimensions": one(shape=[1] * 1_000_000 + [4]),
    "shape is a number": one(shape=4),
    "one offset": one(data_offsets=[4]),
    "three offsets": one(data_offsets=[0, 4, 8]),
    "offset is a fraction": one(data_offsets=[0, 4.0]),
    "offset is true": pack({"a": entry([1], False, True)}, b"1"),
    "offset is negative": one(data_offsets=[-4, 0]),
    "offsets go backwards": one(data_offsets=[4, 0]),
    "offset beyond 64 bits": one(data_offsets=[2**64, 2**64 + 4]),
    "more bytes than the shape takes": pack({"a": entry([3], 0, 4)}, b"1234"),
    "fewer bytes than the shape takes": pack({"a": entry([5], 0, 4)}, b"1234"),
    "half a byte": pack({"a": entry([3], 0, 1, "F4")}, b"1"),
    "half bytes in a scalar": pack({"a": entry([], 0, 0, "F4")}),
    "hole in front": pack({"a": entry([4], 4, 8)}, ROOMY[:8]),
    "hole between": pack({"a": entry([4], 0, 4), "b": entry([4], 8, 12)}, ROOMY[:12]),
    "overlap": pack({"a": entry([4], 0, 4), "b": entry([4], 2, 6)}, ROOMY[:6]),
    "same bytes twice": pack({"a": entry([4], 0, 4), "b": entry([4], 0, 4)}, ROOMY[:4]),
    "data cut off": one(data=3),
    "no data": one(data=0),
    "bytes behind the data": one(data=5),
    "data without tensors": pack({}, b"1"),
}
