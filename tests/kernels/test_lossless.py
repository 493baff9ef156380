"""`lossless`, version 2: every bit comes back, on every instruction set, and no bytes lead a decoder astray."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tilepress.compress.codecs import encode
from tilepress.kernels import CodecError, Encoded, backend_of, decode, matmul
from tilepress.kernels.layout.lossless import CODED, CONSTANT, read_table

native = importlib.import_module("tilepress.kernels._native")
panels = importlib.import_module("tilepress.kernels.cpu.panels")
cpu = importlib.import_module("tilepress.kernels.cpu.lossless")
active = importlib.import_module("tilepress.kernels.cpu.instruction_set").instruction_set
definition = importlib.import_module("tilepress.kernels.reference.lossless")

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SHAPES = ((1, 1), (1, 31), (2, 16), (1, 33), (16, 16), (17, 33), (40, 1), (35, 1061), (3, 20, 24), (16, 2048))


@pytest.fixture(params=native.instruction_sets(), autouse=True)
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TILEPRESS_CPU", request.param)
    active.cache_clear()
    yield request.param
    active.cache_clear()


def values(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul_(0.05).to(dtype)


def any_bits(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    words = generator.integers(0, 2 ** (8 * dtype.itemsize), shape, f"u{dtype.itemsize}")
    return torch.from_numpy(words.view(f"i{dtype.itemsize}")).view(dtype)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    integers = {2: torch.int16, 4: torch.int32}[a.dtype.itemsize]
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(integers), b.contiguous().view(integers))


def reference(encoded: Encoded) -> torch.Tensor:
    dense: torch.Tensor = definition.decode(encoded, range(encoded.rows), range(encoded.columns))
    return dense.view(encoded.shape)


def with_parts(encoded: Encoded, **parts: torch.Tensor) -> Encoded:
    return Encoded(encoded.params, encoded.shape, encoded.dtype, {**encoded.parts, **parts})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("make", (values, any_bits))
def test_every_bit_comes_back_from_both_decoders(make: type, dtype: torch.dtype) -> None:
    assert backend_of("lossless", "cpu").name == "cpu"
    for shape in SHAPES:
        weight = make(shape, dtype)
        encoded = encode(weight, "lossless")
        assert same_bits(decode(encoded), weight)
        assert same_bits(reference(encoded), weight)
        encoded.params.check_parts(encoded.shape, encoded.dtype, encoded.parts)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_that_the_model_has_no_entry_for_come_back(dtype: torch.dtype) -> None:
    weight = values((40, 1100), dtype)
    strange = any_bits((40, 1100), dtype)
    for share in (0.001, 0.05, 0.6):
        here = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < share
        mixed = torch.where(here, strange, weight)
        encoded = encode(mixed, "lossless")
        assert same_bits(decode(encoded), mixed)
        assert same_bits(reference(encoded), mixed)


def test_a_panel_unlike_the_rest_is_stored_as_it_is() -> None:
    weight = values((160, 600), torch.bfloat16)
    weight[64:80] = any_bits((16, 600), torch.bfloat16)
    encoded = encode(weight, "lossless")
    assert same_bits(decode(encoded), weight)
    assert same_bits(reference(encoded), weight)
    sizes = encoded.parts["offsets"].diff()
    assert sizes[4] <= 16 * 600 * 2 + 4
    assert sizes[3] < 16 * 600 * 1.4


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_range_decodes_alone(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 50)), data.draw(st.sampled_from((1, 7, 64, 576, 1024, 1025, 2100)))
    weight = values((rows, columns), data.draw(st.sampled_from(DTYPES)))
    encoded = encode(weight, "lossless")
    first, last = sorted((data.draw(st.integers(0, rows)), data.draw(st.integers(0, rows))))
    left, right = sorted((data.draw(st.integers(0, columns)), data.draw(st.integers(0, columns))))
    dtype = data.draw(st.sampled_from(DTYPES))
    found = decode(encoded, slice(first, last), slice(left, right), dtype)
    assert torch.equal(found, weight[first:last, left:right].to(dtype))


def test_no_block_needs_another() -> None:
    weight = values((48, 2048), torch.bfloat16)
    encoded = encode(weight, "lossless")
    offsets = encoded.parts["offsets"]
    for block in range(6):
        payload = torch.full_like(encoded.parts["payload"], 255)
        own = slice(int(offsets[block]), int(offsets[block + 1]))
        payload[own] = encoded.parts["payload"][own]
        rows = slice(block // 2 * 16, block // 2 * 16 + 16)
        columns = slice(block % 2 * 1024, block % 2 * 1024 + 1024)
        assert same_bits(decode(with_parts(encoded, payload=payload), rows, columns), weight[rows, columns])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_same_bytes_whatever_the_threads_and_instruction_set(dtype: torch.dtype) -> None:
    weight = values((100, 1500), dtype)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            encoded = encode(weight, "lossless")
            found.append(encoded.parts)
            assert same_bits(decode(encoded), weight)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("only_once")
def test_every_instruction_set_writes_the_same_bytes(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = torch.rand(40, 1100, generator=torch.Generator().manual_seed(1))
    strange = torch.where(chance < 0.02, any_bits((40, 1100), dtype), values((40, 1100), dtype))
    # Exponents of which one takes nearly all of the model, and of which there are so many that all get little.
    rare, many = torch.where(chance < 0.004, 2.0, 1.0).to(dtype), (2.0 ** (chance * 40 - 20)).to(dtype)
    for weight in (strange, rare, many, values((17, 33), dtype), values((1, 1), dtype)):
        found = []
        for name in native.instruction_sets():
            monkeypatch.setenv("TILEPRESS_CPU", name)
            active.cache_clear()
            found.append(encode(weight, "lossless"))
            assert same_bits(decode(found[-1]), weight)
        assert all(torch.equal(one, found[0].parts[name]) for each in found for name, one in each.parts.items())


def test_planes_that_hold_nothing_cost_nothing() -> None:
    weight = values((64, 1024), torch.bfloat16)
    alone, wider = encode(weight, "lossless"), encode(weight.float(), "lossless")
    modes = [code.mode for code in read_table(torch.float32, wider.parts["table"])]
    assert modes[:2] == [CONSTANT, CONSTANT]
    assert wider.parts["payload"].numel() < alone.parts["payload"].numel() + 100
    halves = encode(values((64, 1024), torch.float16).float(), "lossless")
    assert [code.mode for code in read_table(torch.float32, halves.parts["table"])][:2] == [CONSTANT, CODED]
    assert halves.parts["payload"].numel() < 0.48 * 64 * 1024 * 4


@pytest.mark.parametrize(("dtype", "most"), ((torch.bfloat16, 0.67), (torch.float16, 0.85), (torch.float32, 0.84)))
def test_gaussian_weights_take_what_their_entropy_says(dtype: torch.dtype, most: float) -> None:
    weight = values((256, 576), dtype)
    encoded = encode(weight, "lossless")
    assert encoded.size_bytes < most * weight.nbytes


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("x_dtype", DTYPES, ids=str)
def test_products_are_those_of_the_dense_weight(dtype: torch.dtype, x_dtype: torch.dtype) -> None:
    for shape in ((17, 33), (40, 1100)):
        weight = values(shape, dtype)
        encoded = encode(weight, "lossless")
        bias = values(shape[:1], x_dtype, seed=2)
        for count in (1, 3, 8, 9):
            x = values((count, shape[1]), x_dtype, seed=count)
            used = weight.to(panels.dtype_of_many(x_dtype)) if count > native.MOST_VECTORS else weight
            wanted = x.double() @ used.double().T + bias.double()
            found = matmul(x, encoded, bias)
            steps = x.double().abs() @ used.double().abs().T + bias.double().abs()
            allowed = wanted.abs() * torch.finfo(x_dtype).eps + steps * 2e-6 + torch.finfo(x_dtype).tiny
            assert found.dtype == x_dtype
            assert bool(((found.double() - wanted).abs() <= allowed).all())
            if count <= native.MOST_VECTORS:
                assert torch.equal(matmul(x, encoded, bias[16:], slice(16, None)), found[:, 16:])


def test_values_that_are_no_numbers_reach_only_their_own_rows() -> None:
    weight = values((40, 50), torch.bfloat16)
    weight[5, 49], weight[20, 3] = float("nan"), float("inf")
    found = matmul(torch.ones(2, 50), encode(weight, "lossless"))
    assert bool(found[:, 5].isnan().all())
    assert bool(found[:, 20].isinf().all())
    assert int(torch.isfinite(found).sum()) == 2 * 38


def damaged(encoded: Encoded, seed: int) -> Encoded:
    """Some bytes of the payload changed, most of them where blocks begin."""
    generator = np.random.default_rng(seed)
    payload = encoded.parts["payload"].clone()
    starts = encoded.parts["offsets"].numpy()[:-1]
    places = np.concatenate([starts + generator.integers(0, 8), generator.integers(0, len(payload), 4)])
    payload[torch.from_numpy(places.clip(0, len(payload) - 1))] = torch.from_numpy(
        generator.integers(0, 256, len(places), "u1")
    )
    return with_parts(encoded, payload=payload)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_damaged_blocks_are_decoded_as_the_reference_does_or_refused(dtype: torch.dtype) -> None:
    encoded = encode(
        torch.where(torch.rand(33, 70) < 0.01, any_bits((33, 70), dtype), values((33, 70), dtype)), "lossless"
    )
    refused = 0
    for seed in range(60):
        spoilt = damaged(encoded, seed)
        try:
            wanted = reference(spoilt)
        except CodecError:
            refused += 1
            with pytest.raises(CodecError, match="a block is damaged"):
                decode(spoilt)
            with pytest.raises(CodecError, match="a block is damaged"):
                matmul(torch.zeros(1, 70), spoilt)
        else:
            assert same_bits(decode(spoilt), wanted)
    assert 0 < refused < 60


def test_a_stream_that_ends_early_goes_on_with_zeros() -> None:
    encoded = encode(values((16, 64), torch.bfloat16), "lossless")
    payload = encoded.parts["payload"].clone()
    # The stream is the last thing in its only block: take 100 bytes off its length, and no more than its states stay.
    size = int(payload[2]) + 256 * int(payload[3])
    payload[2:4] = torch.tensor([(size - 100) % 256, (size - 100) // 256], dtype=torch.uint8)
    spoilt = with_parts(encoded, payload=payload)
    assert same_bits(decode(spoilt), reference(spoilt))


@pytest.mark.parametrize("change", ("mode", "sum", "last", "short", "dtype"))
def test_a_table_that_makes_no_sense_is_refused(change: str) -> None:
    encoded = encode(values((40, 100), torch.bfloat16), "lossless")
    table = encoded.parts["table"].clone()
    if change == "mode":
        table[0] = 3
    elif change == "sum":
        table[-1] ^= 1
    elif change == "last":
        table[-2], table[-1] = int(table[-1]) + int(table[-2]), 0
    elif change == "short":
        table = table[:-1]
    else:
        table = table.to(torch.int16)
    with pytest.raises(CodecError, match="lossless"):
        decode(with_parts(encoded, table=table))
    if change in ("mode", "sum", "last"):
        with pytest.raises(CodecError, match="table is damaged"):
            encoded.params.check_parts(encoded.shape, encoded.dtype, {**encoded.parts, "table": table})


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_argument_leads_native_code_astray(data: st.DataObject) -> None:
    encoded = encode(values((40, 100), torch.bfloat16), "lossless")
    number = st.one_of(st.sampled_from((0, 1, 16, 32, 40, 100)), st.integers(-(2**63), 2**63 - 1))
    parts = dict(encoded.parts)
    if data.draw(st.booleans()):
        offsets = data.draw(st.lists(number, min_size=4, max_size=4))
        parts["offsets"] = torch.tensor(offsets, dtype=torch.int64)
    buffers = [(part.data_ptr(), data.draw(st.sampled_from((part.nbytes, 0, 7)))) for part in parts.values()]
    dtype = data.draw(st.sampled_from(("bfloat16", "bfloat16", "float16", "int8")))
    weight = native.LosslessParts(*buffers, dtype, data.draw(number), data.draw(number))
    target = torch.full((40 * 100 + 1,), 7.0)
    room = (target.data_ptr(), 40 * 100 * 4)
    ranges = [(data.draw(number), data.draw(number)) for _ in range(2)]
    counts = (target.data_ptr(), data.draw(st.sampled_from((4096, 0, 7))))
    chosen = active()
    calls = (
        lambda: native.lossless_decode(chosen, weight, *ranges, "float32", room, 2),
        lambda: native.lossless_multiply(
            chosen, weight, ranges[0], room, (0, -1), room, "float32", data.draw(number), 2
        ),
        lambda: native.lossless_table(counts, dtype, room),
        lambda: native.lossless_encode(chosen, room, dtype, *ranges[0], buffers[2], room, room, 2),
    )
    for call in calls:
        try:
            call()
        except ValueError as error:
            assert str(error)
    assert target[-1] == 7.0


@pytest.fixture
def only_once(instruction_set: str) -> None:
    """For what doesn't depend on the instruction set."""
    if instruction_set != native.instruction_sets()[-1]:
        pytest.skip("the same for every instruction set")


