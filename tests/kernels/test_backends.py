"""The native backend of every codec in the registry against its reference, on every instruction set of the machine.

Decoding gives the same bits, products agree within rounding, encoders write the same parts, threads change nothing, and
parts that no encoder wrote give some values or a `CodecError`. What only one codec promises is tested beside it.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tilepress.compress.codecs import encode
from tilepress.kernels import CODECS, DTYPES, CodecError, Encoded, backend_of, decode, matmul, parse_spec
from tilepress.kernels.cpu.instruction_set import instruction_set as active

from .specs import MORE_SPECS_OF, ROTATING, SPECS_OF

native = pytest.importorskip("tilepress.kernels._native")

CODECS_IN_MAIN_MEMORY = [codec for codec in CODECS if backend_of(codec, "cpu").name == "cpu"]
SPECS = [spec for codec in CODECS_IN_MAIN_MEMORY for spec in SPECS_OF.get(codec, ())]
MORE_SPECS = SPECS + [spec for codec in CODECS_IN_MAIN_MEMORY for spec in MORE_SPECS_OF.get(codec, ())]
DTYPE_LIST = tuple(DTYPES.values())
SHAPES = ((1, 1), (1, 40), (40, 1), (16, 16), (17, 33), (31, 101), (48, 576), (3, 5, 24), (50,), (), (0, 8), (8, 0))
MORE_SHAPES = (
    *((1, 49152), (49152, 1), (49152, 3), (3, 49152), (16, 1536), (1536, 16), (576, 1536), (1536, 576)),
    *((1009, 127), (127, 1009), (2, 3, 5, 7), (211, 257), (15, 4097)),
)
Outcome = torch.Tensor | str


@pytest.fixture(params=native.instruction_sets(), autouse=True)
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TILEPRESS_CPU", request.param)
    active.cache_clear()
    yield request.param
    active.cache_clear()


def values(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul_(0.05).to(dtype)


@cache
def encoded_values(spec: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Encoded:
    """The parts don't depend on the instruction set, see below; so they need be made only once."""
    return encode(values(shape, dtype), spec)


def reference(
    encoded: Encoded, dtype: torch.dtype, rows: range | None = None, columns: range | None = None
) -> torch.Tensor:
    rows = range(encoded.rows) if rows is None else rows
    columns = range(encoded.columns) if columns is None else columns
    if not rows or not columns:
        return torch.empty(len(rows), len(columns), dtype=dtype)
    dense: torch.Tensor = importlib.import_module(f"tilepress.kernels.reference.{encoded.codec}").decode(
        encoded, rows, columns
    )
    return dense.to(dtype)


