"""The CUDA kernels of `zfp`, executed on the CPU from their own source, against the reference."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from tilepress.compress.codecs import encode
from tilepress.kernels import CodecError, Encoded
from tilepress.kernels.cpu.zfp import described
from tilepress.kernels.cuda import registry, zfp
from tilepress.kernels.cuda.zfp import Zfp

from . import cases, emulation
from .calls import Calls
from .cases import DTYPE_LIST, are_same, reference, with_parts
from .emulation import Emulator, Order

pytestmark = pytest.mark.skipif(bool(emulation.why_not()), reason=emulation.why_not())

ALL = [kernel for kernel in registry.kernels() if kernel.source.startswith(("zfp", "add_splits"))]
SOME = [
    registry.zfp_decode_fixed(torch.bfloat16),
    registry.zfp_decode_variable(torch.float32),
    registry.zfp_multiply(torch.float16),
    registry.add_splits(torch.float16),
]
FIXED = ("rate=1", "rate=3.3", "rate=4", "rate=8", "rate=32")
VARIABLE = ("precision=1", "precision=12", "precision=32", "tolerance=1e-3", "tolerance=1e9", "reversible=true")
SHAPES = ((17, 33), (1, 1), (50, 1), (40, 200), (16, 12))


@cache
def emulator(*, is_whole: bool = False) -> Emulator:
    return Emulator(ALL if is_whole else SOME)


def dtypes_of(device: Emulator, template: str) -> list[torch.dtype]:
    return [dtype for dtype in DTYPE_LIST if getattr(registry, template)(dtype) in device.kernels]


def decode_dtypes(device: Emulator, mode: str) -> list[torch.dtype]:
    return dtypes_of(device, "zfp_decode_fixed" if mode.startswith("rate") else "zfp_decode_variable")


def weight_of(encoded: Encoded) -> Zfp:
    return described(encoded).build(Zfp)


CALLS = Calls(zfp, weight_of)
decode, matmul = CALLS.decode, CALLS.matmul


def tensors(shape: tuple[int, int], mode: str) -> list[torch.Tensor]:
    """Values of any size; of reversible panels, of any bits."""
    plain = cases.values(shape)
    mixed = torch.where(torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.5, plain, plain * 1e-30)
    return [plain, cases.tiny_values(shape), mixed * 1e37, torch.zeros(shape), mixed] + (
        [cases.any_bits(shape, torch.float32)] if mode == "reversible=true" else []
    )


def check_decoding(device: Emulator, mode: str, shape: tuple[int, int], seed: int = 0) -> None:
    for number, tensor in enumerate(tensors(shape, mode)):
        encoded = encode(tensor, f"zfp:{mode}")
        payload = cases.with_random_parts(encoded, seed).parts["payload"]
        for each in (encoded, with_parts(encoded, payload=payload)):
            values = reference(each, torch.float32)
            for dtype in decode_dtypes(device, mode):
                assert are_same(decode(device, each, dtype), values.to(dtype)), (mode, shape, dtype, number)


def check_products(device: Emulator, mode: str, shape: tuple[int, int], counts: tuple[int, ...]) -> None:
    encoded = encode(cases.values(shape), f"zfp:{mode}")
    weight = reference(encoded, torch.float32)
    for dtype in dtypes_of(device, "zfp_multiply"):
        bias, before = cases.values((shape[0],), dtype, seed=2), 2e-6 if dtype == torch.float32 else 1e-4
        for count in counts:
            x = cases.values((count, shape[1]), dtype, seed=count)
            case = mode, shape, dtype, count
            assert cases.excess(matmul(device, x, encoded), x, weight, None, before) <= 0, case
            assert cases.excess(matmul(device, x, encoded, bias), x, weight, bias, before) <= 0, case


@pytest.mark.parametrize("mode", (*FIXED, *VARIABLE))
def test_any_values_and_any_bytes_are_decoded_as_by_the_reference(mode: str) -> None:
    number = (*FIXED, *VARIABLE).index(mode)
    for shape in {SHAPES[0], SHAPES[number % len(SHAPES)]}:
        check_decoding(emulator(), mode, shape, number)


@pytest.mark.parametrize("mode", ("rate=3.3", "tolerance=1e-3"))
def test_ranges_are_those_of_the_reference(mode: str) -> None:
    device, encoded = emulator(), encode(cases.values((50, 90)), f"zfp:{mode}")
    for dtype in decode_dtypes(device, mode):
        whole = reference(encoded, dtype)
        assert are_same(decode(device, encoded, dtype, range(5, 38), range(3, 70)), whole[5:38, 3:70])
        assert are_same(decode(device, encoded, dtype, range(17, 19)), whole[17:19])


def test_products_are_those_of_the_reference() -> None:
    for shape in (*SHAPES, (20, 1030)):
        check_products(emulator(), "rate=3.3", shape, (1, 8))


def test_ranges_of_rows_many_rows_of_x_and_empty_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilepress.kernels.cuda.panels.BLOCK_VALUES", 16 * 24)
    device, encoded = emulator(), encode(cases.values((40, 24)), "zfp:rate=6")
    x = cases.values((2, 24), torch.float16)
    whole = matmul(device, x, encoded)
    assert torch.equal(matmul(device, x, encoded, rows=range(5, 38)), whole[:, 5:38])
    assert matmul(device, x[:0], encoded).shape == (0, 40)
    nothing = encode(torch.zeros(8, 0), "zfp:rate=6")
    assert torch.equal(matmul(device, x[:, :0], nothing), torch.zeros(2, 8, dtype=torch.float16))
    for mode in ("rate=6", "precision=9"):
        encoded = encode(cases.values((40, 24)), f"zfp:{mode}")
        (dtype,) = decode_dtypes(device, mode)
        x = cases.values((9, 24), dtype)
        assert cases.excess(matmul(device, x, encoded), x, reference(encoded, dtype), None, 1e-2) <= 0


@pytest.mark.parametrize("mode", ("rate=4", "reversible=true"))
def test_a_panel_whose_offsets_are_damaged_is_nan_and_no_other_is(mode: str) -> None:
    encoded = encode(cases.values((48, 40)), f"zfp:{mode}")
    (dtype,) = decode_dtypes(emulator(), mode)
    begin, end = encoded.parts["offsets"][1:3].tolist()
    whole = reference(encoded, dtype)
    for spoilt in ((-16, end), (2**62, end), (begin, 2**62), (begin, -(2**62)), (end + 8, end)):
        offsets = encoded.parts["offsets"].clone()
        offsets[1:3] = torch.tensor(spoilt)
        found = decode(emulator(), with_parts(encoded, offsets=offsets), dtype)
        assert found[16:32].isnan().all(), spoilt
        assert are_same(found[:16], whole[:16]) or spoilt[0] != begin
        assert are_same(found[32:], whole[32:]) or spoilt[1] != end
    if mode == "rate=4":
        damaged = with_parts(encoded, offsets=offsets)
        assert matmul(emulator(), torch.zeros(1, 40, dtype=torch.float16), damaged)[:, 16:32].isnan().all()


def test_a_stream_that_ends_early_goes_on_with_zeros() -> None:
    for mode in ("rate=7", "precision=20", "reversible=true"):
        encoded = encode(cases.values((16, 40)), f"zfp:{mode}")
        for end in (0, 8, 9, 61, 100):
            offsets = torch.tensor([0, end])
            other = with_parts(encoded, offsets=offsets)
            for dtype in decode_dtypes(emulator(), mode):
                assert are_same(decode(emulator(), other, dtype), reference(other, dtype)), (mode, end)


@pytest.mark.parametrize("part", ("payload", "offsets"))
def test_parts_that_do_not_fit_are_refused(part: str) -> None:
    encoded = encode(cases.values((160, 40)), "zfp:rate=4")
    for spoilt in cases.spoilt_parts(encoded.parts[part]):
        with pytest.raises(CodecError):
            decode(emulator(), with_parts(encoded, **{part: spoilt}), torch.bfloat16)


@pytest.mark.parametrize(
    ("mode", "value"),
    (("rate", 0.1), ("rate", 33.0), ("rate", float("nan")), ("precision", 0.0), ("tolerance", 0.0), ("lossy", 1.0)),
)
def test_a_mode_that_there_is_not_is_refused(mode: str, value: float) -> None:
    weight = weight_of(encode(cases.values((16, 16)), "zfp:rate=4"))._replace(mode=mode, value=value)
    with pytest.raises(CodecError):
        zfp.decode_on(emulator(), weight, (0, 16), (0, 16), torch.float32)


def test_every_kernel_of_the_quick_pass_was_executed() -> None:
    device = emulator()
    for mode in ("rate=4", "precision=4"):
        check_decoding(device, mode, (1, 1))
    check_products(device, "rate=4", (1, 1), (1,))
    assert set(device.kernels) <= device.launched


@pytest.mark.slow
@pytest.mark.parametrize("order", Order)
def test_every_kernel_gives_the_same_in_every_order_of_threads(order: Order) -> None:
    device = emulator(is_whole=True)
    for seed in range(2 if order >= Order.SHUFFLED else 1):
        device.order, device.seed = order, seed
        for mode in (*FIXED, *VARIABLE):
            for shape in SHAPES:
                check_decoding(device, mode, shape, seed)
        for mode in FIXED:
            for shape in (*SHAPES, (20, 1030)):
                check_products(device, mode, shape, (1, 2, 5, 8))
    assert device.launched == set(ALL)
