"""Attention as it is fuzzed: bytes -> the tiles of a KV cache, queries and numbers, as native code takes them.

    byte 0        code of the tiles, tokens of a tile
    byte 1        dtype of the window, dtype of the queries
    byte 2        sequences, KV heads, heads that share one
    byte 3        queries, what there is of slopes, sinks and bias, causality
    bytes 4, 5    key and value channels; tiles and tokens in the window
    byte 6        how many of the numbers and lengths below take another value than the one that fits
    then          9 bytes each: which one, and its value, little endian
    then          the bytes of the tiles, filled up with zeros, and of everything else, which begins anew where they end

Native code has to refuse what does not fit, by `ValueError`; of what fits, any bytes give some values, the same for
any number of threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch

from tilepress.kernels import DTYPES
from tilepress.kernels import _native as native
from tilepress.kernels.cpu.attention import CODES
from tilepress.kernels.cpu.buffers import buffer
from tilepress.kernels.encoded import bytes_of
from tilepress.kernels.kv_coding import encode
from tilepress.kernels.layout.kv import KvLayout, parse_kv_spec

HEAD_BYTES = 7
CHANGE_BYTES = 9


def seeds(specs: tuple[str, ...]) -> Iterator[bytes]:
    """Caches as a store writes them: where mutation starts from."""
    for number, spec in enumerate(specs):
        params = parse_kv_spec(spec)
        states = torch.randn(2, 1, 2, params.group, 32, generator=torch.Generator().manual_seed(number))
        layout = KvLayout(params, 32, 32, torch.float32)
        # Two tiles of one sequence and two KV heads, 3 tokens in the window.
        yield bytes((number, 0, 0b01010, 1, 1 | 1 << 4, 2 | 3 << 4, 0)) + bytes_of(encode(states, states, layout))


def check(specs: tuple[str, ...], data: bytes) -> None:
    """Attend to what the bytes stand for, on every instruction set; all but a result or `ValueError` is a finding."""
    head, rest = data[:HEAD_BYTES].ljust(HEAD_BYTES, b"\0"), data[HEAD_BYTES:]
    changes = [rest[i : i + CHANGE_BYTES] for i in range(0, head[6] % 4 * CHANGE_BYTES, CHANGE_BYTES)]
    content = rest[head[6] % 4 * CHANGE_BYTES :]
    cache, call, kept = _arguments(specs, head, content)
    places = [(arguments, name) for arguments in (cache, call) for name in arguments]
    for change in filter(None, changes):
        arguments, name = places[change[0] % len(places)]
        arguments[name] = _changed(arguments[name], int.from_bytes(change[1:], "little", signed=True))
    try:
        cached = native.KvCache(**cache)
    except (ValueError, TypeError):
        return
    for instruction_set in native.instruction_sets():
        outcomes = []
        for threads in (1, 3):
            kept["result"].zero_()
            try:
                native.attention_attend(instruction_set, cached, **call, threads=threads)
            except (ValueError, TypeError):
                break
            outcomes.append(bytes(bytes_of(kept["result"])))
        assert len(set(outcomes)) <= 1, "threads change the result"


def _changed(old: Any, number: int) -> Any:
    """The number in place of another one, of the first step, or of the length of a buffer if that is larger."""
    if isinstance(old, list):
        return [_changed(piece, number) for piece in old]
    if isinstance(old, tuple):
        return (old[0], min(old[1], number)) if len(old) == 2 else (number, *old[1:])
    return number if type(old) is int else old


def _arguments(
    specs: tuple[str, ...], head: bytes, content: bytes
) -> tuple[dict[str, Any], dict[str, Any], dict[str, torch.Tensor]]:
    """Arguments of `KvCache` and of `attention_attend` that fit, and the tensors that they point to."""
    params = parse_kv_spec(specs[head[0] % len(specs)])
    window_dtype, dtype = (list(DTYPES.items())[number % 3] for number in (head[1], head[1] // 3))
    sequences, heads, shared = 1 + head[2] % 2, 1 + head[2] // 2 % 4, 1 + head[2] // 8 % 4
    key_size, value_size = 16 * (1 + head[4] % 8), 16 * (1 + head[4] // 16 % 8)
    tiles, window_tokens = head[5] % 4, head[5] // 16
    layout = KvLayout(params, key_size, value_size, window_dtype[1])
    room = window_tokens + 1
    tokens = tiles * params.group + window_tokens
    queries = min(1 + head[3] % 4, max(tokens, 1))
    size = tiles * sequences * heads * layout.tile_bytes
    others = itertools.cycle(content[size:] or content or b"\0")

    def filled(dtype: torch.dtype, *shape: int) -> torch.Tensor:
        # Memory of its own and of this very size, so that the first byte beyond it is seen.
        tensor = torch.zeros(shape, dtype=dtype)
        flat = tensor.view(-1).view(torch.uint8)
        if flat.numel():
            flat.copy_(torch.frombuffer(bytearray(itertools.islice(others, flat.numel())), dtype=torch.uint8))
        return tensor

    codes = torch.zeros(size, dtype=torch.uint8)
    if size and content:
        codes[: len(content[:size])] = torch.frombuffer(bytearray(content[:size]), dtype=torch.uint8)
    all_heads = heads * shared
    kept = {
        "codes": codes,
        "window_keys": filled(window_dtype[1], sequences, heads, room, key_size),
        "window_values": filled(window_dtype[1], sequences, heads, room, value_size),
        "query": filled(dtype[1], sequences, all_heads, queries, key_size),
        "result": torch.zeros(sequences, all_heads, queries, value_size, dtype=dtype[1]),
        "slopes": filled(torch.float32, all_heads),
        "sinks": filled(torch.float32, all_heads),
        "bias": filled(torch.float32, queries, tokens),
    }
    given = {
        name: buffer(kept[name] if head[3] >> bit & 1 else None)
        for bit, name in enumerate(("slopes", "sinks", "bias"), 2)
    }
    cache = {
        "code": CODES[params.codec], "bits": params.bits, "group": params.group, "sequences": sequences, "heads": heads,
        "key_size": key_size, "value_size": value_size, "blocks": [buffer(codes)] if size else [],
        "window_keys": buffer(kept["window_keys"]), "window_values": buffer(kept["window_values"]),
        "room": room, "window_tokens": window_tokens, "dtype": window_dtype[0],
    }  # fmt: skip
    call = {
        "query": buffer(kept["query"]), "result": buffer(kept["result"]), "dtype": dtype[0], "heads": all_heads,
        "queries": queries, "scaling": 0.2, "softcap": 3.0 if head[3] & 64 else 0.0, "is_causal": bool(head[3] & 32),
        "window": 20 if head[3] & 128 else 0, **given, "bias_steps": (0, 0, tokens),
    }  # fmt: skip
    return cache, call, kept