def are_same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Equal bit for bit, where any NaN is as good as another."""
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return False
    integers = torch.int32 if wanted.dtype == torch.float32 else torch.int16
    same = found.contiguous().view(integers) == wanted.contiguous().view(integers)
    return bool((same | (found.isnan() & wanted.isnan())).all())


def assert_close(
    found: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, rotates: bool = False
) -> None:
    """`found` is x @ weight.T + bias up to one rounding, and before it float32's, or 16 bits of a half-precision x.

    Where x is rotated, what it is rounded to then counts relative to the norms of x and of the largest row, among which
    rotation spreads errors: 16 bits of few rows in half precision, their dtype of many.
    """
    wanted = x.double() @ weight.double().T
    steps = x.double().abs() @ weight.double().abs().T
    before = 2e-6 if x.dtype == torch.float32 else 1e-4
    if rotates:
        steps = x.double().norm(dim=-1, keepdim=True) * weight.double().norm(dim=-1).max()
        is_rounded = len(x) > native.MOST_VECTORS
        of_few = 2e-6 if x.dtype == torch.float32 else 2e-5
        before = max(2e-6, torch.finfo(x.dtype).eps / 2) if is_rounded else of_few
    if bias is not None:
        wanted, steps = wanted + bias.double(), steps + bias.double().abs()
    # A sum with the bias that is apart from the product rounds the product too.
    rounding = torch.finfo(x.dtype).eps * (wanted.abs() if bias is None else wanted.abs() + bias.double().abs())
    assert found.dtype == x.dtype
    assert bool(((found.double() - wanted).abs() <= rounding + steps * before + torch.finfo(x.dtype).tiny).all())


def with_bytes(encoded: Encoded, bytes_of_parts: dict[str, torch.Tensor]) -> Encoded:
    """The same tensor with other bytes in its parts, each in memory of its own."""
    parts = {
        name: bytes_of_parts[name].clone().view(part.dtype).view(part.shape) for name, part in encoded.parts.items()
    }
    return Encoded(encoded.params, encoded.shape, encoded.dtype, parts)


def bytes_of(part: torch.Tensor) -> torch.Tensor:
    return part.reshape(-1).view(torch.uint8)


def random_bytes(encoded: Encoded, seed: int, keep: tuple[str, ...] = ()) -> Encoded:
    generator = torch.Generator().manual_seed(seed)
    return with_bytes(
        encoded,
        {
            name: bytes_of(part)
            if name in keep
            else torch.randint(0, 256, (part.nbytes,), dtype=torch.uint8, generator=generator)
            for name, part in encoded.parts.items()
        },
    )


def flipped_bits(encoded: Encoded, seed: int, count: int = 3) -> Encoded:
    """A few bits flipped anywhere in the parts, small parts as likely as large ones."""
    generator = torch.Generator().manual_seed(seed)

    def below(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    flat = {name: bytes_of(part).clone() for name, part in encoded.parts.items()}
    names = [name for name, part in flat.items() if part.numel()]
    for _ in range(count if names else 0):
        part = flat[names[below(len(names))]]
        part[below(part.numel())] ^= 1 << below(8)
    return with_bytes(encoded, flat)


def outcome(encoded: Encoded, dtype: torch.dtype) -> Outcome:
    """What decoding gives: values, or the sentence that refuses the parts. Anything else fails the test."""
    try:
        found = decode(encoded, dtype=dtype)
    except CodecError as error:
        assert str(error)
        return str(error)
    assert (tuple(found.shape), found.dtype) == (encoded.shape, dtype)
    return found


def assert_hostile_parts_are_harmless(encoded: Encoded, dtype: torch.dtype) -> None:
    """Values or a `CodecError`; the same for ranges and products; and no bit that the reference wouldn't give."""
    found = outcome(encoded, dtype)
    for piece in (slice(0, 16), slice(encoded.rows // 2, None)):
        try:
            part = decode(encoded, piece, slice(3, None), dtype)
        except CodecError as error:
            assert str(error)
            assert isinstance(found, str), "what decodes as a whole decodes in pieces"
        else:
            if not isinstance(found, str):
                assert are_same(part, found.view(encoded.rows, encoded.columns)[piece, 3:])
    try:
        matmul(torch.ones(1, encoded.columns), encoded)
    except CodecError as error:
        assert str(error)
    if isinstance(found, str):
        return
    try:
        encoded.params.check_parts(encoded.shape, encoded.dtype, encoded.parts)
        wanted = reference(encoded, dtype).view(encoded.shape)
    except CodecError:
        return
    assert are_same(found, wanted)


def test_every_native_codec_is_tested() -> None:
    missing = [codec for codec in CODECS_IN_MAIN_MEMORY if not SPECS_OF.get(codec)]
    assert not missing, f"tests/kernels/specs.py has no specs of {', '.join(missing)}"


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", DTYPE_LIST, ids=str)
def test_decoding_is_bit_identical_with_the_reference(spec: str, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        encoded = encoded_values(spec, shape, dtype)
        for wanted in DTYPE_LIST:
            found = decode(encoded, dtype=wanted)
            assert are_same(found, reference(encoded, wanted).view(shape)), (shape, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("spec", MORE_SPECS)
@pytest.mark.parametrize("shape", MORE_SHAPES, ids=str)
def test_large_and_odd_shapes_decode_as_the_reference_does(spec: str, shape: tuple[int, ...]) -> None:
    for dtype in DTYPE_LIST:
        encoded = encoded_values.__wrapped__(spec, shape, dtype)
        assert are_same(decode(encoded), reference(encoded, dtype).view(shape))
        assert are_same(decode(encoded, dtype=torch.float32), reference(encoded, torch.float32).view(shape))


def check_range(data: st.DataObject, specs: list[str], most_rows: int, most_columns: int) -> None:
    shape = data.draw(st.integers(1, most_rows)), data.draw(st.integers(1, most_columns))
    encoded = encode(values(shape, data.draw(st.sampled_from(DTYPE_LIST))), data.draw(st.sampled_from(specs)))
    first, last = sorted((data.draw(st.integers(0, shape[0])), data.draw(st.integers(0, shape[0]))))
    left, right = sorted((data.draw(st.integers(0, shape[1])), data.draw(st.integers(0, shape[1]))))
    dtype = data.draw(st.sampled_from(DTYPE_LIST))
    found = decode(encoded, slice(first, last), slice(left, right), dtype)
    assert are_same(found, reference(encoded, dtype, range(first, last), range(left, right)))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_range_decodes_alone(data: st.DataObject) -> None:
    check_range(data, SPECS, 70, 300)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(data=st.data())
def test_every_range_of_larger_tensors_decodes_alone(data: st.DataObject) -> None:
    check_range(data, MORE_SPECS, 300, 1600)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", DTYPE_LIST, ids=str)
def test_products_are_those_of_the_reference(spec: str, dtype: torch.dtype) -> None:
    rotates = spec.split(":")[0] in ROTATING
    for shape in ((17, 33), (1, 576), (40, 1), (33, 320)):
        encoded = encoded_values(spec, shape)
        bias = values(shape[:1], dtype, seed=2)
        for count in (1, 3, 8, 9, 20):
            x = values((count, shape[1]), dtype, seed=count)
            found, with_bias = matmul(x, encoded), matmul(x, encoded, bias)
            # A kernel may round the weight to the dtype of x before it multiplies, or not.
            weights = [reference(encoded, torch.float32), reference(encoded, dtype)]
            assert any(
                is_close(found, x, weight, None, rotates) and is_close(with_bias, x, weight, bias, rotates)
                for weight in weights
            )
    first, last = 5, 30
    assert torch.equal(matmul(x, encoded, rows=slice(first, last)), found[:, first:last])


def is_close(
    found: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, rotates: bool
) -> bool:
    try:
        assert_close(found, x, weight, bias, rotates)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("spec", SPECS)
def test_encoders_write_the_same_parts_on_every_instruction_set(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for shape, dtype in (((37, 100), torch.bfloat16), ((1, 577), torch.float32), ((40, 3), torch.float16)):
        found = encode(values(shape, dtype), spec)
        with monkeypatch.context() as portable:
            portable.setenv("TILEPRESS_CPU", "portable")
            active.cache_clear()
            wanted = encode(values(shape, dtype), spec)
        active.cache_clear()
        assert found.params == wanted.params
        for name, part in wanted.parts.items():
            assert torch.equal(bytes_of(found.parts[name]), bytes_of(part)), name


def encoded_and_decoded(spec: str, weight: torch.Tensor, x: torch.Tensor) -> list[torch.Tensor]:
    encoded = encode(weight, spec)
    return [*map(bytes_of, encoded.parts.values()), decode(encoded), matmul(x, encoded), matmul(x[:1], encoded)]


@pytest.mark.parametrize("spec", SPECS)
def test_threads_change_nothing(spec: str) -> None:
    """As many pieces as keep several threads busy; and two Python threads at once, since the lock is released."""
    weight, x = values((400, 612)), values((12, 612), torch.bfloat16)
    wanted = encoded_and_decoded(spec, weight, x)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = [encoded_and_decoded(spec, weight, x)]
        with ThreadPoolExecutor(2) as pool:
            found += pool.map(lambda _: encoded_and_decoded(spec, weight, x), range(2))
    finally:
        torch.set_num_threads(before)
    for results in found:
        assert all(torch.equal(a, b) for a, b in zip(results, wanted, strict=True))


@pytest.mark.parametrize("spec", SPECS)
def test_random_bytes_in_the_parts_are_harmless(spec: str) -> None:
    for seed, dtype in enumerate(DTYPE_LIST * 2):
        encoded = encoded_values(spec, (37, 100), dtype)
        for keep in ((), ("offsets",)):
            assert_hostile_parts_are_harmless(random_bytes(encoded, seed, keep), dtype)


@pytest.mark.parametrize("spec", SPECS)
def test_flipped_bits_in_the_parts_are_harmless(spec: str) -> None:
    for seed in range(12):
        encoded = encoded_values(spec, ((37, 100), (1, 70), (48, 5))[seed % 3], DTYPE_LIST[seed % 2])
        assert_hostile_parts_are_harmless(flipped_bits(encoded, seed), encoded.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("spec", MORE_SPECS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_hostile_parts_of_any_shape_are_harmless(spec: str, data: st.DataObject) -> None:
    shape = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 120))
    encoded = encode(values(shape, data.draw(st.sampled_from(DTYPE_LIST))), spec)
    seed = data.draw(st.integers(0, 2**31))
    spoilt = data.draw(
        st.sampled_from(
            (
                random_bytes(encoded, seed),
                random_bytes(encoded, seed, ("offsets",)),
                flipped_bits(encoded, seed, 1),
                flipped_bits(encoded, seed, 30),
            )
        )
    )
    assert_hostile_parts_are_harmless(spoilt, data.draw(st.sampled_from(DTYPE_LIST)))


@pytest.mark.parametrize("change", ("shorter", "longer", "empty", "dtype", "strided", "rank"))
@pytest.mark.parametrize("spec", SPECS)
def test_parts_that_do_not_fit_are_harmless(spec: str, change: str) -> None:
    """Readers refuse them before; a caller who puts them together by hand gets an error with a name, or values."""
    encoded = encoded_values(spec, (37, 100))
    for name, part in encoded.parts.items():
        spoilt = {
            "shorter": part[: len(part) // 2],
            "longer": torch.cat([part, part]),
            "empty": part[:0],
            "dtype": part.to(torch.int16),
            "strided": torch.stack([part, part], -1)[..., 0],
            "rank": part[None],
        }[change]
        outcome(Encoded(encoded.params, encoded.shape, encoded.dtype, {**encoded.parts, name: spoilt}), torch.float32)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_parts_of_another_shape_are_harmless(data: st.DataObject) -> None:
    encoded = encoded_values(data.draw(st.sampled_from(SPECS)), (37, 100))
    shape = tuple(data.draw(st.lists(st.integers(0, 130), min_size=1, max_size=3)))
    assume(math.prod(shape) < 100_000)
    params = data.draw(st.sampled_from([parse_spec(spec) for spec in SPECS_OF[encoded.codec]]))
    outcome(Encoded(params, shape, data.draw(st.sampled_from(DTYPE_LIST)), encoded.parts), torch.float32)
