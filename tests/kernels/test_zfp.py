"""zfp on native code against zfpy, bit for bit, for every instruction set that this machine can run."""

from __future__ import annotations

import importlib
import io
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import zfpy
from hypothesis import given, settings
from hypothesis import strategies as st

from tilepress.compress.codecs import encode
from tilepress.kernels import CodecError, Encoded, backend_of, decode, matmul, parse_spec

native = importlib.import_module("tilepress.kernels._native")
panels = importlib.import_module("tilepress.kernels.cpu.panels")
zfp = importlib.import_module("tilepress.kernels.cpu.zfp")
streams = importlib.import_module("tilepress.kernels.cpu.zfp_streams")
reference = importlib.import_module("tilepress.kernels.reference.zfp")
active = importlib.import_module("tilepress.kernels.cpu.instruction_set").instruction_set

MODES = (
    {"rate": 3.0},
    {"rate": 4.0},
    {"rate": 8.0},
    {"rate": 17.3},
    {"rate": 40.0},
    {"precision": 1},
    {"precision": 12},
    {"precision": 64},
    {"tolerance": 0.0},
    {"tolerance": 1e-3},
    {"tolerance": 1e6},
    {},
)
SPECS = (
    "zfp:rate=1",
    "zfp:rate=2.7",
    "zfp:rate=4",
    "zfp:rate=8",
    "zfp:rate=32",
    "zfp:precision=3",
    "zfp:precision=14",
    "zfp:precision=32",
    "zfp:tolerance=1e-3",
    "zfp:tolerance=1e-9",
    "zfp:reversible=true",
)
ZFPY_TYPES = {torch.float32: zfpy.type_float, torch.float64: zfpy.type_double}
INTEGERS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
}


@pytest.fixture(params=native.instruction_sets(), autouse=True)
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TILEPRESS_CPU", request.param)
    active.cache_clear()
    yield request.param
    active.cache_clear()


