"""The CUDA kernels of `lossless`, executed on the CPU from their own source, against the reference."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from tilepress.compress.codecs import encode
from tilepress.kernels import CodecError, Encoded
from tilepress.kernels.cpu.lossless import described
from tilepress.kernels.cuda import lossless, registry
from tilepress.kernels.cuda.lossless import Lossless

from . import cases, emulation
from .calls import Calls
from .cases import DTYPE_LIST, any_bits, are_same, reference, with_parts
from .emulation import Emulator, Order

pytestmark = pytest.mark.skipif(bool(emulation.why_not()), reason=emulation.why_not())

ADD_SPLITS = [registry.add_splits(dtype) for dtype in DTYPE_LIST]
ALL = [kernel for kernel in registry.kernels() if kernel.source.startswith("lossless")] + ADD_SPLITS
# Products decode by the same code: one of them is enough for the quick pass.
SOME = [
    registry.lossless_decode(torch.bfloat16, torch.bfloat16),
    registry.lossless_decode(torch.float16, torch.float32),
    registry.lossless_decode(torch.float32, torch.float16),
    registry.lossless_multiply(torch.float16, torch.bfloat16),
    registry.add_splits(torch.bfloat16),
]
SHAPES = ((17, 33), (1, 1), (50, 1), (16, 64))


@cache
def emulator(*, is_whole: bool = False) -> Emulator:
    return Emulator(ALL if is_whole else SOME)


def pairs(device: Emulator, template: str) -> list[tuple[torch.dtype, torch.dtype]]:
    every = ((source, dtype) for source in DTYPE_LIST for dtype in DTYPE_LIST)
    return [pair for pair in every if getattr(registry, template)(*pair) in device.kernels]


def tensors(shape: tuple[int, ...], dtype: torch.dtype) -> list[torch.Tensor]:
    """Values whose planes are coded, with and without exceptions, stored as they are, and constant."""
    plain, strange = cases.values(shape, dtype), any_bits(shape, dtype)
    here = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.03
    few = torch.arange(plain.numel()).reshape(shape).remainder(5).to(dtype)
    return [plain, strange, torch.where(here, strange, plain), few, plain.to(torch.bfloat16).to(dtype)]


def weight_of(encoded: Encoded) -> Lossless:
    return described(encoded).build(Lossless)


CALLS = Calls(lossless, weight_of)
decode, matmul = CALLS.decode, CALLS.matmul


def same_bits(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Even of NaN."""
    integers = {2: torch.int16, 4: torch.int32}[wanted.dtype.itemsize]
    return found.dtype == wanted.dtype and torch.equal(found.view(integers), wanted.view(integers))


def check_decoding(device: Emulator, shape: tuple[int, int]) -> None:
    for source, dtype in pairs(device, "lossless_decode"):
        for number, tensor in enumerate(tensors(shape, source)):
            encoded = encode(tensor, "lossless")
            found = decode(device, encoded, dtype)
            case = shape, source, dtype, number
            assert are_same(found, tensor.to(dtype)), case
            assert source != dtype or same_bits(found, tensor), case


def check_products(device: Emulator, shape: tuple[int, int], counts: tuple[int, ...]) -> None:
    for source, dtype in pairs(device, "lossless_multiply"):
        before = 2e-6 if dtype == torch.float32 else 1e-4
        encoded = encode(cases.values(shape, source), "lossless")
        weight, bias = reference(encoded, torch.float32), cases.values((shape[0],), dtype, seed=2)
        for count in counts:
            x = cases.values((count, shape[1]), dtype, seed=count)
            case = shape, source, dtype, count
            assert cases.excess(matmul(device, x, encoded), x, weight, None, before) <= 0, case
            assert cases.excess(matmul(device, x, encoded, bias), x, weight, bias, before) <= 0, case


@pytest.mark.parametrize("shape", SHAPES)
def test_every_bit_comes_back(shape: tuple[int, int]) -> None:
    check_decoding(emulator(), shape)


@pytest.mark.parametrize("source", DTYPE_LIST)
def test_ranges_of_several_blocks_are_those_of_the_reference(source: torch.dtype) -> None:
    device, tensor = emulator(), cases.values((33, 1061), source)
    tensor[:16, 1024:] = any_bits((16, 37), source)
    encoded = encode(tensor, "lossless")
    dtype = next(dtype for of, dtype in pairs(device, "lossless_decode") if of == source)
    assert are_same(decode(device, encoded, dtype, columns=range(1000, 1061)), tensor[:, 1000:].to(dtype))
    assert are_same(decode(device, encoded, dtype, range(5, 18), range(1030, 1050)), tensor[5:18, 1030:1050].to(dtype))


@pytest.mark.parametrize("shape", (*SHAPES, (33, 1061)))
def test_products_are_those_of_the_reference(shape: tuple[int, int]) -> None:
    check_products(emulator(), shape, (1, 8))


