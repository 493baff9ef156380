"""The CUDA kernels of trellis codes and rotations, executed on the CPU from their own source, against the reference."""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch

from tilepress.compress.codecs import encode
from tilepress.kernels import CodecError, Encoded, parse_spec
from tilepress.kernels.cpu.trellis import weight_of
from tilepress.kernels.cuda import registry, trellis
from tilepress.kernels.cuda.registry import Kernel

from . import cases, emulation
from .calls import Calls
from .cases import DTYPE_LIST, are_same, reference
from .emulation import Emulator, Order

pytestmark = pytest.mark.skipif(bool(emulation.why_not()), reason=emulation.why_not())

ALL = [kernel for kernel in registry.kernels() if kernel.source.startswith(("trellis", "rotation"))]
ALL.append(registry.add_splits(torch.float32))
SHAPES = ((17, 33), (1, 1), (40, 300), (96, 144), (16, 2100))


# The full window shares all with shorter ones but a mask, and is tried with one number of bits here.
SOME = [
    kernel
    for kernel in ALL
    if not re.search(r"Bits<[57]>|Bits<[123678]>, Window<16>|Bits<[1268]>, Window<0>, Sets<2>", kernel.label)
]


@cache
def emulator(*, is_whole: bool = False) -> Emulator:
    return Emulator(ALL if is_whole else SOME)


def random_codes(spec: str, shape: tuple[int, int], seed: int = 0) -> Encoded:
    """Any bytes are codes: what an encoder would write is not needed here. Scales are those of weights."""
    params = parse_spec(spec)
    generator = torch.Generator().manual_seed(seed)
    parts = {
        name: torch.randint(0, 256, part.shape, dtype=torch.uint8, generator=generator)
        if part.dtype == torch.uint8
        else (torch.rand(part.shape, generator=generator) * 1e-3).to(part.dtype)
        for name, part in params.part_specs(shape, torch.float32).items()
    }
    return Encoded(params, shape, torch.float32, parts)


CALLS = Calls(trellis, weight_of)
decode, matmul = CALLS.decode, CALLS.matmul


def excess(
    found: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, before: float = 2e-6
) -> float:
    """As of `cases`, but rotation spreads errors, so that they are relative to norms."""
    wanted, terms = (
        x.double() @ weight.double().T,
        x.double().norm(dim=-1, keepdim=True) * weight.double().norm(dim=-1).max(),
    )
    if bias is not None:
        wanted = wanted + bias.double()
    allowed = torch.finfo(x.dtype).eps * wanted.abs() + before * terms + torch.finfo(x.dtype).tiny
    return float(((found.double() - wanted).abs() - allowed).max())


@pytest.mark.parametrize("spec", cases.TRELLIS_SPECS)
def test_decoding_is_bit_identical_with_the_reference(spec: str) -> None:
    for seed, shape in enumerate(SHAPES):
        encoded = random_codes(spec, shape, seed)
        assert are_same(decode(emulator(), encoded, DTYPE_LIST[seed % 3]), reference(encoded, DTYPE_LIST[seed % 3])), (
            shape
        )
    rows, columns = range(5, 61), range(3, 130)
    found = decode(emulator(), encoded := random_codes(spec, (96, 144)), torch.float32, rows, columns)
    assert are_same(found, reference(encoded, torch.float32, rows, columns))


@pytest.mark.parametrize("rows", (pytest.param(4096, marks=pytest.mark.slow), 512))
def test_columns_of_a_tall_matrix_are_rotated_side_by_side(rows: int) -> None:
    """As many as fit into shared memory, and eight; the last ones are fewer."""
    encoded = random_codes("trellis:bits=2,window=12", (rows, 36))
    assert are_same(decode(emulator(), encoded, torch.float32), reference(encoded, torch.float32))


def test_what_an_encoder_wrote_is_decoded() -> None:
    encoded = encode(cases.values((48, 80)), "trellis:bits=2,window=12,effort=fast")
    assert are_same(decode(emulator(), encoded, torch.float32), reference(encoded, torch.float32))


@pytest.mark.parametrize("spec", cases.TRELLIS_SPECS)
def test_products_are_those_of_the_reference(spec: str) -> None:
    for seed, shape in enumerate(SHAPES):
        encoded = random_codes(spec, shape, seed)
        weight = reference(encoded, torch.float32)
        for count in (1, 4, 5, 8):
            dtype = DTYPE_LIST[(seed + count) % 3]
            if kernel_of(encoded, count) not in emulator().kernels:
                continue
            x, bias = cases.values((count, shape[1]), dtype, seed=count), cases.values((shape[0],), dtype, seed=9)
            assert excess(matmul(emulator(), x, encoded), x, weight) <= 0, (shape, count, dtype)
            assert excess(matmul(emulator(), x, encoded, bias), x, weight, bias) <= 0, (shape, count, dtype)