@pytest.mark.usefixtures("only_once")
def test_operators_pass_opcheck() -> None:
    encoded = encode(values((40, 48), torch.bfloat16), "lossless")
    weight = tuple(encoded.parts[name] for name in ("payload", "offsets", "table"))
    ranges = (torch.bfloat16, 40, 48, 3, 37, 5, 40, torch.float32)
    torch.library.opcheck(torch.ops.tilepress.lossless_decode.default, (*weight, *ranges))
    for x in (torch.randn(2, 1, 48), torch.randn(20, 48).bfloat16()):
        bias = torch.randn(40, dtype=x.dtype)
        torch.library.opcheck(
            torch.ops.tilepress.lossless_matmul.default, (x, *weight, bias, torch.bfloat16, 40, 0, 40)
        )


class Layer(torch.nn.Module):
    """A product and a range of rows of one weight."""

    def __init__(self, encoded: Encoded) -> None:
        super().__init__()
        self.encoded = encoded
        for name, part in encoded.parts.items():
            self.register_buffer(name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        encoded = with_parts(self.encoded, **dict(self.named_buffers()))
        return torch.relu(matmul(x, encoded)) + decode(encoded, slice(0, 1), slice(0, 40), dtype=x.dtype)


@pytest.mark.usefixtures("only_once")
def test_a_layer_compiles_and_exports_as_one_graph() -> None:
    layer = Layer(encode(values((40, 48), torch.bfloat16), "lossless"))
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


def test_version_1_is_still_written_and_read() -> None:
    weight = values((40, 100), torch.bfloat16)
    encoded = encode(weight, "lossless:version=1")
    assert list(encoded.parts) == ["payload", "offsets"]
    assert same_bits(decode(encoded), weight)
    for count in (2, 20):
        x = values((count, 100), torch.bfloat16, seed=1)
        assert torch.equal(matmul(x, encoded), torch.nn.functional.linear(x, weight))