def test_ranges_of_rows_many_rows_of_x_and_empty_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilepress.kernels.cuda.panels.BLOCK_VALUES", 16 * 24)
    device, dtype = emulator(is_whole=False), torch.bfloat16
    encoded = encode(cases.values((40, 24), torch.float16), "lossless")
    x = cases.values((2, 24), dtype)
    whole = matmul(device, x, encoded)
    assert torch.equal(matmul(device, x, encoded, rows=range(5, 38)), whole[:, 5:38])
    assert torch.equal(matmul(device, x.T.contiguous().T.reshape(2, 1, 24), encoded), whole.reshape(2, 1, 40))
    assert matmul(device, x[:0], encoded).shape == (0, 40)
    assert matmul(device, x[0], encoded).shape == (40,)
    encoded, x = encode(cases.values((40, 24), dtype), "lossless"), cases.values((9, 24), dtype)
    assert cases.excess(matmul(device, x, encoded), x, reference(encoded, dtype), None, 1e-2) <= 0
    nothing = encode(torch.zeros(8, 0, dtype=torch.float16), "lossless")
    assert torch.equal(matmul(device, torch.zeros(2, 0, dtype=dtype), nothing), torch.zeros(2, 8, dtype=dtype))


@pytest.mark.parametrize("part", ("payload", "offsets", "table"))
def test_parts_that_do_not_fit_are_refused(part: str) -> None:
    encoded = encode(cases.values((40, 1100), torch.bfloat16), "lossless")
    for spoilt in cases.spoilt_parts(encoded.parts[part]):
        other = with_parts(encoded, **{part: spoilt})
        with pytest.raises(CodecError):
            decode(emulator(), other, torch.bfloat16)
        with pytest.raises(CodecError):
            matmul(emulator(), torch.zeros(1, 1100), other)


def test_a_block_that_is_damaged_is_nan_and_no_other_is() -> None:
    tensor = cases.values((48, 40), torch.bfloat16)
    encoded = encode(tensor, "lossless")
    begin, end = encoded.parts["offsets"][1:3].tolist()
    far = 2**62
    for spoilt in ((begin, begin), (begin, end - 4), (-16, end), (far, -far), (begin, far)):
        offsets = encoded.parts["offsets"].clone()
        offsets[1:3] = torch.tensor(spoilt)
        found = decode(emulator(), with_parts(encoded, offsets=offsets), torch.bfloat16)
        assert found[16:32].isnan().all(), spoilt
        assert same_bits(found[:16], tensor[:16]) or spoilt[0] != begin
        assert same_bits(found[32:], tensor[32:]) or spoilt[1] != end


def test_any_bytes_give_some_values() -> None:
    device = emulator()
    for source, dtype in pairs(device, "lossless_decode"):
        encoded = encode(tensors((20, 37), source)[2], "lossless")
        for seed in range(20):
            spoilt = cases.with_some_bytes_changed(encoded, ("payload", "table"), 80, seed)
            assert decode(device, spoilt, dtype).shape == (20, 37)
        for seed in range(3):
            assert decode(device, cases.with_random_parts(encoded, seed), dtype).shape == (20, 37)
            payload = cases.with_random_parts(encoded, seed).parts["payload"]
            assert decode(device, with_parts(encoded, payload=payload), dtype).shape == (20, 37)
    encoded = encode(cases.values((20, 37), torch.float16), "lossless")
    for seed in range(5):
        spoilt = cases.with_some_bytes_changed(encoded, ("payload",), 80, seed)
        assert matmul(device, torch.zeros(2, 37, dtype=torch.bfloat16), spoilt).shape == (2, 20)


def test_a_model_of_other_symbols_is_followed() -> None:
    encoded = encode(cases.values((20, 37), torch.bfloat16), "lossless")
    table = encoded.parts["table"].clone()
    table[80:112] = torch.arange(32)
    other = with_parts(encoded, table=table)
    assert are_same(decode(emulator(), other, torch.bfloat16), reference(other, torch.bfloat16))


def test_version_1_is_left_to_the_reference() -> None:
    encoded, x = encode(cases.values((40, 24)), "lossless:version=1"), cases.values((3, 1, 24))
    weight = reference(encoded, torch.float32)
    assert are_same(lossless.decode(encoded, range(5, 30), range(24), torch.float32), weight[5:30])
    found = lossless.matmul(x, encoded, None, range(5, 30)).reshape(3, 25)
    assert cases.excess(found, x.reshape(3, 24), weight[5:30], None, 2e-6) <= 0


def test_every_kernel_of_the_quick_pass_was_executed() -> None:
    device = emulator()
    check_decoding(device, (1, 1))
    check_products(device, (1, 1), (1,))
    assert set(device.kernels) <= device.launched


@pytest.mark.slow
@pytest.mark.parametrize("order", Order)
def test_every_kernel_gives_the_same_in_every_order_of_threads(order: Order) -> None:
    device = emulator(is_whole=True)
    for seed in range(2 if order >= Order.SHUFFLED else 1):
        device.order, device.seed = order, seed
        for shape in (*SHAPES, (40, 576), (33, 1061)):
            check_decoding(device, shape)
            check_products(device, shape, (1, 2, 5, 8))
    assert device.launched == set(ALL)
