"""KV caches and attention that kernels are tried on, wherever they run, and what they have to give."""

from __future__ import annotations

from typing import NamedTuple

import torch

from tilepress.kernels.cuda import attention as attention_kernels
from tilepress.kernels.kv_store import KvStore
from tilepress.kernels.layout.kv import parse_kv_spec
from tilepress.kernels.reference import attention as reference
from tilepress.kernels.reference.attention import Attention

from ..kernels.attention_cases import random


class Shape(NamedTuple):
    """Of queries and a cache."""

    sequences: int
    heads: int
    kv_heads: int
    queries: int
    tokens: int
    key_size: int
    value_size: int


SPECS = (
    *("int:bits=8", "int:bits=4", "int:bits=2", "fp8"),
    *("int:bits=8,group=16", "int:bits=4,group=32", "int:bits=2,group=192", "fp8:group=48", "int:bits=4,group=256"),
)
SHAPES = (
    Shape(1, 6, 2, 1, 331, 64, 64),
    Shape(1, 2, 2, 1, 1, 32, 32),
    Shape(2, 5, 1, 2, 163, 80, 48),
    Shape(1, 8, 1, 3, 290, 16, 128),
    Shape(1, 2, 1, 1, 220, 16, 272),
)
MANY_SHAPES = (Shape(1, 4, 2, 40, 290, 64, 48), Shape(2, 2, 2, 9, 200, 144, 32), Shape(1, 1, 1, 100, 330, 32, 160))
LARGE_SHAPES = (Shape(1, 4, 2, 1, 270, 256, 256), Shape(2, 2, 1, 5, 100, 144, 512), Shape(1, 1, 1, 8, 330, 512, 16))


def store_of(spec: str, shape: Shape, dtype: torch.dtype, *, window: int = 16, device: str = "cpu") -> KvStore:
    """A cache whose keys are no smaller on one side of zero."""
    store = KvStore(parse_kv_spec(spec), window)
    tokens = shape.sequences, shape.kv_heads, shape.tokens
    keys, values = random(*tokens, shape.key_size, seed=1), random(*tokens, shape.value_size, seed=2)
    store.append((keys + 1.5).to(device, dtype), values.to(device, dtype))
    return store


def query_of(shape: Shape, dtype: torch.dtype) -> torch.Tensor:
    """Queries that fit the cache."""
    return random(shape.sequences, shape.heads, shape.queries, shape.key_size).to(dtype)


def assert_as_the_reference(found: torch.Tensor, query: torch.Tensor, store: KvStore, attention: Attention) -> None:
    """Equal to what the reference gives of the same tiles, but for roundings."""
    pieces = store.pieces(256)
    step = 2e-5 if query.dtype == torch.float32 else 2 * torch.finfo(query.dtype).eps
    if query.shape[2] > attention_kernels.MOST_FEW:  # keys, values and weights are rounded to the queries' dtype
        pieces = ((first, *(states.to(query.dtype).float() for states in both)) for first, *both in pieces)
        step *= 2
    wanted = reference.attend(query.float(), pieces, store.tokens, attention)
    assert found.dtype == query.dtype
    torch.testing.assert_close(found.float(), wanted, rtol=step, atol=step)
