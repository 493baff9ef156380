"""What every codec promises, and what decoding of any range gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import zfpy
from hypothesis import given, settings
from hypothesis import strategies as st

from tilepress.compress.codecs import encode
from tilepress.kernels import CODECS, CodecError, Encoded, decode, matmul, parse_spec
from tilepress.kernels.reference.zfp import mode_of

from .specs import SPECS, SPECS_OF

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = ((1, 1), (1, 40), (40, 1), (16, 16), (17, 33), (48, 80), (101, 103), (3, 20, 24), (50,), (), (0, 8), (8, 0))


def values(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul_(0.05).to(dtype)


def bits_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_shape_comes_back_in_its_shape_and_dtype(spec: str, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        weight = values(shape, dtype)
        before = weight.clone()
        encoded = encode(weight, spec)
        dense = decode(encoded)
        assert (dense.shape, dense.dtype) == (weight.shape, dtype)
        assert torch.equal(weight, before), "encoding must not change its input"
        assert decode(encoded, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parts_are_what_the_layout_says(spec: str, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        encoded = encode(values(shape, dtype), spec)
        specs = encoded.params.part_specs(encoded.shape, encoded.dtype)
        assert list(encoded.parts) == list(specs)
        for name, part in encoded.parts.items():
            assert part.dtype == specs[name].dtype
            if specs[name].exact:
                assert tuple(part.shape) == specs[name].shape
            else:
                assert part.numel() <= specs[name].shape[0]
        encoded.params.check_parts(encoded.shape, encoded.dtype, encoded.parts)


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_range_decodes_alone(spec: str, data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 90))
    encoded = encode(values((rows, columns), data.draw(st.sampled_from(DTYPES))), spec)
    dense = decode(encoded)
    first, last = sorted((data.draw(st.integers(0, rows)), data.draw(st.integers(0, rows))))
    left, right = sorted((data.draw(st.integers(0, columns)), data.draw(st.integers(0, columns))))
    piece = decode(encoded, slice(first, last), slice(left, right))
    assert torch.equal(piece, dense[first:last, left:right])


@pytest.mark.parametrize(
    "spec", ("int:bits=4", "nf4", "fp8", "mxfp4", "nvfp4", "zfp:rate=8", "zfp:tolerance=0.01", "lossless")
)
def test_a_range_needs_no_other_panels(spec: str) -> None:
    encoded = encode(values((64, 48), torch.float32), spec)
    wanted = decode(encoded, slice(16, 32))
    spoilt = {name: part.clone() for name, part in encoded.parts.items()}
    for name, part in spoilt.items():
        if name == "payload":
            offsets = encoded.parts["offsets"]
            part[: offsets[1]] = 255
            part[offsets[2] :] = 255
        elif name not in ("offsets", "global_scale", "table"):
            part[0] = 1
            part[2:] = 1
    other = Encoded(encoded.params, encoded.shape, encoded.dtype, spoilt)
    assert torch.equal(decode(other, slice(16, 32)), wanted)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_lossless_keeps_every_bit(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    words = data.draw(st.lists(st.integers(0, 2 ** (8 * dtype.itemsize) - 1), min_size=1, max_size=200))
    array = np.array(words, dtype=f"<u{dtype.itemsize}").view(f"<i{dtype.itemsize}")
    weight = torch.from_numpy(array.copy()).view(dtype)
    columns = data.draw(st.sampled_from([d for d in range(1, len(words) + 1) if len(words) % d == 0]))
    for spec in ("lossless", "zfp:reversible=true") if dtype == torch.float32 else ("lossless",):
        back = decode(encode(weight.view(-1, columns), spec))
        assert torch.equal(bits_of(back), bits_of(weight))


@settings(max_examples=80, deadline=None)
@given(
    data=st.data(),
    tolerance=st.floats(1e-30, 1e30),
    dtype=st.sampled_from(DTYPES),
)
def test_zfp_tolerance_holds_for_every_value(data: st.DataObject, tolerance: float, dtype: torch.dtype) -> None:
    width = {torch.float32: 32, torch.float16: 16, torch.bfloat16: 32}[dtype]
    finite = st.floats(width=width, allow_nan=False, allow_infinity=False)
    numbers = data.draw(st.lists(finite, min_size=1, max_size=80))
    weight = torch.tensor(numbers, dtype=torch.float64).to(dtype)
    weight = torch.where(torch.isfinite(weight), weight, torch.zeros((), dtype=dtype)).view(1, -1)
    back = decode(encode(weight, f"zfp:tolerance={tolerance!r}"))
    assert (back.double() - weight.double()).abs().max().item() <= tolerance


@pytest.mark.parametrize(
    "spec", ("zfp:rate=8", "zfp:rate=4", "zfp:precision=14", "zfp:tolerance=0.001", "zfp:reversible=true")
)
def test_zfp_streams_are_readable_by_zfpy(spec: str) -> None:
    weight = values((40, 52), torch.float32)
    encoded = encode(weight, spec)
    dense = decode(encoded)
    offsets = encoded.parts["offsets"].tolist()
    for panel, first in enumerate(range(0, 40, 16)):
        stream = encoded.parts["payload"][offsets[panel] : offsets[panel + 1]].numpy().tobytes()
        shape = (min(16, 40 - first), 52)
        alone = zfpy._decompress(stream, zfpy.type_float, shape, **mode_of(encoded.params))
        assert np.array_equal(alone, dense[first : first + 16].numpy())


@pytest.mark.parametrize(
    "spec", ("zfp:rate=8", "zfp:precision=9", "zfp:tolerance=0.5", "int:bits=4", "nf4", "fp8", "nvfp4")
)
@pytest.mark.parametrize("bad", (float("nan"), float("inf"), float("-inf")))
def test_values_without_a_code_are_refused(spec: str, bad: float) -> None:
    weight = values((20, 30), torch.float32)
    weight[7, 11] = bad
    with pytest.raises(CodecError, match="NaN or infinite"):
        encode(weight, spec)


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(2, 8),
    group=st.sampled_from((0, 16, 32, 48, 64)),
    symmetric=st.booleans(),
    exponent=st.integers(-130, 125),
    columns=st.integers(1, 90),
)
def test_int_is_within_half_a_step(bits: int, group: int, symmetric: bool, exponent: int, columns: int) -> None:
    weight = values((19, columns), torch.float32, seed=columns).mul_(2.0).mul_(2.0**exponent)
    encoded = encode(weight, f"int:bits={bits},group={group},symmetric={str(symmetric).lower()}")
    error = (decode(encoded).double() - weight.double()).abs()
    width = group or columns
    for left in range(0, columns, width):
        piece, distance = weight[:, left : left + width].double(), error[:, left : left + width]
        if symmetric:
            step = piece.abs().amax(1) / 2 ** (bits - 1)
            reach = torch.full_like(step, 1.01)  # the end opposite to the largest value is clipped by up to one step
        else:
            step = (piece.amax(1).clamp(min=0) - piece.amin(1).clamp(max=0)) / (2**bits - 1)
            reach = torch.full_like(step, 1.01)  # rounding of the zero point moves one end by up to half a step
        # Scales are bfloat16: a step is up to 1/128 longer, and never shorter than the least bfloat16.
        allowed = reach * step * (1 + 2**-7) + 2.0**-133
        assert bool((distance.amax(1) <= allowed).all())


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.startswith(("int", "nf4", "fp8", "mx", "nv"))])
def test_no_finite_weight_becomes_infinite(spec: str) -> None:
    weight = values((20, 40), torch.float32).sign() * 2.0**126
    assert bool(torch.isfinite(decode(encode(weight, spec))).all())
    with pytest.raises(CodecError, match="beyond"):
        encode(weight * 1.5, spec)


def test_more_bits_are_more_accurate() -> None:
    weight = values((64, 256), torch.float32)
    errors = [(decode(encode(weight, f"int:bits={bits}")) - weight).square().mean().item() for bits in range(2, 9)]
    assert all(later < 0.4 * earlier for earlier, later in itertools.pairwise(errors))


@pytest.mark.parametrize(
    "spec", ("int:bits=4,group=64", "int:bits=8,group=0", "nf4", "fp8", "fp8:format=e5m2,group=32", "mxfp4", "nvfp4")
)
def test_what_has_been_decoded_encodes_to_itself(spec: str) -> None:
    once = decode(encode(values((33, 70), torch.float32), spec))
    twice = decode(encode(once, spec))
    assert torch.allclose(once, twice, rtol=2**-6, atol=0)


@pytest.mark.parametrize(
    "spec", ("int:bits=4", "int:bits=5,symmetric=false", "nf4", "fp8", "mxfp4", "nvfp4", "lossless")
)
def test_a_tensor_of_zeros_stays_zero(spec: str) -> None:
    assert torch.equal(decode(encode(torch.zeros(20, 40), spec)), torch.zeros(20, 40))


@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_take_no_more_than_their_bits(bits: int) -> None:
    encoded = encode(values((32, 64), torch.float32), f"int:bits={bits},group=64")
    assert encoded.parts["codes"].numel() == 32 * 64 * bits // 8


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matmul_is_that_of_the_decoded_weight(spec: str, dtype: torch.dtype) -> None:
    encoded = encode(values((70, 48), dtype), spec)
    x = values((2, 5, 48), dtype, seed=1)
    bias = values((70,), dtype, seed=2)
    wanted = torch.nn.functional.linear(x.double(), decode(encoded, dtype=dtype).double(), bias.double())
    found = matmul(x, encoded, bias)
    assert (found.shape, found.dtype) == (wanted.shape, dtype)
    # One rounding of the product and one of the sum with the bias, relative to the largest result.
    assert (found.double() - wanted).abs().max() <= 4 * torch.finfo(dtype).eps * wanted.abs().max()
    assert torch.equal(matmul(x, encoded, rows=slice(16, 40)), matmul(x, encoded)[..., 16:40])


def test_matmul_never_makes_the_whole_weight_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    import tilepress.kernels.dispatch as dispatch

    monkeypatch.setattr(dispatch, "BLOCK_VALUES", 1024)
    decoded_rows = []
    whole = dispatch.decode

    def watched(encoded: Encoded, rows: slice | None = None, *args: object, **kwargs: object) -> torch.Tensor:
        assert rows is not None
        decoded_rows.append(rows.stop - rows.start)
        return whole(encoded, rows, *args, **kwargs)

    monkeypatch.setattr(dispatch, "decode", watched)
    dispatch.matmul(torch.randn(3, 32), encode(values((200, 32), torch.float32), "none"))
    assert max(decoded_rows) == 32
    assert sum(decoded_rows) == 200


def test_matmul_refuses_shapes_that_do_not_match() -> None:
    with pytest.raises(CodecError, match="31 columns"):
        matmul(torch.randn(2, 31), encode(values((8, 32), torch.float32), "int"))


def test_integers_can_only_be_left_as_they_are() -> None:
    table = torch.arange(12).view(3, 4)
    assert torch.equal(decode(encode(table, "none")), table)
    with pytest.raises(CodecError, match="int64"):
        encode(table, "lossless")


def hostile(encoded: Encoded, seed: int) -> Encoded:
    generator = torch.Generator().manual_seed(seed)
    parts = {}
    for name, part in encoded.parts.items():
        flat = bits_of(part).clone()
        if name != "offsets":
            flat.random_(0, 256, generator=generator)
        parts[name] = flat.view(part.dtype).view(part.shape)
    return Encoded(encoded.params, encoded.shape, encoded.dtype, parts)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec != "none"])
def test_random_parts_decode_or_are_refused(spec: str) -> None:
    encoded = encode(values((33, 70), torch.float32), spec)
    for seed in range(20):
        try:
            assert decode(hostile(encoded, seed)).shape == (33, 70)
        except CodecError as problem:
            assert encoded.codec in str(problem)


def test_a_frame_that_promises_gigabytes_is_not_believed() -> None:
    import zstandard

    encoded = encode(torch.zeros(16, 64), "lossless:version=1")
    bomb = zstandard.ZstdCompressor().compress(bytes(50_000_000))
    offsets = torch.full_like(encoded.parts["offsets"], len(bomb))
    offsets[0] = 0
    payload = torch.frombuffer(bytearray(bomb.ljust(-(-len(bomb) // 16) * 16, b"\0")), dtype=torch.uint8)
    with pytest.raises(CodecError, match="length of its panel"):
        decode(Encoded(encoded.params, encoded.shape, encoded.dtype, {"payload": payload, "offsets": offsets}))


@pytest.mark.parametrize("change", ("first", "falling", "end"))
def test_offsets_that_lead_astray_are_refused(change: str) -> None:
    encoded = encode(values((40, 20), torch.float32), "zfp:rate=8")
    offsets = encoded.parts["offsets"].clone()
    if change == "first":
        offsets[0] = 8
    elif change == "falling":
        offsets[1] = offsets[2] + 8
    else:
        offsets[-1] += 1 << 40
    with pytest.raises(CodecError, match="offsets"):
        encoded.params.check_parts(encoded.shape, encoded.dtype, {**encoded.parts, "offsets": offsets})


@pytest.mark.parametrize("spec", SPECS)
def test_specs_print_themselves(spec: str) -> None:
    params = parse_spec(spec)
    assert parse_spec(params.spec()) == params
    assert type(params).from_dict(params.as_dict()) == params


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("int9", "no codec is called 'int9'"),
        ("int:bits=9", "not within 2..8"),
        ("int:bits=four", "not an integer"),
        ("int:bits=4,bits=5", "given twice"),
        ("int:bites=4", "no option 'bites'"),
        ("int:group=17", "multiple of 16"),
        ("int:4", "not of the form"),
        ("int:symmetric=maybe", "true or false"),
        ("zfp", "exactly one"),
        ("zfp:rate=8,tolerance=1", "exactly one"),
        ("zfp:rate=0", "1..32"),
        ("zfp:tolerance=nan", "not a positive number"),
        ("zfp:precision=99", "1..32"),
        ("fp8:format=e3m4", "e4m3, e5m2"),
        ("lossless:version=7", "newer"),
        ("", "no codec is called ''"),
    ],
)
def test_a_spec_that_makes_no_sense_is_explained(spec: str, sentence: str) -> None:
    with pytest.raises(CodecError, match=sentence):
        parse_spec(spec)


def test_every_codec_of_the_registry_is_tested() -> None:
    assert set(SPECS_OF) == set(CODECS), "tests/kernels/specs.py needs a line for every codec"
    assert all(parse_spec(spec).codec == codec for codec, specs in SPECS_OF.items() for spec in specs)
