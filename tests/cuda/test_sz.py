"""The CUDA kernels of `sz`, executed on the CPU from their own source, against the reference."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from tilepress.compress.codecs import encode
from tilepress.kernels import CodecError, Encoded
from tilepress.kernels.cpu.sz import described
from tilepress.kernels.cuda import registry, sz
from tilepress.kernels.cuda.sz import Sz

from . import cases, emulation
from .calls import Calls
from .cases import DTYPE_LIST, are_same, reference, with_parts
from .emulation import Emulator, Order

pytestmark = pytest.mark.skipif(bool(emulation.why_not()), reason=emulation.why_not())

ALL = [kernel for kernel in registry.kernels() if kernel.source.startswith("sz")]
PAIRS = ((torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32), (torch.float32, torch.bfloat16))
SOME = [registry.sz_high_parts(source) for source, _ in PAIRS] + [registry.sz_values(*pair) for pair in PAIRS]
SPECS = (
    "rel=1e-3",
    "abs=0.1",
    "abs=1e-3,predictor=lorenzo1",
    "abs=1e-5,predictor=lorenzo1",
    "abs=1e-4,predictor=lorenzo2",
    "abs=1e-7,predictor=lorenzo2",
)
"""Low parts of 0 to 16 bits."""

SHAPES = ((17, 33), (1, 1), (50, 1), (33, 64))


@cache
def emulator(*, is_whole: bool = False) -> Emulator:
    return Emulator(ALL if is_whole else SOME)


def pairs(device: Emulator) -> list[tuple[torch.dtype, torch.dtype]]:
    every = ((source, dtype) for source in DTYPE_LIST for dtype in DTYPE_LIST)
    return [pair for pair in every if registry.sz_values(*pair) in device.kernels]


def weight_of(encoded: Encoded) -> Sz:
    return described(encoded).build(Sz)


CALLS = Calls(sz, weight_of)
decode, matmul = CALLS.decode, CALLS.matmul


def values(shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """Some of them beyond the symbols, also among a tile's last ones, and some that no step comes near to."""
    tensor = cases.values(shape, dtype)
    flat = tensor.view(-1)
    flat[3::37] *= 100
    flat[5::191] = float("nan")
    flat[7::193] = -float("inf")
    tensor[15::16, -1] = 30.0
    return tensor


def check_decoding(device: Emulator, spec: str, shape: tuple[int, int]) -> None:
    for source, dtype in pairs(device):
        encoded = encode(values(shape, source), f"sz:{spec}")
        assert are_same(decode(device, encoded, dtype), reference(encoded, dtype)), (spec, shape, source, dtype)


@pytest.mark.parametrize("spec", SPECS)
def test_decoding_is_bit_identical_with_the_reference(spec: str) -> None:
    for shape in {SHAPES[0], SHAPES[SPECS.index(spec) % len(SHAPES)]}:
        check_decoding(emulator(), spec, shape)


@pytest.mark.parametrize("predictor", ("none", "lorenzo1", "lorenzo2"))
def test_ranges_of_several_tiles_are_those_of_the_reference(predictor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sz, "HIGH_PARTS", 1)
    device, encoded = emulator(), encode(values((33, 2061), torch.bfloat16), f"sz:abs=2e-3,predictor={predictor}")
    for rows, columns in (
        (range(5, 33), range(2040, 2056)),
        (range(13, 14), range(2050, 2053)),
    ):
        found = decode(device, encoded, torch.bfloat16, rows, columns)
        assert are_same(found, reference(encoded, torch.bfloat16, rows, columns)), (rows, columns)


def test_products_are_those_of_decoded_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilepress.kernels.cuda.panels.BLOCK_VALUES", 16 * 24)
    device, encoded = emulator(), encode(cases.values((40, 24), torch.float16), "sz:abs=1e-3")
    weight, bias = reference(encoded, torch.float32), cases.values((35,), seed=2)
    for count in (1, 9):
        x = cases.values((count, 24))
        found = sz.matmul_on(device, x, weight_of(encoded), bias, (3, 38))
        assert cases.excess(found, x, weight[3:38], bias, 2e-6) <= 0
    assert sz.matmul_on(device, torch.zeros(0, 24), weight_of(encoded), None, (0, 40)).shape == (0, 40)
    nothing = encode(torch.zeros(8, 0, dtype=torch.float16), "sz:abs=1e-3")
    assert sz.matmul_on(device, torch.zeros(2, 0), weight_of(nothing), None, (0, 8)).eq(0).all()


@pytest.mark.parametrize("part", ("payload", "offsets", "table"))
def test_parts_that_do_not_fit_are_refused(part: str) -> None:
    encoded = encode(cases.values((200, 33), torch.bfloat16), "sz:abs=1e-3")
    for spoilt in cases.spoilt_parts(encoded.parts[part]):
        with pytest.raises(CodecError):
            decode(emulator(), with_parts(encoded, **{part: spoilt}), torch.bfloat16)
    other = weight_of(encoded)._replace(predictor="lorenzo3")
    with pytest.raises(CodecError):
        sz.decode_on(emulator(), other, (0, 200), (0, 33), torch.bfloat16)


def test_a_tile_that_is_damaged_is_nan_and_no_other_is() -> None:
    encoded = encode(cases.values((48, 40), torch.bfloat16), "sz:abs=1e-3,predictor=lorenzo2")
    whole = reference(encoded, torch.bfloat16)
    begin, end = encoded.parts["offsets"][1:3].tolist()
    for spoilt in ((begin, begin), (begin, end - 8), (-16, end), (2**62, end), (begin, 2**62)):
        offsets = encoded.parts["offsets"].clone()
        offsets[1:3] = torch.tensor(spoilt)
        found = decode(emulator(), with_parts(encoded, offsets=offsets), torch.bfloat16)
        assert found[16:32].isnan().all(), spoilt
        assert are_same(found[:16], whole[:16]) or spoilt[0] != begin
        assert are_same(found[32:], whole[32:]) or spoilt[1] != end


def test_any_bytes_give_some_values_and_sound_tiles_those_of_the_reference() -> None:
    device, same = emulator(), 0
    for source, dtype in pairs(device):
        encoded = encode(values((16, 37), source), "sz:abs=1e-4,predictor=lorenzo2")
        for seed in range(16):
            names, most = (("payload", 2000), ("table", 80))[seed % 2]
            spoilt = cases.with_some_bytes_changed(encoded, (names,), most, seed)
            found = decode(device, spoilt, dtype)
            try:
                wanted = reference(spoilt, dtype)
            except CodecError:
                continue
            assert are_same(found, wanted), seed
            same += 1
        for seed in range(3):
            assert decode(device, cases.with_random_parts(encoded, seed), dtype).shape == (16, 37)
            payload = cases.with_random_parts(encoded, seed).parts["payload"]
            assert decode(device, with_parts(encoded, payload=payload), dtype).shape == (16, 37)
    assert same > 10


def test_every_kernel_of_the_quick_pass_was_executed() -> None:
    check_decoding(emulator(), SPECS[0], (1, 1))
    assert set(emulator().kernels) <= emulator().launched


@pytest.mark.slow
@pytest.mark.parametrize("order", Order)
def test_every_kernel_gives_the_same_in_every_order_of_threads(order: Order) -> None:
    device = emulator(is_whole=True)
    for seed in range(2 if order >= Order.SHUFFLED else 1):
        device.order, device.seed = order, seed
        for spec in SPECS:
            for shape in (*SHAPES, (17, 1000), (3, 2061)):
                check_decoding(device, spec, shape)
    assert device.launched == set(ALL)
