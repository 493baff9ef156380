"""What is fuzzed: bytes -> a tensor in compressed form that a file could hold -> decoding on every instruction set.

    byte 0        a codec spec of this codec (tests/kernels/specs.py)
    byte 1        dtype of the tensor, dtype of the result
    bytes 2, 3    rows, columns, at most 255 each
    then          each part in the order of its layout: 2 bytes of length, little endian, and its bytes

A part of a fixed shape is cut or filled up with zeros to it. A decoder has to give values or raise `CodecError`, the
same on every instruction set, and a range has the values of the whole.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import torch

from tilepress.compress.codecs import encode
from tilepress.kernels import DTYPES, CodecError, Encoded, backend_of, decode, matmul, parse_spec
from tilepress.kernels import _native as native
from tilepress.kernels.cpu.instruction_set import instruction_set as active

DTYPE_LIST = tuple(DTYPES.values())
MOST_VALUES = 1 << 13
SEEDS = (((17, 21), torch.float32), ((3, 40), torch.bfloat16), ((33, 5), torch.float16))
SEEDS_A_SPEC = len(SEEDS)


def tensor_of(specs: tuple[str, ...], data: bytes) -> tuple[Encoded, torch.dtype]:
    """The tensor that the bytes stand for, and the dtype to decode it to."""
    head, rest = data[:4].ljust(4, b"\0"), data[4:]
    params = parse_spec(specs[head[0] % len(specs)])
    dtype, wanted = DTYPE_LIST[head[1] % 3], DTYPE_LIST[head[1] // 3 % 3]
    shape = head[2], min(head[3], MOST_VALUES // max(head[2], 1))
    parts = {}
    for name, spec in params.part_specs(shape, dtype).items():
        length = int.from_bytes(rest[:2], "little")
        content, rest = rest[2 : 2 + length], rest[2 + length :]
        count = math.prod(spec.shape) if spec.exact else min(length // spec.dtype.itemsize, math.prod(spec.shape))
        size = count * spec.dtype.itemsize
        # Memory of its own and of this very size, so that the first byte beyond it is seen.
        part = torch.zeros(size, dtype=torch.uint8)
        if size and content:
            part[: len(content[:size])] = torch.frombuffer(bytearray(content[:size]), dtype=torch.uint8)
        parts[name] = part.view(spec.dtype).view(spec.shape if spec.exact else (count,))
    return Encoded(params, shape, dtype, parts), wanted


def bytes_of(number: int, encoded: Encoded, wanted: torch.dtype) -> bytes:
    """The inverse: what stands for a tensor that was encoded with spec `number`."""
    kinds = DTYPE_LIST.index(encoded.dtype) + 3 * DTYPE_LIST.index(wanted)
    pieces = [bytes((number, kinds, *encoded.shape))]
    for part in encoded.parts.values():
        content = part.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        pieces += [len(content).to_bytes(2, "little"), content]
    return b"".join(pieces)


def seeds(specs: tuple[str, ...]) -> Iterator[bytes]:
    """Small tensors as the encoder writes them: where mutation starts from."""
    generator = torch.Generator().manual_seed(0)
    for number, spec in enumerate(specs):
        for shape, dtype in SEEDS:
            weight = torch.randn(shape, generator=generator).mul_(0.05).to(dtype)
            yield bytes_of(number, encode(weight, spec), dtype)


def check(specs: tuple[str, ...], data: bytes) -> None:
    """Decode what the bytes stand for, in every way; an exception other than `CodecError` is a finding."""
    encoded, wanted = tensor_of(specs, data)
    outcomes = []
    for name in native.instruction_sets():
        os.environ["TILEPRESS_CPU"] = name
        active.cache_clear()
        outcomes.append(_outcome(encoded, wanted))
    found = outcomes[0]
    assert all(type(other) is type(found) for other in outcomes), f"instruction sets disagree: {outcomes}"
    if isinstance(found, str):
        return
    assert all(_same(found, other) for other in outcomes), "instruction sets give different values"
    rows, columns = slice(encoded.rows // 3, None), slice(1, encoded.columns // 2)
    part = decode(encoded, rows, columns, wanted)
    assert _same(part, found[rows, columns]), "a range has other values than the whole"
    matmul(torch.ones(1, encoded.columns), encoded)


def _outcome(encoded: Encoded, wanted: torch.dtype) -> torch.Tensor | str:
    try:
        encoded.params.check_parts(encoded.shape, encoded.dtype, encoded.parts)
    except CodecError as error:
        # Readers stop here. A caller who doesn't must not come to harm, though what he gets may be anything.
        if backend_of(encoded.codec, "cpu").name == "cpu":
            _decoded(encoded, wanted)
        return str(error)
    return _decoded(encoded, wanted)


def _decoded(encoded: Encoded, wanted: torch.dtype) -> torch.Tensor | str:
    try:
        return decode(encoded, dtype=wanted)
    except CodecError as error:
        return str(error)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    integers = torch.int32 if one.dtype == torch.float32 else torch.int16
    same = one.contiguous().view(integers) == other.contiguous().view(integers)
    return one.shape == other.shape and bool((same | (one.isnan() & other.isnan())).all())
