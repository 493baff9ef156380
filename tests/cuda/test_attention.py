"""The CUDA kernels of attention over a compressed KV cache, executed on the CPU from their own source."""

from __future__ import annotations

from functools import cache
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from tilepress.kernels import CodecError
from tilepress.kernels import attention as dispatch
from tilepress.kernels.cuda import attention as kernel
from tilepress.kernels.cuda import registry
from tilepress.kernels.kv_store import KvStore
from tilepress.kernels.layout.kv import parse_kv_spec
from tilepress.kernels.reference.attention import Attention

from ..kernels.attention_cases import extras, random
from . import emulation
from .cases import DTYPE_LIST
from .emulation import Emulator, Order
from .kv_cases import (
    LARGE_SHAPES,
    MANY_SHAPES,
    SHAPES,
    SPECS,
    Shape,
    assert_as_the_reference,
    query_of,
    store_of,
)

needs_emulator = pytest.mark.skipif(bool(emulation.why_not()), reason=emulation.why_not())

ALL = [each for each in registry.kernels() if each.source.startswith("attention")]
QUICK = {("int", 4): torch.bfloat16, ("int", 2): torch.float32, ("fp8", 8): torch.float16}
"""Codes of the quick pass, and the dtype of each."""
SOME = [
    *(registry.attention_few(*code, dtype) for code, dtype in QUICK.items()),
    registry.attention_many("int", 4, torch.bfloat16),
    registry.attention_many("fp8", 8, torch.float16),
    *map(registry.attention_merge, DTYPE_LIST),
]
QUICK_SPECS = [spec for spec in SPECS if "bits=8" not in spec]


@cache
def emulator(*, is_whole: bool = False) -> Emulator:
    return Emulator(ALL if is_whole else SOME)


def quick_dtype(spec: str) -> torch.dtype:
    params = parse_kv_spec(spec)
    return QUICK[params.codec, params.bits]


def check(device: Emulator, store: KvStore, query: torch.Tensor, attention: Attention) -> torch.Tensor:
    found = kernel.attend_on(device, query, store, attention)
    assert_as_the_reference(found, query, store, attention)
    return found


def check_shape(device: Emulator, spec: str, shape: Shape, dtype: torch.dtype) -> None:
    check(device, store_of(spec, shape, dtype), query_of(shape, dtype), Attention(scaling=shape.key_size**-0.5))


@needs_emulator
@pytest.mark.parametrize("spec", QUICK_SPECS)
def test_attention_is_that_of_the_reference(spec: str) -> None:
    for shape in (SHAPES[0], SHAPES[1 + QUICK_SPECS.index(spec) % 4]):
        check_shape(emulator(), spec, shape, quick_dtype(spec))


@needs_emulator
@pytest.mark.parametrize(
    ("spec", "shape", "dtype"),
    [
        ("int:bits=2", Shape(2, 6, 2, 2, 150, 32, 16), torch.float32),
        ("fp8", Shape(2, 4, 2, 11, 150, 32, 16), torch.float16),
    ],
    ids=("few queries", "many queries"),
)
@pytest.mark.parametrize("extra", extras(SHAPES[0]))
def test_masks_windows_biases_caps_and_sinks(extra: str, spec: str, shape: Shape, dtype: torch.dtype) -> None:
    store, query = store_of(spec, shape, dtype), query_of(shape, dtype)
    check(emulator(), store, query, Attention(scaling=0.3, **extras(shape)[extra]))


@needs_emulator
@pytest.mark.parametrize("spec", ("int:bits=4", "fp8", "int:bits=4,group=256", "fp8:group=48"))
def test_attention_of_many_queries_is_that_of_the_reference(spec: str) -> None:
    for shape in (MANY_SHAPES[0], MANY_SHAPES[1 + QUICK_SPECS.index(spec) % 2]):
        check_shape(emulator(), spec, shape, quick_dtype(spec))