def values(shape: tuple[int, ...], kind: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Arrays that take different ways through zfp."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    limits = torch.finfo(dtype)
    if kind == "bits":
        integers = torch.randint(-(2**63), 2**63 - 1, shape, generator=generator)
        return (integers >> (0 if dtype == torch.float64 else 32)).to(INTEGERS[dtype]).view(dtype)
    made = {
        "normal": normal * 0.05,
        "smooth": torch.arange(normal.numel(), dtype=torch.float64).view(shape) / 7,
        "sparse": normal * (torch.rand(shape, generator=generator) < 0.2),
        "zero": normal * 0,
        "negative zero": torch.where(normal > 0, -0.0, 0.0).double(),
        "subnormal": normal * limits.tiny / 8,
        "small": normal * limits.tiny * 1e9,
        "largest": normal.sign() * limits.max,
        "huge exponents": normal * 2.0 ** torch.randint(-100, 100, shape, generator=generator),
    }[kind]
    return made.clamp(-limits.max, limits.max).to(dtype)


KINDS = (
    "normal",
    "smooth",
    "sparse",
    "zero",
    "negative zero",
    "subnormal",
    "small",
    "largest",
    "huge exponents",
    "bits",
)


def assert_same_bits(found: torch.Tensor, wanted: torch.Tensor) -> None:
    integers = INTEGERS[wanted.dtype]
    same = found.contiguous().view(integers) == wanted.contiguous().view(integers)
    assert found.dtype == wanted.dtype
    assert bool((same | (found.isnan() & wanted.isnan())).all())


def zfpy_decode(stream: bytes, shape: tuple[int, ...], dtype: torch.dtype, mode: dict[str, float]) -> torch.Tensor:
    # zfp reads past the end, but not further than this.
    blocks = int(np.prod([-(-size // 4) for size in shape]))
    padded = stream + bytes(blocks * 1300 + 64)
    return torch.from_numpy(zfpy._decompress(memoryview(padded), ZFPY_TYPES[dtype], shape, **mode))


def check_stream(array: torch.Tensor, mode: dict[str, float]) -> None:
    wanted = zfpy.compress_numpy(array.numpy(), write_header=False, **mode)
    stream = streams.compress(array, **mode)
    assert bytes(stream.tolist()) == wanted
    shape = tuple(array.shape)
    found = streams.decompress(stream, shape, array.dtype, **mode)
    assert_same_bits(found, zfpy_decode(wanted, shape, array.dtype, mode))
    if not mode:
        assert_same_bits(found, array)


@pytest.mark.parametrize("dtype", ZFPY_TYPES, ids=str)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_streams_of_every_mode_and_rank_are_those_of_zfpy(mode: dict[str, float], dtype: torch.dtype) -> None:
    for shape in ((1,), (18,), (4, 4), (7, 9), (4, 4, 4), (3, 6, 5)):
        for kind in KINDS:
            check_stream(values(shape, kind, dtype), mode)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_streams_of_any_array_are_those_of_zfpy(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 11), min_size=1, max_size=3)))
    dtype = data.draw(st.sampled_from(tuple(ZFPY_TYPES)))
    name = data.draw(st.sampled_from(("rate", "precision", "tolerance", "reversible")))
    mode: dict[str, float] = {}
    if name == "rate":
        mode = {"rate": data.draw(st.floats(3.25, 70))}
    elif name == "precision":
        mode = {"precision": data.draw(st.integers(1, 64))}
    elif name == "tolerance":
        mode = {"tolerance": data.draw(st.floats(0, 1e300, allow_subnormal=True))}
    check_stream(values(shape, data.draw(st.sampled_from(KINDS)), dtype, data.draw(st.integers(0, 99))), mode)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_bytes_decode_as_zfpy_decodes_them(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    dtype = data.draw(st.sampled_from(tuple(ZFPY_TYPES)))
    mode = data.draw(st.sampled_from(MODES))
    stream = data.draw(st.binary(max_size=300))
    tensor = torch.tensor(list(stream), dtype=torch.uint8)
    found = streams.decompress(tensor, shape, dtype, **mode)
    assert_same_bits(found, zfpy_decode(stream, shape, dtype, mode))


def test_streams_that_zfp_does_not_have_are_refused() -> None:
    array = torch.zeros(4, 4)
    with pytest.raises(CodecError, match="rate and precision"):
        streams.compress(array, rate=8, precision=3)
    with pytest.raises(CodecError, match="no room for the exponent"):
        streams.compress(array, rate=0.5)
    for mode in ({"rate": -1.0}, {"rate": 1e9}, {"precision": 65}, {"tolerance": -1.0}, {"tolerance": float("nan")}):
        with pytest.raises(CodecError, match="codec zfp"):
            streams.compress(array, **mode)
    for shape in ((2, 2, 2, 2), (), (1 << 30, 1 << 30)):
        with pytest.raises(CodecError, match="codec zfp"):
            streams.decompress(torch.zeros(8, dtype=torch.uint8), shape, torch.float32, rate=8)
    with pytest.raises(CodecError, match="float32 and float64"):
        streams.compress(array.half(), rate=8)
    assert streams.compress(torch.zeros(0, 4), rate=8).shape == (0,)
    assert streams.decompress(torch.zeros(0, dtype=torch.uint8), (0, 3), torch.float32).shape == (0, 3)


def as_reference(encoded: Encoded, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    dense: torch.Tensor = reference.decode(encoded, range(encoded.rows), range(encoded.columns))
    return dense.to(dtype)


def hostile(encoded: Encoded, seed: int) -> Encoded:
    generator = torch.Generator().manual_seed(seed)
    payload = torch.randint(0, 256, encoded.parts["payload"].shape, dtype=torch.uint8, generator=generator)
    return Encoded(encoded.params, encoded.shape, encoded.dtype, {**encoded.parts, "payload": payload})


@pytest.mark.parametrize("spec", SPECS)
def test_panels_decode_and_encode_as_zfpy_does(spec: str) -> None:
    assert backend_of("zfp", "cpu").name == "cpu"
    params = parse_spec(spec)
    kinds = KINDS if spec.endswith("true") else KINDS[:-1]
    for shape, kind in zip(
        itertools.cycle(((1, 1), (16, 16), (17, 33), (40, 1), (101, 103), (130, 64), (3, 300))), kinds, strict=False
    ):
        matrix = values(shape, kind)
        payload, sizes = zfp.encode_panels(matrix, params)
        panels = [matrix[first : first + 16].numpy() for first in range(0, shape[0], 16)]
        written = [zfpy.compress_numpy(panel, write_header=False, **reference.mode_of(params)) for panel in panels]
        assert sizes.tolist() == [len(stream) for stream in written]
        assert bytes(payload.tolist()) == b"".join(written)
        encoded = encode(matrix, spec)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            assert_same_bits(decode(encoded, dtype=dtype), as_reference(encoded, dtype))
        for seed in range(3):
            spoilt = hostile(encoded, seed)
            assert_same_bits(decode(spoilt), as_reference(spoilt))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_range_decodes_alone(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 300))
    encoded = encode(values((rows, columns), "normal"), data.draw(st.sampled_from(SPECS)))
    dtype = data.draw(st.sampled_from((torch.float32, torch.bfloat16, torch.float16)))
    first, last = sorted((data.draw(st.integers(0, rows)), data.draw(st.integers(0, rows))))
    left, right = sorted((data.draw(st.integers(0, columns)), data.draw(st.integers(0, columns))))
    piece = decode(encoded, slice(first, last), slice(left, right), dtype)
    assert_same_bits(piece, as_reference(encoded, dtype)[first:last, left:right])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_panels_of_any_length_and_bytes_decode_as_the_reference_decodes_them(data: st.DataObject) -> None:
    encoded = encode(values((70, 50), "normal"), data.draw(st.sampled_from(SPECS)))
    spoilt = hostile(encoded, data.draw(st.integers(0, 99)))
    end = int(encoded.parts["offsets"][-1])
    cuts = sorted(data.draw(st.lists(st.integers(0, end), min_size=4, max_size=4)))
    spoilt.parts["offsets"][1:5] = torch.tensor(cuts)  # of five panels
    assert_same_bits(decode(spoilt), as_reference(spoilt))


@pytest.mark.parametrize("spec", ("zfp:rate=8", "zfp:tolerance=1e-3", "zfp:reversible=true"))
def test_results_do_not_depend_on_the_number_of_threads(spec: str) -> None:
    matrix = values((700, 600), "normal")
    x = values((2, 600), "normal").bfloat16()
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            encoded = encode(matrix, spec)
            found.append((encoded.parts["payload"], decode(encoded), matmul(x, encoded)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(other, found[0], strict=True))


@pytest.mark.parametrize("spec", ("zfp:rate=8", "zfp:precision=14", "zfp:reversible=true"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
def test_products_of_few_and_many_rows(spec: str, dtype: torch.dtype) -> None:
    encoded = encode(values((70, 100), "normal"), spec)
    bias = values((70,), "normal", seed=2).to(dtype)
    for count in (0, 1, 3, 8, 9):
        x = values((count, 100), "normal", seed=count).to(dtype)
        weight = as_reference(encoded, panels.dtype_of_many(dtype) if count > native.MOST_VECTORS else torch.float32)
        wanted = x.double() @ weight.double().T + bias.double()
        found = matmul(x, encoded, bias)
        assert found.dtype == dtype
        allowed = wanted.abs() * torch.finfo(dtype).eps + 1e-4 * (x.double().abs() @ weight.double().abs().T)
        assert bool(((found.double() - wanted).abs() <= allowed + 1e-6).all())
        assert torch.equal(matmul(x, encoded, bias[5:41], slice(5, 41)), found[:, 5:41])


def test_empty_tensors() -> None:
    for spec in SPECS:
        assert decode(encode(torch.zeros(0, 8), spec)).shape == (0, 8)
        assert decode(encode(torch.zeros(8, 0), spec)).shape == (8, 0)
        assert torch.equal(matmul(torch.zeros(2, 0), encode(torch.zeros(8, 0), spec)), torch.zeros(2, 8))


@pytest.mark.parametrize("change", ("short", "first", "falling", "beyond", "dtype", "strided"))
def test_parts_that_do_not_fit_are_refused(change: str) -> None:
    encoded = encode(values((40, 50), "normal"), "zfp:precision=9")
    offsets = encoded.parts["offsets"].clone()
    if change == "short":
        offsets = offsets[:2]
    elif change == "first":
        offsets[0] = -8
    elif change == "falling":
        offsets[1] = offsets[2] + 8
    elif change == "beyond":
        offsets[3] = encoded.parts["payload"].numel() + 8
    elif change == "dtype":
        offsets = offsets.double()
    else:
        offsets = torch.stack([offsets, offsets], -1)[:, 0]
    other = Encoded(encoded.params, encoded.shape, encoded.dtype, {**encoded.parts, "offsets": offsets})
    with pytest.raises(CodecError):
        decode(other)
    for count in (1, 20):
        with pytest.raises(CodecError):
            matmul(torch.zeros(count, 50), other)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_argument_leads_native_code_astray(data: st.DataObject) -> None:
    encoded = encode(values((40, 50), "normal"), "zfp:rate=8")
    number = st.one_of(st.sampled_from((0, 1, 4, 16, 40, 50)), st.integers(-(2**63), 2**63 - 1))
    mode = native.ZfpMode(
        data.draw(st.sampled_from(("rate", "precision", "tolerance", "reversible", "other"))),
        data.draw(st.one_of(st.sampled_from((0.0, 8.0, 200.0)), st.floats())),
    )
    buffers = [(part.data_ptr(), data.draw(st.sampled_from((part.nbytes, 0, 8)))) for part in encoded.parts.values()]
    parts = native.ZfpParts(*buffers, mode, data.draw(number), data.draw(number))
    target = torch.full((40 * 50 + 1,), 7.0)
    room = (target.data_ptr(), 40 * 50 * 4)
    ranges = [(data.draw(number), data.draw(number)) for _ in range(2)]
    shape = data.draw(st.lists(number, max_size=4))
    dtype = data.draw(st.sampled_from(("float32", "float64", "float16")))
    chosen = active()
    calls = (
        lambda: native.zfp_decode(chosen, parts, *ranges, dtype, room, 2),
        lambda: native.zfp_multiply(chosen, parts, ranges[0], room, (0, -1), room, dtype, data.draw(number), 2),
        lambda: native.zfp_encode(chosen, mode, room, data.draw(number), data.draw(number), room, room, 2),
        lambda: native.zfp_encode_stream(chosen, mode, shape, dtype, room, room),
        lambda: native.zfp_decode_stream(chosen, mode, shape, dtype, buffers[0], room),
    )
    for call in calls:
        try:
            call()
        except ValueError as error:
            assert str(error)
    assert target[-1] == 7.0


@pytest.mark.parametrize("spec", ("zfp:rate=8", "zfp:tolerance=1e-3"))
def test_operators_pass_opcheck(spec: str) -> None:
    encoded = encode(values((40, 48), "normal"), spec)
    parts, mode = (encoded.parts["payload"], encoded.parts["offsets"]), zfp.mode_of(encoded.params)
    arguments = (*parts, *mode, 40, 48, 3, 37, 5, 40, torch.bfloat16)
    torch.library.opcheck(torch.ops.tilepress.zfp_decode.default, arguments)
    for x in (torch.randn(2, 1, 48), torch.randn(20, 48).bfloat16()):
        bias = torch.randn(40, dtype=x.dtype)
        torch.library.opcheck(torch.ops.tilepress.zfp_matmul.default, (x, *parts, bias, *mode, 40, 0, 40))


class Layer(torch.nn.Module):
    """A product and a range of rows of one weight."""

    def __init__(self, encoded: Encoded) -> None:
        super().__init__()
        self.encoded = encoded
        for name, part in encoded.parts.items():
            self.register_buffer(name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        encoded = Encoded(self.encoded.params, self.encoded.shape, self.encoded.dtype, dict(self.named_buffers()))
        return torch.relu(matmul(x, encoded)) + decode(encoded, slice(0, 1), slice(0, 40), dtype=x.dtype)


def test_a_layer_compiles_and_exports_as_one_graph() -> None:
    layer = Layer(encode(values((40, 48), "normal"), "zfp:rate=8"))
    x = torch.randn(3, 48)
    wanted = layer(x)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), wanted)
    rows = torch.export.Dim("rows", min=2, max=64)
    program = torch.export.export(layer, (x,), dynamic_shapes={"x": {0: rows}})
    stored = io.BytesIO()
    torch.export.save(program, stored)
    stored.seek(0)
    loaded = torch.export.load(stored).module()
    for count in (3, 20):
        x = torch.randn(count, 48)
        assert torch.equal(loaded(x), layer(x))
