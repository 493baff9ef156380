"""`sz`: the bound, that all kernels decode alike, and what becomes of damaged parts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tilepress.compress.codecs import encode
from tilepress.kernels import CodecError, Encoded, backend_of, decode, matmul
from tilepress.kernels import _native as native
from tilepress.kernels.cpu.instruction_set import instruction_set as active
from tilepress.kernels.reference import sz as reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PREDICTORS = ("none", "lorenzo1", "lorenzo2")
SHAPES = (
    (1, 1),
    (1, 576),
    (40, 1),
    (16, 16),
    (17, 33),
    (101, 103),
    (48, 1536),
    (33, 2100),
    (3, 20, 24),
    (0, 8),
    (8, 0),
)


@pytest.fixture(params=native.instruction_sets(), autouse=True)
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TILEPRESS_CPU", request.param)
    active.cache_clear()
    yield request.param
    active.cache_clear()


def values(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul_(0.05).to(dtype)


def bits_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


def assert_same_bits(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    assert torch.equal(bits_of(found), bits_of(wanted))


def defined(encoded: Encoded) -> torch.Tensor:
    return reference.decode(encoded, range(encoded.rows), range(encoded.columns))


def assert_within(weight: torch.Tensor, encoded: Encoded, bound: float) -> None:
    found = decode(encoded)
    is_finite = torch.isfinite(weight)
    error = (found.double() - weight.double()).abs()[is_finite]
    assert bool((error <= bound).all())
    assert torch.equal(bits_of(found[~is_finite]), bits_of(weight[~is_finite]))
    in_float32 = (decode(encoded, dtype=torch.float32).double() - weight.double()).abs()[is_finite]
    assert bool((in_float32 <= bound).all())


def any_bits(dtype: torch.dtype, words: list[int]) -> torch.Tensor:
    """Values of these bits: huge, tiny and subnormal ones, NaN and infinities."""
    integers = torch.int32 if dtype == torch.float32 else torch.int16
    width = 8 * dtype.itemsize
    return torch.tensor([(word % 2**width) - 2 ** (width - 1) for word in words], dtype=integers).view(dtype)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_the_bound_holds_for_any_bits(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    weight = any_bits(dtype, data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=120)))
    columns = data.draw(st.sampled_from([side for side in (1, 2, 3, 5, 7) if weight.numel() % side == 0]))
    bound = data.draw(st.one_of(st.floats(1e-320, 1e308), st.sampled_from((1e-3, 2.0**-10, 2.0**-149, 1.0))))
    predictor = data.draw(st.sampled_from(PREDICTORS))
    weight = weight.view(-1, columns)
    assert_within(weight, encode(weight, f"sz:abs={bound!r},predictor={predictor}"), bound)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_bound_holds_near_the_bound(data: st.DataObject) -> None:
    dtype, predictor = data.draw(st.sampled_from(DTYPES)), data.draw(st.sampled_from(PREDICTORS))
    bound = data.draw(st.sampled_from((1e-3, 2.0**-10, 0.1, 3e-5)))
    steps = data.draw(st.lists(st.integers(-5000, 5000), min_size=1, max_size=100))
    nudge = data.draw(st.floats(-1e-6, 1e-6))
    weight = (torch.tensor(steps, dtype=torch.float64) * bound * (1 + nudge)).to(dtype).view(1, -1)
    assert_within(weight, encode(weight, f"sz:abs={bound!r},predictor={predictor}"), bound)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_relative_bound_is_of_the_range_of_finite_values(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    weight = any_bits(dtype, data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=60))).view(1, -1)
    rel = data.draw(st.floats(1e-6, 10))
    finite = weight[torch.isfinite(weight)].double()
    bound = rel * float(finite.max() - finite.min()) if finite.numel() else 0.0
    assert_within(weight, encode(weight, f"sz:rel={rel!r}"), bound)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_decoding_is_bit_identical_with_the_reference(predictor: str, dtype: torch.dtype) -> None:
    assert backend_of("sz", "cpu").name == "cpu"
    for shape, bound in itertools.product(SHAPES, (1e-3, 1e-6)):
        weight = values(shape, dtype)
        encoded = encode(weight, f"sz:abs={bound},predictor={predictor}")
        assert_within(weight, encoded, bound)
        if weight.numel():
            dense = defined(encoded)
            for wanted in DTYPES:
                assert_same_bits(decode(encoded, dtype=wanted).view(dense.shape), dense.to(wanted))


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_every_range_decodes_alone(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 2500))
    predictor = data.draw(st.sampled_from(PREDICTORS))
    encoded = encode(values((rows, columns), data.draw(st.sampled_from(DTYPES))), f"sz:abs=1e-3,predictor={predictor}")
    dtype = data.draw(st.sampled_from(DTYPES))
    first, last = sorted((data.draw(st.integers(0, rows)), data.draw(st.integers(0, rows))))
    left, right = sorted((data.draw(st.integers(0, columns)), data.draw(st.integers(0, columns))))
    piece = decode(encoded, slice(first, last), slice(left, right), dtype)
    assert_same_bits(piece, decode(encoded, dtype=dtype)[first:last, left:right])
    if piece.numel():
        assert_same_bits(piece, reference.decode(encoded, range(first, last), range(left, right)).to(dtype))


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_products_are_those_of_the_decoded_weight(predictor: str) -> None:
    encoded = encode(values((70, 2100), torch.bfloat16), f"sz:abs=1e-3,predictor={predictor}")
    weight = decode(encoded, dtype=torch.float32)
    for count, dtype in itertools.product((1, 3, 8, 20), DTYPES):
        x, bias = values((count, 2100), dtype, seed=1), values((70,), dtype, seed=2)
        wanted = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
        allowed = 4 * torch.finfo(dtype).eps * float(wanted.abs().max()) + 1e-6
        assert (matmul(x, encoded, bias).double() - wanted).abs().max() <= allowed
        assert (
            matmul(x, encoded, rows=slice(18, 35)).double() - wanted[:, 18:35] + bias[18:35].double()
        ).abs().max() <= (allowed)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    weight = values((300, 600))
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        encoded = encode(weight, "sz:abs=1e-3")
        found.append([*encoded.parts.values(), decode(encoded), matmul(weight[:2], encoded)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set_writes_the_same_bytes(
    dtype: torch.dtype, predictor: str, instruction_set: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = values((40, 2100), dtype)
    weight[7, 3:9], weight[20, 100:140] = 1e4, float("inf")
    for bound in (1e-3, 1e-6, 0.03):
        here = encode(weight, f"sz:abs={bound},predictor={predictor}")
        monkeypatch.setenv("TILEPRESS_CPU", "portable")
        active.cache_clear()
        portable = encode(weight, here.params)
        monkeypatch.setenv("TILEPRESS_CPU", instruction_set)
        active.cache_clear()
        assert all(torch.equal(part, portable.parts[name]) for name, part in here.parts.items())


def test_nan_and_infinities_keep_their_bits() -> None:
    weight = any_bits(torch.bfloat16, [0x7FC1, 0xFF81, 0x7F80, 0xFF80, 0x3F80, 0x8000]).view(1, -1)
    assert not bool(torch.isfinite(weight).all())
    assert_within(weight, encode(weight, "sz:abs=1e-3"), 1e-3)


def test_a_predictor_helps_where_neighbours_are_alike() -> None:
    rows, columns = torch.meshgrid(torch.linspace(0, 3, 64), torch.linspace(0, 5, 512), indexing="ij")
    smooth = torch.sin(rows) * torch.cos(columns)
    sizes = [encode(smooth, f"sz:abs=1e-4,predictor={predictor}").size_bytes for predictor in PREDICTORS]
    assert sizes[1] < 0.7 * sizes[0]
    assert sizes[2] < sizes[1]


def test_the_size_is_near_the_entropy_of_the_integers() -> None:
    weight = values((512, 576))
    _, counts = torch.unique(torch.round(weight / 2e-3), return_counts=True)
    entropy = -(counts / counts.sum()).log2().mul(counts / counts.sum()).sum().item()
    assert encode(weight, "sz:abs=1e-3").bits_per_weight < 1.02 * entropy


def with_parts(encoded: Encoded, **parts: torch.Tensor) -> Encoded:
    return Encoded(encoded.params, encoded.shape, encoded.dtype, {**encoded.parts, **parts})


def outcome(encoded: Encoded) -> torch.Tensor | None:
    try:
        return decode(encoded)
    except CodecError as problem:
        assert "codec sz" in str(problem)
        return None


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_damaged_parts_decode_as_the_reference_says_or_are_refused(data: st.DataObject) -> None:
    predictor, bound = data.draw(st.sampled_from(PREDICTORS)), data.draw(st.sampled_from((1e-3, 1e-6, 0.1)))
    dtype = data.draw(st.sampled_from(DTYPES))
    encoded = encode(values((19, 130), dtype), f"sz:abs={bound},predictor={predictor}")
    part = data.draw(st.sampled_from(("payload", "table")))
    spoilt = encoded.parts[part].clone()
    places = st.integers(0, min(spoilt.numel() - 1, data.draw(st.sampled_from((8, 10**6)))))
    for _ in range(data.draw(st.integers(1, 4))):
        spoilt[data.draw(places)] = data.draw(st.integers(0, 255))
    damaged = with_parts(encoded, **{part: spoilt})
    found = outcome(damaged)
    try:
        wanted = defined(damaged)
    except CodecError:
        assert found is None
    else:
        assert found is not None
        assert_same_bits(found, wanted)


@pytest.mark.parametrize("seed", range(12))
def test_random_bytes_decode_or_are_refused(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    encoded = encode(values((40, 2100)), "sz:abs=1e-3,predictor=lorenzo2")
    payload = torch.randint(0, 256, encoded.parts["payload"].shape, dtype=torch.uint8, generator=generator)
    outcome(with_parts(encoded, payload=payload))
    offsets = torch.randint(-(2**62), 2**62, encoded.parts["offsets"].shape, generator=generator)
    assert outcome(with_parts(encoded, offsets=offsets)) is None


@pytest.mark.parametrize("change", ("step", "shift", "frequencies"))
def test_a_table_that_makes_no_sense_is_refused(change: str) -> None:
    encoded = encode(values((20, 40)), "sz:abs=1e-3")
    table = encoded.parts["table"].clone()
    if change == "step":
        table[:4] = torch.tensor([float("nan")]).view(torch.uint8)
    elif change == "shift":
        table[4] = 17
    else:
        table[-1] += 1
    damaged = with_parts(encoded, table=table)
    with pytest.raises(CodecError, match="table is damaged"):
        damaged.params.check_parts(damaged.shape, damaged.dtype, damaged.parts)
    with pytest.raises(CodecError, match="table is damaged"):
        decode(damaged)


@pytest.mark.parametrize("part", ("payload", "offsets", "table"))
def test_parts_that_do_not_fit_are_refused(part: str) -> None:
    encoded = encode(values((40, 100)), "sz:abs=1e-3")
    for spoilt in (encoded.parts[part][:-8], encoded.parts[part][:0], encoded.parts[part].to(torch.int16)):
        if part == "payload" and spoilt.numel() == encoded.parts[part].numel() - 8 and spoilt.dtype == torch.uint8:
            continue  # may be the zeros at its end
        if part == "offsets" and spoilt.numel() >= 4:
            continue
        with pytest.raises(CodecError):
            decode(with_parts(encoded, **{part: spoilt}))
        with pytest.raises(CodecError):
            matmul(torch.zeros(1, 100), with_parts(encoded, **{part: spoilt}))


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("sz", "exactly one of abs and rel"),
        ("sz:abs=1,rel=1", "exactly one of abs and rel"),
        ("sz:abs=0", "not a positive number"),
        ("sz:rel=nan", "not a positive number"),
        ("sz:abs=1,predictor=cubic", "predictor=cubic is not one of"),
    ],
)
def test_a_spec_that_makes_no_sense_is_explained(spec: str, sentence: str) -> None:
    with pytest.raises(CodecError, match=sentence):
        encode(values((2, 2)), spec)


def test_operators_pass_opcheck() -> None:
    encoded = encode(values((40, 48)), "sz:abs=1e-3")
    parts, constants = encoded.parts.values(), ("none", torch.float32, 40)
    ranges = 48, 3, 37, 5, 40, torch.bfloat16
    torch.library.opcheck(torch.ops.tilepress.sz_decode.default, (*parts, *constants, *ranges))
    for x in (torch.randn(2, 1, 48), torch.randn(20, 48).bfloat16()):
        bias = torch.randn(40, dtype=x.dtype)
        torch.library.opcheck(torch.ops.tilepress.sz_matmul.default, (x, *parts, bias, *constants, 0, 40))
