"""The native kernels against the reference, for every instruction set that this machine can run."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tilepress.compress.codecs import encode
from tilepress.kernels import BackendError, CodecError, Encoded, backend_of, decode, matmul

native = importlib.import_module("tilepress.kernels._native")
tiles = importlib.import_module("tilepress.kernels.cpu.tiles")
active = importlib.import_module("tilepress.kernels.cpu.instruction_set").instruction_set

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SPECS = (
    *(f"int:bits={bits},group=64" for bits in range(2, 9)),
    *(f"int:bits={bits},group=32,symmetric=false" for bits in range(2, 9)),
    "int:bits=4,group=0",
    "int:bits=8,group=16,symmetric=false",
    "int:bits=3,group=48",
    "nf4",
    "nf4:group=16",
    "fp8",
    "fp8:group=64",
    "fp8:format=e5m2,group=32",
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
            # Of many rows, the weight is rounded to the dtype of x first.
            weight = reference(encoded, dtype if count > native.MOST_VECTORS else torch.float32)
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


@pytest.mark.parametrize("spec", ("int:bits=4", "int:bits=8,symmetric=false", "nf4", "fp8", "fp8:format=e5m2"))
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


@pytest.mark.parametrize("spec", ("int:bits=4", "int:bits=5,symmetric=false", "nf4", "fp8"))
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


def test_shapes_of_x_and_empty_tensors() -> None:
    encoded = encode(values((40, 32)), "int:bits=4")
    assert matmul(torch.zeros(2, 3, 32), encoded).shape == (2, 3, 40)
    assert matmul(torch.zeros(32), encoded).shape == (40,)
    assert matmul(torch.zeros(0, 32), encoded).shape == (0, 40)
    assert torch.equal(matmul(torch.zeros(2, 32), encoded, torch.arange(40.0))[1], torch.arange(40.0))
    assert matmul(torch.zeros(2, 8), encode(torch.zeros(0, 8), "int")).shape == (2, 0)
    assert torch.equal(matmul(torch.zeros(2, 0), encode(torch.zeros(8, 0), "nf4")), torch.zeros(2, 8))
    turned = values((32, 3)).T
    assert torch.equal(matmul(turned, encoded), matmul(turned.contiguous(), encoded))


@pytest.mark.parametrize("spec", ("int:bits=4", "nf4", "fp8"))
def test_results_do_not_depend_on_the_number_of_threads(spec: str) -> None:
    encoded = encode(values((900, 600)), spec)
    x = values((2, 600), torch.bfloat16)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append((decode(encoded), matmul(x, encoded)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, found[0][0]) and torch.equal(b, found[0][1]) for a, b in found[1:])


def test_gradients_flow_to_x() -> None:
    encoded = encode(values((40, 32)), "int:bits=4")
    x = values((3, 32)).requires_grad_()
    matmul(x, encoded).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, decode(encoded).sum(0).expand(3, -1), atol=1e-5)


@pytest.mark.parametrize("part", ("codes", "scales", "zero_points"))
@pytest.mark.parametrize("change", ("shorter", "longer", "empty", "dtype", "strided", "flat"))
def test_parts_that_do_not_fit_are_refused(part: str, change: str) -> None:
    encoded = encode(values((40, 100)), "int:bits=4,group=32,symmetric=false")
    whole = encoded.parts[part]
    spoilt = {
        "shorter": whole[:-1],
        "longer": torch.cat([whole, whole[:1]], 0) if part != "codes" else torch.cat([whole, whole], 1),
        "empty": whole[:, :0],
        "dtype": whole.to(torch.int16),
        "strided": torch.stack([whole, whole], -1)[..., 0],
        "flat": whole.reshape(-1),
    }[change]
    other = Encoded(encoded.params, encoded.shape, encoded.dtype, {**encoded.parts, part: spoilt})
    with pytest.raises(CodecError):
        decode(other)
    for count in (1, 20):
        with pytest.raises(CodecError):
            matmul(torch.zeros(count, 100), other)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_argument_leads_native_code_astray(data: st.DataObject) -> None:
    encoded = encode(values((40, 100)), "int:bits=4,group=32,symmetric=false")
    number = st.one_of(st.sampled_from((0, 1, 16, 32, 40, 48, 100)), st.integers(-(2**63), 2**63 - 1))
    buffers = [(part.data_ptr(), data.draw(st.sampled_from((part.nbytes, 0, 7)))) for part in encoded.parts.values()]
    name = data.draw(st.sampled_from(("int", "nf4", "e4m3", "e5m2", "int9")))
    bits = data.draw(st.one_of(st.just(4), st.integers(-(2**31), 2**31 - 1)))
    parts = native.Parts(*buffers, name, bits, data.draw(number), data.draw(number), data.draw(number))
    target = torch.full((40 * 100 + 1,), 7.0)
    room = (target.data_ptr(), 40 * 100 * 4)
    ranges = [(data.draw(number), data.draw(number)) for _ in range(2)]
    dtype = data.draw(st.sampled_from(("float32", "float16", "int8")))
    chosen = active()
    calls = (
        lambda: native.tiles_decode(chosen, parts, *ranges, dtype, room, 2),
        lambda: native.tiles_multiply(chosen, parts, ranges[0], room, (0, -1), room, dtype, data.draw(number), 2),
    )
    for call in calls:
        try:
            call()
        except ValueError as error:
            assert str(error)
    assert target[-1] == 7.0


def test_a_bias_that_does_not_fit_is_refused() -> None:
    encoded = encode(values((40, 32)), "nf4")
    with pytest.raises(CodecError, match="bias"):
        matmul(torch.zeros(1, 32), encoded, torch.zeros(41))


def test_an_instruction_set_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEPRESS_CPU", "mmx")
    active.cache_clear()
    with pytest.raises(BackendError, match="TILEPRESS_CPU=mmx"):
        decode(encode(values((16, 16)), "nf4"))


@pytest.mark.parametrize("spec", ("int:bits=4", "int:bits=3,symmetric=false", "nf4", "fp8"))
def test_operators_pass_opcheck(spec: str) -> None:
    encoded = encode(values((40, 48)), spec)
    module = importlib.import_module(f"tilepress.kernels.cpu.{encoded.codec}")
    code = module.code_of(encoded)
    weight = (encoded.parts["codes"], encoded.parts["scales"], encoded.parts.get("zero_points"))
    torch.library.opcheck(torch.ops.tilepress.tiles_decode.default, (*weight, *code, 48, 3, 37, 5, 40, torch.bfloat16))
    for x in (torch.randn(2, 1, 48), torch.randn(20, 48).bfloat16()):
        bias = torch.randn(40, dtype=x.dtype)
        torch.library.opcheck(torch.ops.tilepress.tiles_matmul.default, (x, *weight, bias, *code, 0, 40))


class Layer(torch.nn.Module):
    """A product and a range of rows of one weight."""

    def __init__(self, encoded: Encoded) -> None:
        super().__init__()
        self.encoded = encoded
        for name, part in encoded.parts.items():
            self.register_buffer(name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = dict(self.named_buffers())
        encoded = Encoded(self.encoded.params, self.encoded.shape, self.encoded.dtype, parts)
        return torch.relu(matmul(x, encoded)) + decode(encoded, slice(0, 1), slice(0, 40), dtype=x.dtype)


@pytest.mark.parametrize("spec", ("int:bits=4", "nf4", "fp8"))
def test_a_layer_compiles_and_exports_as_one_graph(spec: str) -> None:
    layer = Layer(encode(values((40, 48)), spec))
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


def test_a_forked_process_can_decode(instruction_set: str) -> None:
    """After a fork, the parent's OpenMP threads are gone; with one thread, none is needed."""
    if instruction_set != "portable":
        pytest.skip("threads are the same for all")
    program = (
        "import os, torch\n"
        "from tilepress.compress.codecs import encode\n"
        "from tilepress.kernels import decode\n"
        "encoded = encode(torch.randn(600, 600), 'int:bits=4')\n"
        "torch.set_num_threads(2)\n"
        "decode(encoded)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    torch.set_num_threads(1)\n"
        "    os._exit(0 if decode(encoded).shape == (600, 600) else 1)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