@needs_emulator
def test_tiles_before_the_window_of_all_queries_are_not_read() -> None:
    shape = Shape(1, 2, 1, 2, 300, 32, 32)
    store, query = store_of("int:bits=2", shape, torch.float32), query_of(shape, torch.float32)
    attention = Attention(scaling=0.3, window=100)
    wanted = check(emulator(), store, query, attention)
    store.blocks = [torch.cat([torch.full_like(block[:3], 255), block[3:]]) for block in store.blocks]
    assert torch.equal(kernel.attend_on(emulator(), query, store, attention), wanted)


@needs_emulator
@pytest.mark.parametrize("spec", ("int:bits=4", "fp8"))
def test_a_full_window_that_is_no_multiple_of_anything(spec: str) -> None:
    shape, dtype = Shape(1, 2, 2, 1, 70, 32, 48), quick_dtype(spec)
    store = store_of(spec, shape, dtype, window=5)
    store.append(random(1, 2, 63, 32).to(dtype), random(1, 2, 63, 48).to(dtype))
    assert store.window_room[0].shape[2] == store.window_room[2] == 69
    check(emulator(), store, query_of(shape, dtype), Attention(scaling=0.2))


@needs_emulator
def test_tokens_that_come_one_by_one_and_leave() -> None:
    shape = Shape(2, 2, 1, 1, 140, 32, 32)
    store, query = store_of("int:bits=4", shape, torch.bfloat16), query_of(shape, torch.bfloat16)
    for number in range(70):
        store.append(*(random(2, 1, 1, 32, seed=3 * number + i).bfloat16() for i in range(2)))
    check(emulator(), store, query, Attention(scaling=0.2))
    store.forget(100)
    check(emulator(), store, query, Attention(scaling=0.2))
    store.crop(90)
    store.select(torch.tensor([1, 1]))
    check(emulator(), store, query, Attention(scaling=0.2))


@needs_emulator
@pytest.mark.parametrize("spec", ("int:bits=4", "fp8"))
def test_random_bytes_of_tiles_do_no_harm(spec: str) -> None:
    shape, dtype = Shape(1, 3, 1, 1, 150, 32, 48), quick_dtype(spec)
    store = store_of(spec, shape, dtype)
    for seed, block in enumerate(store.blocks):
        block.copy_(torch.randint(0, 256, block.shape, generator=torch.Generator().manual_seed(seed)))
    found = kernel.attend_on(emulator(), query_of(shape, dtype), store, Attention(scaling=0.2))
    assert found.shape == (1, 3, 1, 48)


@needs_emulator
def test_the_same_input_gives_the_same_bits_in_any_order_of_threads() -> None:
    shape, device = Shape(1, 4, 1, 2, 331, 64, 64), Emulator(SOME)
    store, query = store_of("fp8", shape, torch.float16), query_of(shape, torch.float16)
    found = []
    for order in (Order.ASCENDING, Order.GREEDY):
        device.order = order
        found.append(check(device, store, query, Attention(scaling=0.2)))
    assert torch.equal(*found)


@needs_emulator
def test_every_kernel_of_the_quick_pass_was_executed() -> None:
    for spec in ("int:bits=4", "int:bits=2", "fp8"):
        check_shape(emulator(), spec, SHAPES[1], quick_dtype(spec))
    for spec in ("int:bits=4", "fp8"):
        check_shape(emulator(), spec, MANY_SHAPES[1], quick_dtype(spec))
    assert set(emulator().kernels) <= emulator().launched


def test_where_tiles_begin_is_told_to_the_device_only_when_it_changes() -> None:
    store = store_of("int:bits=4", Shape(1, 1, 1, 1, 200, 32, 32), torch.float32)
    before = store.tile_addresses()
    assert before.tolist() == [block[i].data_ptr() for block in store.blocks for i in range(len(block))]
    assert store.tile_addresses() is before
    for _ in range(64):
        store.append(torch.zeros(1, 1, 1, 32), torch.zeros(1, 1, 1, 32))
    assert len(store.tile_addresses()) == len(before) + 1