@pytest.mark.parametrize(("bits", "columns"), ((4, 5200), (6, 2600)))
def test_warps_whose_run_of_tiles_goes_round_their_ring(
    bits: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulator(), "multiprocessors", 1)
    encoded, x = random_codes(f"trellis:bits={bits},window=12,rotate=none", (70, columns)), cases.values((2, columns))
    assert excess(matmul(emulator(), x, encoded), x, reference(encoded, torch.float32)) <= 0


def kernel_of(encoded: Encoded, count: int) -> Kernel:
    weight = weight_of(encoded)
    return registry.trellis_multiply(weight.bits, weight.window, count)


@pytest.mark.parametrize("factor", (1e-42, 1e-30, 1e30))
def test_products_do_not_depend_on_the_size_of_x(factor: float) -> None:
    encoded = random_codes("trellis:bits=4,rotate=none", (16, 64))
    x = cases.values((2, 64)) * factor
    wanted = x.double() @ reference(encoded, torch.float64).T
    found = matmul(emulator(), x, encoded).double()
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max() + 1e-37


def test_many_rows_of_float32_are_multiplied_by_blocks_of_decoded_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilepress.kernels.cuda.panels.BLOCK_VALUES", 16 * 144)
    encoded = random_codes("trellis:bits=4", (96, 144))
    x = cases.values((9, 144))
    assert excess(matmul(emulator(), x, encoded), x, reference(encoded, torch.float32)) <= 0


MANY_BEFORE = 2**-11
"""Of products with many rows, whose rotated x is rounded to float16."""


@pytest.mark.parametrize("spec", cases.TRELLIS_SPECS)
def test_products_with_many_rows_are_those_of_the_reference(spec: str) -> None:
    for shape, count, dtype in (((17, 33), 9, torch.bfloat16), ((144, 304), 12, torch.float16)):
        encoded, x = random_codes(spec, shape), cases.values((count, shape[1]), dtype)
        found = matmul(emulator(), x, encoded)
        assert excess(found, x, reference(encoded, torch.float32), before=MANY_BEFORE) <= 0, (shape, dtype)


def test_products_with_more_rows_than_a_block_takes() -> None:
    encoded, x = random_codes("trellis:bits=4,rotate=none", (16, 370)), cases.values((130, 370), torch.bfloat16)
    assert excess(matmul(emulator(), x, encoded), x, reference(encoded, torch.float32), before=MANY_BEFORE) <= 0


def test_ranges_of_rows_and_empty_tensors() -> None:
    encoded = random_codes("trellis:bits=4", (96, 144))
    x = cases.values((2, 144))
    assert torch.equal(matmul(emulator(), x, encoded, rows=range(5, 50)), matmul(emulator(), x, encoded)[:, 5:50])
    assert matmul(emulator(), x[:0], encoded).shape == (0, 96)
    assert matmul(emulator(), x[0], encoded).shape == (96,)


@pytest.mark.parametrize("part", ("codes", "scales", "column_signs", "row_signs"))
def test_parts_that_do_not_fit_are_refused(part: str) -> None:
    encoded = random_codes("trellis:bits=4", (96, 144))
    for spoilt in (encoded.parts[part][:-1], encoded.parts[part].to(torch.int16), encoded.parts[part][None]):
        other = Encoded(encoded.params, encoded.shape, encoded.dtype, {**encoded.parts, part: spoilt})
        with pytest.raises(CodecError):
            decode(emulator(), other, torch.float32)
        with pytest.raises(CodecError):
            matmul(emulator(), torch.zeros(1, 144), other)


@pytest.mark.slow
@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("bits", registry.TRELLIS_BITS)
def test_every_kernel_gives_the_same_in_every_order_of_threads(bits: int, order: Order) -> None:
    device = emulator(is_whole=True)
    for seed in range(2 if order >= Order.SHUFFLED else 1):
        device.order, device.seed = order, seed
        # Shorter windows than the full one share their kernels: one of them in turns.
        for window in (12 + (bits + order + seed) % 4, registry.FULL_WINDOW):
            encoded = random_codes(f"trellis:bits={bits},window={window}", (96, 528), seed)
            weight = reference(encoded, torch.float32)
            for number, dtype in enumerate(DTYPE_LIST):
                assert are_same(decode(device, encoded, dtype), weight.to(dtype))
                for count in ((1, 8), (3, 9), (5, 12))[(number + seed) % 3]:
                    x = cases.values((count, 528), dtype, seed=count)
                    before = MANY_BEFORE if count > 8 and dtype != torch.float32 else 2e-6
                    assert excess(matmul(device, x, encoded), x, weight, before=before) <= 0
