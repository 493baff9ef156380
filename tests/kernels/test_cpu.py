"""The native kernels against the reference, for every instruction set that this machine can run."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tilepress.compress.codecs import encode
from tilepress.kernels import Encoded, backend_of, decode, matmul

native = importlib.import_module("tilepress.kernels._native")
panels = importlib.import_module("tilepress.kernels.cpu.panels")
active = importlib.import_module("tilepress.kernels.cpu.instruction_set").instruction_set

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SPECS = (
    *(f"int:bits={bits},group=64" for bits in range(2, 9)),
    "int:bits=4,group=0",
    "int:bits=4,group=32,symmetric=false",
    "int:bits=8,group=16,symmetric=false",
    "int:bits=3,group=48,symmetric=false",
    "nf4",
    "nf4:group=16",
    "fp8",
    "fp8:group=64",
    "fp8:format=e5m2,group=32",
    "mxfp4",
    "nvfp4",
)
SHAPES = ((1, 1), (1, 576), (40, 1), (16, 16), (17, 33), (101, 103), (48, 1536), (3, 20, 24), (211, 257))


@pytest.fixture(params=native.instruction_sets(), autouse=True)
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TILEPRESS_CPU", request.param)
    active.cache_clear()
    yield request.param
    active.cache_clear()


def values(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul_(0.05).to(dtype)


def reference(encoded: Encoded, dtype: torch.dtype) -> torch.Tensor:
    module = importlib.import_module(f"tilepress.kernels.reference.{encoded.codec}")
    dense: torch.Tensor = module.decode(encoded, range(encoded.rows), range(encoded.columns))
    return dense.to(dtype)


def hostile(encoded: Encoded, seed: int) -> Encoded:
    """The same parameters over random bytes: NaN, infinite, subnormal and negative scales, codes in the padding."""
    generator = torch.Generator().manual_seed(seed)
    parts = {
        name: torch.randint(0, 256, (part.nbytes,), dtype=torch.uint8, generator=generator)
        .view(part.dtype)
        .view(part.shape)
        for name, part in encoded.parts.items()
    }
    return Encoded(encoded.params, encoded.shape, encoded.dtype, parts)


def assert_same_bits(found: torch.Tensor, wanted: torch.Tensor) -> None:
    integers = torch.int32 if wanted.dtype == torch.float32 else torch.int16
    same = found.contiguous().view(integers) == wanted.contiguous().view(integers)
    assert found.dtype == wanted.dtype
    assert bool((same | (found.isnan() & wanted.isnan())).all())


def assert_close(
    found: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, before: float = 1e-4
) -> None:
    """`found` is x @ weight.T + bias up to one rounding, and before it float32's, or 16 bits of a half-precision x."""
    wanted = x.double() @ weight.double().T
    steps = x.double().abs() @ weight.double().abs().T
    if bias is not None:
        wanted, steps = wanted + bias.double(), steps + bias.double().abs()
    before = 2e-6 if x.dtype == torch.float32 else before
    assert found.dtype == x.dtype
    allowed = wanted.abs() * torch.finfo(x.dtype).eps + steps * before + torch.finfo(x.dtype).tiny
    assert bool(((found.double() - wanted).abs() <= allowed).all())


@pytest.mark.parametrize("spec", SPECS)
def test_decoding_is_bit_identical_with_the_reference(spec: str) -> None:
    assert backend_of(spec.split(":")[0], "cpu").name == "cpu"
    for shape in SHAPES:
        encoded = encode(values(shape), spec)
        for dtype in DTYPES:
            assert_same_bits(decode(encoded, dtype=dtype).view(-1), reference(encoded, dtype).view(-1))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_parts_decode_as_the_reference_decodes_them(spec: str, dtype: torch.dtype) -> None:
    encoded = encode(values((37, 100)), spec)
    for seed in range(4):
        spoilt = hostile(encoded, seed)
        assert_same_bits(decode(spoilt, dtype=dtype), reference(spoilt, dtype))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_range_decodes_alone(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 700))
    encoded = encode(values((rows, columns)), data.draw(st.sampled_from(SPECS)))
    dtype = data.draw(st.sampled_from(DTYPES))
    first, last = sorted((data.draw(st.integers(0, rows)), data.draw(st.integers(0, rows))))
    left, right = sorted((data.draw(st.integers(0, columns)), data.draw(st.integers(0, columns))))
    piece = decode(encoded, slice(first, last), slice(left, right), dtype)
    assert_same_bits(piece, reference(encoded, dtype)[first:last, left:right])


