"""The CUDA kernels of fixed-rate tiles, executed on the CPU from their own source, against the reference."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from tilepress.compress.codecs import encode
from tilepress.kernels import CodecError, Encoded
from tilepress.kernels.cpu.tiles import parts_of
from tilepress.kernels.cuda import registry, tiles
from tilepress.kernels.cuda.tiles import Tiles

from . import cases, emulation
from .calls import Calls
from .cases import DTYPE_LIST, MORE_SHAPES, SHAPES, TILE_SPECS, are_same, code_of, encoded_values, reference
from .emulation import Emulator, LaunchError, Order

pytestmark = pytest.mark.skipif(bool(emulation.why_not()), reason=emulation.why_not())

ALL = [kernel for kernel in registry.kernels() if kernel.source.startswith(("tiles", "add_splits"))]
SOME = list(dict.fromkeys([*cases.some_of(ALL), *map(registry.add_splits, DTYPE_LIST)]))


@cache
def emulator(*, is_whole: bool) -> Emulator:
    return Emulator(ALL if is_whole else SOME)


def weight_of(encoded: Encoded) -> Tiles:
    return Tiles(parts_of(encoded), code_of(encoded), encoded.columns)


CALLS = Calls(tiles, weight_of)
decode, matmul = CALLS.decode, CALLS.matmul


def dtypes_of(device: Emulator, spec: str, template: str) -> list[torch.dtype]:
    code = code_of(encoded_values(spec, (1, 1)))._replace(group=0)
    return [dtype for dtype in DTYPE_LIST if getattr(registry, template)(code, dtype) in device.kernels]


def check_decoding(device: Emulator, spec: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    for dtype in dtypes_of(device, spec, "tiles_decode"):
        for seed, shape in enumerate(shapes):
            encoded = encoded_values(spec, shape)
            tiny = encode(cases.tiny_values(shape), spec)
            for each in (encoded, tiny, cases.with_random_parts(encoded, seed)):
                assert are_same(decode(device, each, dtype), reference(each, dtype)), (shape, dtype)


def check_ranges(device: Emulator, spec: str) -> None:
    encoded = encoded_values(spec, (70, 600))
    for dtype in dtypes_of(device, spec, "tiles_decode"):
        for rows, columns in (
            (range(16, 32), range(0, 600)),
            (range(5, 67), range(24, 424)),
            (range(1), range(3, 599)),
        ):
            found = decode(device, encoded, dtype, rows, columns)
            assert are_same(found, reference(encoded, dtype, rows, columns)), (rows, columns, dtype)


def check_products(device: Emulator, spec: str, shapes: tuple[tuple[int, ...], ...], counts: tuple[int, ...]) -> None:
    for dtype in dtypes_of(device, spec, "tiles_multiply"):
        before = 2e-6 if dtype == torch.float32 else 1e-4
        for shape in shapes:
            encoded = encoded_values(spec, shape)
            weight = reference(encoded, torch.float32)
            bias = values_of_bias = cases.values((encoded.rows,), dtype, seed=2)
            for count in counts:
                x = cases.values((count, encoded.columns), dtype, seed=count)
                case = shape, dtype, count
                assert cases.excess(matmul(device, x, encoded), x, weight, None, before) <= 0, case
                assert cases.excess(matmul(device, x, encoded, bias), x, weight, values_of_bias, before) <= 0, case


@pytest.mark.parametrize("spec", TILE_SPECS)
def test_decoding_is_bit_identical_with_the_reference(spec: str) -> None:
    check_decoding(emulator(is_whole=False), spec, SHAPES)
    check_ranges(emulator(is_whole=False), spec)


@pytest.mark.parametrize("spec", TILE_SPECS)
def test_products_are_those_of_the_reference(spec: str) -> None:
    check_products(emulator(is_whole=False), spec, SHAPES, (1, 3, 8))


def check_every_code(device: Emulator, spec: str) -> None:
    """Products with the unit matrix are the weight; NaN and infinity spoil the whole row that they are in."""
    encoded = encoded_values(spec, (16, 16))
    codes = torch.arange(encoded.parts["codes"].numel(), dtype=torch.uint8).view(encoded.parts["codes"].shape)
    encoded = Encoded(encoded.params, encoded.shape, encoded.dtype, {**encoded.parts, "codes": codes})
    for template, count in (("tiles_multiply", 8), ("tiles_multiply_many", 16)):
        for dtype in dtypes_of(device, spec, template):
            wanted = reference(encoded, dtype)
            wanted[~wanted.isfinite().all(1)] = torch.nan
            found = matmul(device, torch.eye(16, dtype=dtype)[:count], encoded)
            torch.testing.assert_close(found, wanted.T[:count], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("spec", ("fp8", "fp8:format=e5m2,group=32", "mxfp4", "nvfp4", "int:bits=8", "int:bits=7"))
def test_every_code_is_multiplied_as_it_is_decoded(spec: str) -> None:
    check_every_code(emulator(is_whole=False), spec)


def test_every_kernel_of_the_quick_pass_was_executed() -> None:
    device = emulator(is_whole=False)
    for spec in TILE_SPECS:
        encoded = encoded_values(spec, (17, 33))
        for dtype in dtypes_of(device, spec, "tiles_decode"):
            decode(device, encoded, dtype)
        for dtype in dtypes_of(device, spec, "tiles_multiply"):
            matmul(device, cases.values((2, 33), dtype), encoded)
        for dtype in dtypes_of(device, spec, "tiles_multiply_many"):
            matmul(device, cases.values((9, 33), dtype), encoded)
    split_products(device)
    assert set(device.kernels) <= device.launched


def split_products(device: Emulator) -> None:
    """A matrix of few rows and many columns, whose columns are split."""
    for dtype in DTYPE_LIST:
        for spec in ("int:bits=4", "fp8", "nf4", "int:bits=3", "int:bits=8"):
            if (
                dtype not in dtypes_of(device, spec, "tiles_multiply")
                or registry.add_splits(dtype) not in device.kernels
            ):
                continue
            encoded = encoded_values(spec, (33, 1600))
            for x in (cases.values((1, 1600), dtype), cases.values((5, 1600), dtype)):
                bias = cases.values((33,), dtype, seed=3)
                weight, before = reference(encoded, torch.float32), 2e-6 if dtype == torch.float32 else 1e-4
                assert cases.excess(matmul(device, x, encoded, bias), x, weight, bias, before) <= 0


def test_warps_whose_run_of_tiles_goes_round_their_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    device = emulator(is_whole=False)
    monkeypatch.setattr(device, "multiprocessors", 1)
    check_products(device, "int:bits=4,group=64", ((70, 2600),), (2,))


def test_a_range_of_rows_gives_that_range_of_products() -> None:
    device, encoded = emulator(is_whole=False), encoded_values("int:bits=4", (70, 64))
    for dtype in dtypes_of(device, "int:bits=4", "tiles_multiply"):
        x = cases.values((2, 64), dtype)
        whole = matmul(device, x, encoded)
        assert torch.equal(matmul(device, x, encoded, rows=range(5, 50)), whole[:, 5:50])


def test_many_rows_of_float32_are_multiplied_by_blocks_of_decoded_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilepress.kernels.cuda.panels.BLOCK_VALUES", 16 * 64)
    device, spec, dtype = emulator(is_whole=False), "int:bits=5", torch.float32
    assert dtype in dtypes_of(device, spec, "tiles_decode")
    encoded = encoded_values(spec, (40, 64))
    x, bias = cases.values((9, 64)), cases.values((40,))
    assert cases.excess(matmul(device, x, encoded, bias), x, reference(encoded, dtype), bias, 1e-4) <= 0


def check_many_rows(device: Emulator, spec: str, shapes: tuple[tuple[int, ...], ...], counts: tuple[int, ...]) -> None:
    for dtype in dtypes_of(device, spec, "tiles_multiply_many"):
        for shape in shapes:
            encoded = encoded_values(spec, shape)
            weight, bias = reference(encoded, torch.float32), cases.values((encoded.rows,), dtype, seed=2)
            for count in counts:
                x = cases.values((count, encoded.columns), dtype, seed=count)
                assert cases.excess(matmul(device, x, encoded, bias), x, weight, bias, 1e-4) <= 0, (shape, dtype, count)


@pytest.mark.parametrize("spec", TILE_SPECS)
def test_products_with_many_rows_are_those_of_the_reference(spec: str) -> None:
    check_many_rows(emulator(is_whole=False), spec, ((17, 33), (40, 176)), (9,))


def test_products_with_more_rows_than_a_block_takes() -> None:
    """Of x, of the weight, and columns in more stages than the ring holds, one of them not whole."""
    check_many_rows(emulator(is_whole=False), "int:bits=4", ((150, 370),), (70,))


def test_a_product_with_many_rows_of_a_range_of_rows_whose_columns_are_split() -> None:
    device, spec = emulator(is_whole=False), "int:bits=4"
    for dtype in dtypes_of(device, spec, "tiles_multiply_many"):
        encoded, x = encoded_values(spec, (40, 1030)), cases.values((9, 1030), dtype)
        device.launched.discard(registry.add_splits(dtype))
        for rows in (range(40), range(5, 38)):
            weight = reference(encoded, torch.float32, rows)
            assert cases.excess(matmul(device, x, encoded, rows=rows), x, weight, None, 1e-4) <= 0
        assert registry.add_splits(dtype) in device.launched


def test_shapes_of_x_and_empty_tensors() -> None:
    device, dtype = emulator(is_whole=False), dtypes_of(emulator(is_whole=False), "nf4", "tiles_multiply")[0]
    encoded = encoded_values("nf4", (40, 32))
    assert matmul(device, torch.zeros(2, 3, 32, dtype=dtype), encoded).shape == (2, 3, 40)
    assert matmul(device, torch.zeros(32, dtype=dtype), encoded).shape == (40,)
    assert matmul(device, torch.zeros(0, 32, dtype=dtype), encoded).shape == (0, 40)
    turned = cases.values((32, 3), dtype).T
    assert torch.equal(matmul(device, turned, encoded), matmul(device, turned.contiguous(), encoded))
    nothing = encode(torch.zeros(8, 0), "nf4")
    assert torch.equal(matmul(device, torch.zeros(2, 0, dtype=dtype), nothing), torch.zeros(2, 8, dtype=dtype))
    assert decode(device, nothing, dtype).shape == (8, 0)


@pytest.mark.parametrize("part", ("codes", "scales", "zero_points"))
@pytest.mark.parametrize("change", ("shorter", "longer", "empty", "dtype", "strided", "rank"))
def test_parts_that_do_not_fit_are_refused(part: str, change: str) -> None:
    encoded = encoded_values("int:bits=4,group=32,symmetric=false", (40, 100))
    whole = encoded.parts[part]
    spoilt = {
        "shorter": whole[:, :-1],
        "longer": torch.cat([whole, whole], 1),
        "empty": whole[..., :0],
        "dtype": whole.to(torch.int16),
        "strided": torch.stack([whole, whole], -1)[..., 0],
        "rank": whole.reshape(-1, whole.shape[-1]),
    }[change]
    other = Encoded(encoded.params, encoded.shape, encoded.dtype, {**encoded.parts, part: spoilt})
    with pytest.raises(CodecError):
        decode(emulator(is_whole=False), other, torch.float32)
    with pytest.raises(CodecError):
        matmul(emulator(is_whole=False), torch.zeros(1, 100), other)


@pytest.mark.slow
@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("spec", TILE_SPECS)
def test_every_kernel_gives_the_same_in_every_order_of_threads(spec: str, order: Order) -> None:
    device = emulator(is_whole=True)
    for seed in range(2 if order >= Order.SHUFFLED else 1):
        device.order, device.seed = order, seed
        shapes = SHAPES + MORE_SHAPES if seed == 0 else SHAPES
        check_decoding(device, spec, shapes)
        check_ranges(device, spec)
        check_products(device, spec, shapes, (1, 2, 5, 8))
        if not spec.startswith("nf4"):
            check_every_code(device, spec)
        check_many_rows(device, spec, ((17, 33), (130, 255)), (9, 70) if seed == 0 else (9,))
        split_products(device)


@pytest.mark.slow
def test_every_kernel_can_be_launched() -> None:
    device = emulator(is_whole=True)
    for spec in TILE_SPECS:
        for dtype in DTYPE_LIST:
            decode(device, encoded_values(spec, (17, 33)), dtype)
            for count in (2, 9):
                matmul(device, cases.values((count, 33), dtype), encoded_values(spec, (17, 33)))
    split_products(device)
    assert device.launched == set(ALL)


def test_what_the_emulator_finds_names_the_kernel() -> None:
    device, encoded = emulator(is_whole=False), encoded_values("int:bits=4", (16, 16))
    dtype = dtypes_of(device, "int:bits=4", "tiles_decode")[0]
    kernel = registry.tiles_decode(code_of(encoded)._replace(group=0), dtype)
    codes = torch.zeros(1025, dtype=torch.uint8)[1:]
    arguments = [tiles.Pointer(codes), *[tiles.Pointer(codes)] * 4, *[tiles.Int(1)] * 3, *[tiles.Int(0)] * 5]
    with pytest.raises(LaunchError, match=r"tiles_decode<Integer<4>.*multiple of 16"):
        device.launch(kernel, (1, 1), arguments)
