"""GGUF files that lie, each in one way, and the few lines that it takes to write any GGUF file."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

F32, Q4_0, UNKNOWN_TYPE = 0, 2, 250
U32, FLOAT, STRING, ARRAY, U64 = 4, 6, 8, 9, 10
HUGE = 2**63


def text(value: str | bytes, length: int | None = None) -> bytes:
    """A string, whatever its length field claims."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def key(name: str, code: int, value: bytes) -> bytes:
    """One metadata key."""
    return text(name) + struct.pack("<I", code) + value


def tensor(
    name: str | bytes = "a", shape: Sequence[int] = (32,), code: int = F32, offset: int = 0, rank: int | None = None
) -> bytes:
    """One tensor info; `shape` has the fastest dimension first, as in the file."""
    sizes = b"".join(struct.pack("<Q", side) for side in shape)
    return (
        text(name) + struct.pack("<I", len(shape) if rank is None else rank) + sizes + struct.pack("<IQ", code, offset)
    )


ARCHITECTURE = key("general.architecture", STRING, text("llama"))


def pack(
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    keys: Sequence[bytes] = (ARCHITECTURE,),
    tensors: Sequence[bytes] = (),
    key_count: int | None = None,
    tensor_count: int | None = None,
    data: int = 0,
) -> bytes:
    """A file with these metadata keys and tensor infos, padding, and `data` bytes of zeros."""
    counts = struct.pack(
        "<QQ",
        len(tensors) if tensor_count is None else tensor_count,
        len(keys) if key_count is None else key_count,
    )
    header = magic + struct.pack("<I", version) + counts + b"".join(keys) + b"".join(tensors)
    return header + b"\0" * (-len(header) % 32 + data)


def with_key(name: str, code: int, value: bytes) -> bytes:
    """A file with one more metadata key and one tensor."""
    return pack(keys=[ARCHITECTURE, key(name, code, value)], tensors=[tensor()], data=128)


def array(code: int, count: int, items: bytes = b"") -> bytes:
    """An array value."""
    return struct.pack("<IQ", code, count) + items


ATTACKS: Mapping[str, bytes] = {
    "empty file": b"",
    "magic cut short": b"GGU",
    "other magic": pack(magic=b"GGML"),
    "version 1": pack(version=1),
    "version 77": pack(version=77),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "counts cut off": b"GGUF" + struct.pack("<IQ", 3, 1),
    "no architecture": pack(keys=[], tensors=[tensor()], data=128),
    "architecture is a number": pack(
        keys=[key("general.architecture", U32, b"\1\0\0\0")], tensors=[tensor()], data=128
    ),
    "architecture that nobody has": pack(
        keys=[key("general.architecture", STRING, text("nosuch"))], tensors=[tensor()], data=128
    ),
    "architecture and nothing else": pack(tensors=[tensor()], data=128),
    "no tensors": pack(),
    "more keys than there are": pack(key_count=HUGE),
    "more tensors than there are": pack(tensor_count=HUGE),
    "string longer than the file": pack(keys=[ARCHITECTURE, text("x", length=HUGE)]),
    "string length wraps around": pack(keys=[ARCHITECTURE, text("x", length=2**64 - 1)]),
    "key is not UTF-8": pack(keys=[ARCHITECTURE, text(b"\xff\xfe") + struct.pack("<I", U32) + b"\0" * 4]),
    "value is not UTF-8": with_key("general.name", STRING, text(b"\xff\xfe")),
    "key twice": pack(keys=[ARCHITECTURE, ARCHITECTURE], tensors=[tensor()], data=128),
    "value of an unknown type": with_key("x", 99, b"\0" * 8),
    "array of an unknown type": with_key("x", ARRAY, array(99, 1, b"\0" * 8)),
    "array of arrays": with_key("x", ARRAY, array(ARRAY, 1, array(U32, 1, b"\0" * 4))),
    "array longer than the file": with_key("x", ARRAY, array(U32, 1_000_000)),
    "array longer than any": with_key("x", ARRAY, array(U64, HUGE)),
    "array of strings longer than the file": with_key("x", ARRAY, array(STRING, 1_000_000)),
    "alignment 0": with_key("general.alignment", U32, struct.pack("<I", 0)),
    "alignment 24": with_key("general.alignment", U32, struct.pack("<I", 24)),
    "alignment 2**31": with_key("general.alignment", U32, struct.pack("<I", 2**31)),
    "alignment is text": with_key("general.alignment", STRING, text("32")),
    "one part of several": with_key("split.count", U32, struct.pack("<I", 3)),
    "a billion blocks": with_key("llama.block_count", U32, struct.pack("<I", 10**9)),
    "blocks are text": with_key("llama.block_count", STRING, text("2")),
    "tensor twice": pack(tensors=[tensor(), tensor(offset=128)], data=256),
    "tensor's name is not UTF-8": pack(tensors=[tensor(b"\xff\xfe")], data=128),
    "no dimensions": pack(tensors=[tensor(shape=())], data=128),
    "5 dimensions": pack(tensors=[tensor(shape=(2, 2, 2, 2, 2))], data=128),
    "four billion dimensions": pack(tensors=[tensor(rank=2**32 - 1)], data=128),
    "size 0": pack(tensors=[tensor(shape=(0,))], data=128),
    "sizes overflow 64 bits to 0": pack(tensors=[tensor(shape=(2**32, 2**32))], data=128),
    "size 2**64 - 1": pack(tensors=[tensor(shape=(2**64 - 1,))], data=128),
    "rows of half blocks": pack(tensors=[tensor(shape=(16, 2), code=Q4_0)], data=128),
    "unknown tensor type": pack(tensors=[tensor(code=UNKNOWN_TYPE)], data=128),
    "tensor type that can't be unpacked": pack(tensors=[tensor(code=26)], data=128),
    "offset beyond the file": pack(tensors=[tensor(offset=2**40)], data=128),
    "offset wraps around": pack(tensors=[tensor(offset=2**64 - 32)], data=128),
    "offset not aligned": pack(tensors=[tensor(offset=4)], data=256),
    "overlap": pack(tensors=[tensor("a"), tensor("b", offset=32)], data=256),
    "data cut off": pack(tensors=[tensor()], data=127),
    "no data": pack(tensors=[tensor()]),
}