def test_a_result_larger_than_the_caches_is_the_same() -> None:
    encoded = encode(values((4100, 2080), seed=5), "nf4")
    assert_same_bits(decode(encoded, dtype=torch.bfloat16), reference(encoded, torch.bfloat16))
    narrow = decode(encoded, columns=slice(8, 2071), dtype=torch.float32)
    assert_same_bits(narrow, reference(encoded, torch.float32)[:, 8:2071])


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_of_few_and_many_rows(spec: str, dtype: torch.dtype) -> None:
    for shape in ((17, 33), (33, 320)):
        encoded = encode(values(shape), spec)
        bias = values(shape[:1], dtype, seed=2)
        for count in (1, 3, 8, 9):
            x = values((count, shape[1]), dtype, seed=count)
            # Of many rows, the weight is rounded first.
            weight = reference(encoded, panels.dtype_of_many(dtype) if count > native.MOST_VECTORS else torch.float32)
            assert_close(matmul(x, encoded), x, weight)
            assert_close(matmul(x, encoded, bias), x, weight, bias)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_range_of_rows_multiplies_alone(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 300))
    encoded = encode(values((rows, columns)), data.draw(st.sampled_from(SPECS)))
    x = values((data.draw(st.integers(0, 5)), columns), data.draw(st.sampled_from(DTYPES)), seed=1)
    first, last = sorted((data.draw(st.integers(0, rows)), data.draw(st.integers(0, rows))))
    bias = values((rows,), x.dtype, seed=2)
    found = matmul(x, encoded, bias[first:last], slice(first, last))
    assert torch.equal(found, matmul(x, encoded, bias)[:, first:last])


@pytest.mark.parametrize(
    "spec", ("int:bits=4", "int:bits=8,symmetric=false", "nf4", "fp8", "fp8:format=e5m2", "mxfp4", "nvfp4")
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_outliers_in_x_do_not_drown_other_groups(spec: str, dtype: torch.dtype) -> None:
    x = values((1, 256), dtype, seed=3)
    x[0, 5] = 3000.0
    # Where a row's weight for the outlier is 0, what the others give is all that there is.
    weight = values((32, 256))
    weight[::2, 5] = 0
    encoded = encode(weight, spec)
    others = x.clone()
    others[0, :128] = 0
    weight = reference(encoded, torch.float32)
    is_zero = weight[:, 5] == 0
    assert_close(matmul(x, encoded)[:, is_zero], x, weight[is_zero], before=1e-3)
    assert_close(matmul(x, encoded)[:, ~is_zero], x, weight[~is_zero])
    assert_close(matmul(others, encoded), others, weight)


@pytest.mark.parametrize("spec", SPECS)
def test_rows_of_x_with_blocks_of_every_make_multiply_together(spec: str) -> None:
    """Ordinary columns, zeros, outliers of one row only, and a last tile that is not full, for 1 to 8 rows of x."""
    x = values((8, 300), torch.bfloat16, seed=4)
    x[:, 128:192] = 0
    x[1::3, 200] = 500.0
    x[2] = 0
    encoded = encode(values((19, 300)), spec)
    weight = reference(encoded, torch.float32)
    for count in range(1, 9):
        found = matmul(x[:count], encoded)
        assert_close(found, x[:count], weight)
        assert torch.equal(found[2:3], torch.zeros_like(found[2:3]))


@pytest.mark.parametrize("count", (1, 3))
def test_products_of_codes_that_are_not_numbers(count: int) -> None:
    for spec in ("fp8", "fp8:format=e5m2"):
        encoded = encode(values((48, 64)), spec)
        encoded.parts["codes"][1, 2, 37] = 0x7F
        x = values((count, 64), torch.bfloat16)
        wanted = x.float() @ reference(encoded, torch.float32).T
        found = matmul(x, encoded)
        assert int(found.isnan().sum()) == count
        assert torch.equal(found.isnan(), wanted.isnan())
        numbers = ~wanted[0].isnan()
        assert_close(found[:, numbers], x, reference(encoded, torch.float32)[numbers])


@pytest.mark.parametrize("spec", ("int:bits=4", "int:bits=5,symmetric=false", "nf4", "fp8", "mxfp4", "nvfp4"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("extreme", (float("nan"), float("inf"), float("-inf"), 1e-41, 6e-8))
def test_extreme_values_in_x_go_through(spec: str, dtype: torch.dtype, extreme: float) -> None:
    encoded = encode(values((32, 64)).abs().add_(0.01), spec)
    x = torch.zeros(1, 64, dtype=dtype)
    x[0, 40] = extreme
    found, wanted = matmul(x, encoded), x.float() @ reference(encoded, torch.float32).T
    if extreme in (1e-41, 6e-8):
        assert_close(found, x, reference(encoded, torch.float32))
    else:
        assert torch.equal(found.isnan(), wanted.isnan())
        assert torch.equal(found.isinf(), wanted.to(dtype).isinf())