def test_tiles_at_crooked_addresses_are_refused() -> None:
    store = store_of("int:bits=4", Shape(1, 1, 1, 1, 200, 32, 32), torch.float32)
    of_block = store.blocks[0]
    store.blocks[0] = torch.empty(of_block.numel() + 8, dtype=torch.uint8)[8:].view(of_block.shape)
    with pytest.raises(CodecError, match="multiple of 16"):
        store.tile_addresses()


@needs_emulator
@pytest.mark.parametrize("name", ("mask", "slopes", "sinks"))
def test_what_lies_on_another_device_is_refused(name: str) -> None:
    shape = SHAPES[1]
    store, query = store_of("int:bits=4", shape, torch.float32), query_of(shape, torch.float32)
    with pytest.raises(CodecError, match=f"{name} is on meta"):
        kernel.attend_on(emulator(), query, store, Attention(1.0, **{name: torch.ones(2, device="meta")}))


def test_attention_on_a_gpu_is_these_kernels_and_elsewhere_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = SHAPES[1]
    store, query = store_of("int:bits=4", shape, torch.float32), query_of(shape, torch.float32)
    assert not kernel.is_for(query, store)
    on_gpu = SimpleNamespace(is_cuda=True, shape=query.shape, dtype=query.dtype, requires_grad=False)
    assert kernel.is_for(on_gpu, store)
    assert not kernel.is_for(on_gpu, store_of("int:bits=4", shape, torch.float16))
    assert not kernel.is_for(on_gpu, store_of("none", shape, torch.float32))
    on_gpu.shape = (1, 2, 9, 32)
    assert not kernel.is_for(on_gpu, store)
    on_gpu.dtype = torch.float16
    assert kernel.is_for(on_gpu, store_of("int:bits=4", shape, torch.float16))
    on_gpu.shape, on_gpu.dtype = query.shape, query.dtype
    on_gpu.requires_grad = True
    assert not kernel.is_for(on_gpu, store)
    chosen = SimpleNamespace(is_for=lambda query, store: True, attend=lambda query, store, attention: query + 1)
    monkeypatch.setattr(dispatch, "_NATIVE", None)
    monkeypatch.setattr(dispatch, "_CUDA", chosen)
    assert torch.equal(dispatch.attend(query, store, Attention(scaling=1.0)), query + 1)


@needs_emulator
@pytest.mark.slow
@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("spec", SPECS)
def test_every_kernel_gives_the_same_in_every_order_of_threads(spec: str, order: Order) -> None:
    device = emulator(is_whole=True)
    device.order = order
    for device.seed, (dtype, shape) in enumerate(product(DTYPE_LIST, (*SHAPES, *LARGE_SHAPES))):
        check_shape(device, spec, shape, dtype)
    for dtype, shape in product(registry.HALF_DTYPES, MANY_SHAPES):
        check_shape(device, spec, shape, dtype)
    for shape in (SHAPES[2], MANY_SHAPES[1]):
        for name, extra in extras(shape).items():
            dtype = registry.HALF_DTYPES[len(name) % 2]
            store, query = store_of(spec, shape, dtype), query_of(shape, dtype)
            check(device, store, query, Attention(scaling=0.3, **extra))


@needs_emulator
@pytest.mark.slow
def test_every_kernel_can_be_launched() -> None:
    device = emulator(is_whole=True)
    for spec, dtype in product(("int:bits=8", "int:bits=4", "int:bits=2", "fp8"), DTYPE_LIST):
        check_shape(device, spec, SHAPES[1], dtype)
        if dtype in registry.HALF_DTYPES:
            check_shape(device, spec, MANY_SHAPES[1], dtype)
    assert device.launched == set(ALL)
