"""Attention over a compressed cache, by reference and native code: what it computes, and what it refuses."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
import torch

from tilepress.kernels import CodecError
from tilepress.kernels import attention as dispatch
from tilepress.kernels.attention import attend
from tilepress.kernels.kv_store import KvStore
from tilepress.kernels.layout.kv import parse_kv_spec
from tilepress.kernels.reference.attention import Attention

from .attention_cases import extras, random

SPECS = ("int:bits=8", "int:bits=4", "int:bits=2", "fp8", "none", "int:bits=4,group=32", "fp8:group=16", "zfp:rate=8")
SHAPES = (
    # sequences, heads, KV heads, queries, tokens, key channels, value channels
    (1, 4, 4, 1, 1, 32, 32),
    (1, 9, 3, 1, 331, 64, 64),
    (2, 8, 2, 1, 200, 128, 128),
    (1, 5, 1, 3, 163, 80, 48),
    (1, 2, 2, 8, 300, 256, 256),
    (3, 2, 1, 20, 90, 16, 32),
)


native = importlib.import_module("tilepress.kernels._native")
kernel = importlib.import_module("tilepress.kernels.cpu.attention")
active = importlib.import_module("tilepress.kernels.cpu.instruction_set").instruction_set


@pytest.fixture(params=["reference", *native.instruction_sets()], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "reference":
        monkeypatch.setattr(dispatch, "_NATIVE", None)
    else:
        monkeypatch.setenv("TILEPRESS_CPU", request.param)
    active.cache_clear()
    yield request.param
    active.cache_clear()


def store_of(spec: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> KvStore:
    sequences, _, kv_heads, _, tokens, key_size, value_size = shape
    store = KvStore(parse_kv_spec(spec))
    keys, values = (
        random(sequences, kv_heads, tokens, key_size, seed=1),
        random(sequences, kv_heads, tokens, value_size, seed=2),
    )
    store.append((keys + 1.5).to(dtype), values.to(dtype))
    return store


def query_of(shape: tuple[int, ...]) -> torch.Tensor:
    return random(shape[0], shape[1], shape[3], shape[5])


def defined(query: torch.Tensor, store: KvStore, attention: Attention) -> torch.Tensor:
    """softmax(scores) @ values, in float64 and all at once."""
    repeats = query.shape[1] // store.heads
    keys = store.dense_keys().double().repeat_interleave(repeats, dim=1)
    values = store.dense_values().double().repeat_interleave(repeats, dim=1)
    scores = attention.scaling * query.double() @ keys.mT
    if attention.softcap:
        scores = attention.softcap * (scores / attention.softcap).tanh()
    token, own = torch.arange(store.tokens), torch.arange(store.tokens)[-query.shape[2] :, None]
    if attention.slopes is not None:
        scores = scores + attention.slopes.double()[:, None, None] * (token - own)
    seen = torch.ones(1, dtype=torch.bool)
    if attention.is_causal:
        seen = seen & (token <= own)
    if attention.window:
        seen = seen & (token > own - attention.window)
    if attention.mask is not None and attention.mask.dtype == torch.bool:
        seen = seen & attention.mask
    elif attention.mask is not None:
        scores = scores + attention.mask
    scores = scores.masked_fill(~seen, -torch.inf)
    if attention.sinks is not None:
        sinks = attention.sinks.double().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        return torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1] @ values
    return scores.softmax(-1).nan_to_num() @ values


def assert_as_defined(found: torch.Tensor, query: torch.Tensor, store: KvStore, attention: Attention) -> None:
    assert found.dtype == query.dtype
    step = 2e-5 if query.dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found.double(), defined(query, store, attention), rtol=step, atol=step)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention_is_what_it_is_defined_to_be(spec: str, shape: tuple[int, ...]) -> None:
    store, query = store_of(spec, shape), query_of(shape)
    attention = Attention(scaling=shape[5] ** -0.5)
    assert_as_defined(attend(query, store, attention), query, store, attention)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_comes_back_in_half_precision(dtype: torch.dtype) -> None:
    for shape in SHAPES:
        store, query = store_of("int:bits=4", shape, dtype), query_of(shape).to(dtype)
        attention = Attention(scaling=shape[5] ** -0.5)
        assert_as_defined(attend(query, store, attention), query, store, attention)


@pytest.mark.parametrize("extra", extras(SHAPES[0]))
def test_masks_windows_biases_caps_and_sinks(extra: str) -> None:
    for shape in SHAPES[1:]:
        store, query = store_of("int:bits=4", shape), query_of(shape)
        attention = Attention(scaling=0.3, **extras(shape)[extra])
        assert_as_defined(attend(query, store, attention), query, store, attention)


def test_scores_of_any_size_do_not_overflow() -> None:
    shape = SHAPES[1]
    store, query = store_of("int:bits=8", shape), query_of(shape) * 300
    attention = Attention(scaling=1.0)
    assert_as_defined(attend(query, store, attention), query, store, attention)


def test_random_bytes_of_codes_have_their_values() -> None:
    shape = (1, 7, 1, 1, 200, 80, 48)
    for spec in ("int:bits=8", "int:bits=4", "int:bits=2", "fp8"):
        store, query = store_of(spec, shape), query_of(shape)
        for block in store.blocks:
            for name, section in store.layout.split(block).items():
                if "codes" in name:
                    section.copy_(torch.randint(0, 256, section.shape, generator=torch.Generator().manual_seed(9)))
                    if spec == "fp8":  # which no encoder writes beside a scale that is finite
                        section[(section & 127) == 127] = 0
        attention = Attention(scaling=0.02)
        assert_as_defined(attend(query, store, attention), query, store, attention)


def test_random_bytes_of_tiles_do_no_harm() -> None:
    shape = (1, 3, 1, 2, 200, 32, 80)
    for spec in ("int:bits=8", "int:bits=4", "int:bits=2", "fp8"):
        store, query = store_of(spec, shape), query_of(shape)
        for seed, block in enumerate(store.blocks):
            block.copy_(torch.randint(0, 256, block.shape, generator=torch.Generator().manual_seed(seed)))
        assert attend(query, store, Attention(scaling=0.2)).shape == (1, 3, 2, 80)


def test_arguments_that_do_not_fit_are_refused() -> None:
    shape = (2, 4, 2, 1, 100, 32, 32)
    store, query = store_of("int:bits=4", shape), query_of(shape)
    everything = torch.ones(2, 1, 1, 100, dtype=torch.bool)
    for bad in (query[:1], query[..., :16], query[:, :3], query[0], query[:, :, :0], query.long(), query[:, :0]):
        with pytest.raises(CodecError):
            attend(bad, store, Attention(1.0))
    with pytest.raises(CodecError):
        attend(torch.zeros(2, 4, 101, 32), store, Attention(1.0))
    with pytest.raises(CodecError):
        attend(query, KvStore(parse_kv_spec("fp8")), Attention(1.0))
    for arguments in (
        {"scaling": float("nan")},
        {"window": -1},
        {"softcap": 0.0},
        {"softcap": float("inf")},
        {"slopes": torch.ones(3)},
        {"sinks": torch.ones(4, 1)},
        {"mask": everything[..., :99]},
        {"mask": everything[0]},
        {"mask": everything.expand(2, 3, 1, 100)},
        {"mask": everything.to(torch.int64)},
    ):
        with pytest.raises(CodecError):
            attend(query, store, Attention(**{"scaling": 1.0, **arguments}))


def test_the_kernel_takes_a_few_queries_of_coded_caches(backend: str) -> None:
    shape = (1, 2, 2, kernel.MOST_QUERIES, 100, 32, 32)
    query = query_of(shape)
    assert kernel.is_for(query, store_of("int:bits=4", shape))
    assert not kernel.is_for(torch.cat([query, query], dim=2), store_of("int:bits=4", shape))
    assert not kernel.is_for(query, store_of("none", shape))
    assert not kernel.is_for(query.requires_grad_(), store_of("int:bits=4", shape))


def test_gradients_reach_the_queries() -> None:
    shape = (1, 2, 1, 1, 90, 32, 32)
    store, query = store_of("int:bits=8", shape), query_of(shape).requires_grad_()
    attend(query, store, Attention(0.2)).sum().backward()
    assert query.grad is not None
    assert bool(query.grad.ne(0).any())


@pytest.mark.parametrize("spec", ["int:bits=4", "fp8"])
def test_long_caches_are_the_same_for_any_number_of_threads(spec: str) -> None:
    shape = (1, 3, 1, 1, 3000, 64, 32)
    store, query = store_of(spec, shape), query_of(shape)
    attention = Attention(scaling=0.2, window=2500)
    alone = attend(query, store, attention)
    assert_as_defined(alone, query, store, attention)
    torch.set_num_threads(3)
    assert torch.equal(attend(query, store, attention), alone)


def test_native_code_refuses_lengths_that_do_not_fit(backend: str) -> None:
    if backend == "reference":
        pytest.skip("checks nothing itself")
    zeros = torch.zeros(2 * 8 * 32)
    window = (zeros.data_ptr(), zeros.nbytes)
    good = {
        "code": "int", "bits": 4, "group": 64, "sequences": 1, "heads": 2, "key_size": 32, "value_size": 32,
        "blocks": [], "window_keys": window, "window_values": window,
        "room": 8, "window_tokens": 5, "dtype": "float32",
    }  # fmt: skip
    for name, bad in (
        ("code", "nf4"), ("bits", 3), ("group", 0), ("group", 16), ("group", 512), ("sequences", 0), ("heads", -1),
        ("heads", 1 << 62), ("key_size", 24), ("value_size", 1024), ("blocks", [(64, 100)]), ("blocks", [(0, -1)]),
        ("window_keys", (64, 8)), ("window_values", (64, 8)), ("room", 9), ("room", 1 << 60), ("window_tokens", 9),
        ("dtype", "int8"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"\w"):
            native.KvCache(**{**good, name: bad})
    none, floats = (0, -1), torch.zeros(2 * 2 * 32)
    call = {
        "instruction_set": backend, "cache": native.KvCache(**good), "query": (floats.data_ptr(), 512),
        "result": (floats.data_ptr(), 512), "dtype": "float32", "heads": 4, "queries": 1, "scaling": 1.0,
        "softcap": 0.0, "is_causal": True, "window": 0, "slopes": none, "sinks": none, "bias": none,
        "bias_steps": (0, 0, 0), "threads": 1,
    }  # fmt: skip
    for changes in (
        {"instruction_set": "none"}, {"heads": 3}, {"heads": 0}, {"queries": 6}, {"queries": 0}, {"query": (64, 4)},
        {"result": (64, 4)}, {"dtype": "int8"}, {"window": -1}, {"slopes": (64, 8)}, {"sinks": (64, 0)},
        {"bias": (64, 16)}, {"bias": (64, 32), "bias_steps": (0, 5, 0)}, {"bias": (64, 32), "bias_steps": (0, -5, 0)},
        {"bias": (64, 32), "bias_steps": (1 << 62, 1 << 62, 1 << 62)},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"\w"):
            native.attention_attend(**{**call, **changes})
