"""Trellis codes: what they mean, how close they come, and the rotation that they are applied in."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tilepress.compress.codecs import encode
from tilepress.compress.codecs.trellis import SURVIVORS, Basis, assemble, choose_scales, quantize_strip
from tilepress.kernels import CodecError, Encoded, backend_of, decode, matmul, parse_spec
from tilepress.kernels.layout.rotation import MOST_ODD, hartley, rotation_of
from tilepress.kernels.layout.trellis import TrellisParams, places
from tilepress.kernels.reference import trellis as reference
from tilepress.kernels.reference.rotation import rotate, rotate_back
from tilepress.kernels.reference.trellis import integers_of

native = importlib.import_module("tilepress.kernels._native")
active = importlib.import_module("tilepress.kernels.cpu.instruction_set").instruction_set
search = importlib.import_module("tilepress.kernels.cpu.trellis_search").search

SHAPES = ((1, 1), (1, 48), (17, 33), (40, 576), (3, 20, 24), (96, 101))


@pytest.fixture(params=native.instruction_sets())
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TILEPRESS_CPU", request.param)
    active.cache_clear()
    yield request.param
    active.cache_clear()


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).square().sum() / wanted.double().square().sum())


def signs(side: int) -> torch.Tensor:
    return torch.randint(0, 256, (side // 8,), dtype=torch.uint8, generator=torch.Generator().manual_seed(side))


def hostile(shape: tuple[int, ...], spec: str, *, is_wild: bool = False) -> Encoded:
    """Random codes and signs, with scales that are random bytes or moderate."""
    params = parse_spec(spec)
    generator = torch.Generator().manual_seed(len(spec))
    parts = {}
    for name, part in params.part_specs(shape, torch.float32).items():
        size = math.prod(part.shape) * part.dtype.itemsize
        data = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
        parts[name] = data.view(part.dtype).reshape(part.shape)
        if name == "scales" and not is_wild:
            parts[name] = torch.rand(part.shape, generator=generator).add(0.5).mul(1e-3).bfloat16()
    return Encoded(params, shape, torch.float32, parts)


def dense(encoded: Encoded) -> torch.Tensor:
    return reference.decode(encoded, range(encoded.rows), range(encoded.columns))


def walk(codes: bytes, bits: int, window: int) -> list[list[int]]:
    """The values of one tile, from the words of docs/codecs.md, bit by bit."""
    tile = [[0] * 16 for _ in range(16)]
    string = [codes[i // 8] >> (i % 8) & 1 for i in range(256 * bits)]
    for t in range(256):
        state = sum(string[(t * bits + i) % len(string)] << i for i in range(window))
        mixed = 0x83DCD12D * state % 2**32
        lane, half = divmod(t, 8)
        row, column = lane // 4 + 8 * (half // 2 % 2), 2 * (lane % 4) + half % 2 + 8 * (half // 4)
        tile[row][column] = sum(mixed.to_bytes(4, "little")) - 510
    return tile


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("window", (12, 15, 16))
def test_a_tile_decodes_as_the_documentation_says(bits: int, window: int) -> None:
    codes = torch.from_numpy(np.random.default_rng(bits).integers(0, 256, (1, 1, 32 * bits), dtype=np.uint8))
    found = integers_of(codes, bits, window)
    assert found.tolist() == walk(codes.numpy().tobytes(), bits, window)
    assert len(set(found.flatten().tolist())) > 100


@pytest.mark.parametrize("side", (16, 48, 144, 576, 1536, 16 * 131, 16 * 9 * 49, 8192))
def test_the_rotation_is_orthogonal_and_has_an_inverse(side: int) -> None:
    x = values(3, side)
    turned = rotate(x, signs(side))
    assert torch.allclose(turned.norm(dim=1), x.norm(dim=1), rtol=1e-5)
    assert torch.allclose(rotate_back(turned, signs(side)), x, atol=1e-5)
    precise = rotate(x.double(), signs(side))
    assert torch.allclose(turned.double(), precise, atol=1e-5)


@pytest.mark.parametrize("side", (576, 1536, 2048, 11008))
def test_the_rotation_spreads_a_single_value_over_the_whole_side(side: int) -> None:
    x = torch.zeros(1, side)
    x[0, side // 3] = 1.0
    assert rotate(x, signs(side)).abs().max() <= 1.5 / math.sqrt(side)
    assert rotation_of(side).block == side


def test_no_table_of_the_rotation_depends_on_the_last_digits_of_a_library() -> None:
    """Sines that are off by a thousand units in the last place still round to the same float32."""
    for odd in range(1, MOST_ODD + 1, 2):
        angles = 2 * np.pi * np.arange(odd) / odd
        row = (np.cos(angles) + np.sin(angles)) / np.sqrt(odd)
        allowed = 1000 * np.finfo(np.float64).eps
        assert np.array_equal((row - allowed).astype(np.float32), (row + allowed).astype(np.float32)), odd
        assert np.array_equal(hartley(odd)[1 % odd].numpy(), row.astype(np.float32))


@pytest.mark.parametrize("spec", ("trellis:bits=3", "trellis:bits=5,rotate=columns", "trellis:bits=8,rotate=none"))
def test_tensors_of_any_shape_come_back_close(spec: str, instruction_set: str) -> None:
    params = parse_spec(spec)
    assert isinstance(params, TrellisParams)
    for shape in SHAPES:
        weight = values(*shape)
        encoded = encode(weight, f"{spec},effort=fast")
        assert {name: tuple(part.shape) for name, part in encoded.parts.items()} == {
            name: part.shape for name, part in params.part_specs(shape, torch.float32).items()
        }
        assert relative_error(decode(encoded), weight) < 3.0 * 4.0**-params.bits


@pytest.mark.parametrize(("bits", "over"), ((2, 0.09), (3, 0.10), (4, 0.13)))
def test_an_exact_search_comes_close_to_the_rate_distortion_bound(bits: int, over: float) -> None:
    weight = values(16, 256, seed=5)
    params = parse_spec(f"trellis:bits={bits},effort=exact,rotate=none")
    assert isinstance(params, TrellisParams)
    scales = torch.full((16,), float(weight.square().mean().sqrt()) / (140.0 - 2.0 * bits)).bfloat16()
    _, found = quantize_strip(weight, scales, params)
    assert bits + 0.5 * math.log2(relative_error(found, weight)) < over


@pytest.mark.parametrize("bits", range(1, 9))
def test_all_instruction_sets_find_the_same_codes(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name in native.instruction_sets():
        monkeypatch.setenv("TILEPRESS_CPU", name)
        active.cache_clear()
        encoded = [encode(values(16, 48), f"trellis:bits={bits},window={window}") for window in (12, 16)]
        found.append([one.parts["codes"] for one in encoded])
    active.cache_clear()
    assert all(torch.equal(a, b) for other in found for a, b in zip(other, found[0], strict=True))


def test_codes_do_not_depend_on_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(encode(values(32, 320), "trellis:bits=4,window=12").parts["codes"])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])


def cheapest_cycle(wanted: torch.Tensor, codes: torch.Tensor, bits: int, window: int) -> float:
    """The least squared error of a tile's cyclic paths that have the memory of `codes` at the seam, state by state."""
    memory_bits = window - bits
    memories = np.arange(1 << memory_bits)
    branches = np.arange(1 << bits)[:, None] << memory_bits | memories  # [origin, memory]
    book = integers_by_state(window)[branches]
    string = int.from_bytes(codes.numpy().tobytes(), "little")
    seam = string & ((1 << memory_bits) - 1)
    rows, columns = places()
    costs = np.full(1 << memory_bits, np.inf)
    costs[seam] = 0.0
    for step in reversed(range(256)):
        target = float(wanted[rows[step], columns[step]])
        costs = (costs[branches >> bits] + (book - target) ** 2).min(axis=0)
    return float(costs[seam])


def integers_by_state(window: int) -> np.ndarray:
    mixed = (np.arange(1 << window, dtype=np.uint64) * 0x83DCD12D & 0xFFFFFFFF).astype("<u4")
    return mixed.view(np.uint8).reshape(-1, 4).sum(axis=1).astype(np.int64) - 510


@pytest.mark.parametrize("bits", range(1, 9))
def test_an_exact_search_finds_what_trying_every_state_finds(bits: int) -> None:
    wanted = values(16, 16, seed=bits) * 120
    codes, found = search(wanted, bits, 12, 0)
    error = float((found - wanted).double().square().sum())
    least = cheapest_cycle(wanted, codes[0, 0], bits, 12)
    assert least * (1 - 1e-6) <= error <= least * 1.01


@pytest.mark.parametrize("bits", range(1, 9))
def test_following_some_paths_loses_little_against_all(bits: int) -> None:
    wanted = values(32, 48, seed=bits) * 125
    errors = {
        effort: float((search(wanted, bits, 16, survivors[bits - 1])[1] - wanted).double().square().sum())
        for effort, survivors in SURVIVORS.items()
    }
    assert errors["normal"] < 1.08 * errors["exact"]
    assert errors["fast"] < 1.25 * errors["exact"]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_codes_decode_to_what_the_search_says_whatever_is_wanted(data: st.DataObject) -> None:
    """The ends meet, for targets out of reach too, and codes stay near where codes are."""
    bits, window = data.draw(st.integers(1, 8)), data.draw(st.integers(12, 16))
    survivors = data.draw(st.sampled_from((0, 1, 7, 100, 1000, 65536)))
    scale, shift = data.draw(st.sampled_from((0.0, 1.0, 100.0, 3e4))), data.draw(st.sampled_from((0.0, 450.0, -1e30)))
    wanted = values(16, 32, seed=bits) * scale + shift
    codes, found = search(wanted, bits, window, survivors)
    assert torch.equal(integers_of(codes, bits, window), found.long())
    if survivors == 0 and scale == 1.0 and shift == 0.0:
        assert found.square().mean() < 2.0 * 150.0**2 * 4.0**-bits


def test_a_more_thorough_search_finds_better_codes() -> None:
    weight = values(32, 96)
    errors = [relative_error(decode(encode(weight, f"trellis:bits=4,effort={effort}")), weight)
              for effort in ("fast", "normal", "exact")]  # fmt: skip
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("window", (12, 16))
def test_strips_put_together_are_the_matrix(window: int) -> None:
    weight = values(40, 70)
    params = parse_spec(f"trellis:bits=4,window={window}")
    assert isinstance(params, TrellisParams)
    whole = encode(weight, params)
    basis = Basis.of((40, 70), params)
    rotated = basis.rotate_weight(weight)
    scales = choose_scales(rotated, params)
    strips = [quantize_strip(rotated[:, first : first + 16], scales, params) for first in range(0, 80, 16)]
    joined = assemble([codes for codes, _ in strips], scales, basis, params, (40, 70), torch.float32)
    assert all(torch.equal(joined.parts[name], part) for name, part in whole.parts.items())
    plain = Encoded(parse_spec(f"trellis:bits=4,window={window},rotate=none"), (48, 80), torch.float32,
                    {name: whole.parts[name] for name in ("codes", "scales")})  # fmt: skip
    assert torch.equal(decode(plain), torch.cat([found for _, found in strips], 1))


def test_rotated_second_moments_are_those_of_rotated_inputs() -> None:
    params = parse_spec("trellis:bits=4")
    assert isinstance(params, TrellisParams)
    basis = Basis.of((32, 70), params)
    assert basis.column_signs is not None
    x = values(200, 70).double()
    rotated = rotate(torch.nn.functional.pad(x, (0, 10)), basis.column_signs)
    assert torch.allclose(basis.rotate_moments(x.T @ x), rotated.T @ rotated, atol=1e-9)
    weight = values(32, 70).double()
    assert torch.allclose(basis.rotate_weight(weight).square().sum(), weight.square().sum())


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_range_decodes_alone(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 100))
    rotation = data.draw(st.sampled_from(("both", "columns", "none")))
    encoded = encode(values(rows, columns), f"trellis:bits=6,window=12,rotate={rotation},effort=fast")
    first, last = sorted((data.draw(st.integers(0, rows)), data.draw(st.integers(0, rows))))
    left, right = sorted((data.draw(st.integers(0, columns)), data.draw(st.integers(0, columns))))
    piece = decode(encoded, slice(first, last), slice(left, right))
    assert torch.equal(piece, decode(encoded)[first:last, left:right])


def test_an_error_is_measured_with_each_block_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = importlib.import_module("tilepress.formats.measure")
    decoded = []

    def counted(encoded: Encoded, rows: slice) -> torch.Tensor:
        decoded.append(rows.start)
        return decode(encoded, rows)

    monkeypatch.setattr(measure, "decode", counted)
    monkeypatch.setattr(measure, "_RUN_VALUES", 16 * 32)
    for rotation, times in (("both", 1), ("columns", 6)):
        decoded.clear()
        encoded = hostile((96, 32), f"trellis:bits=4,rotate={rotation}")
        weight = dense(encoded) + 1e-3 * values(96, 32)
        error = measure.measure_error(weight, encoded)
        assert len(decoded) == times
        assert error.max_abs == pytest.approx(float((weight - dense(encoded)).abs().max()))
        assert error.relative_rms == pytest.approx(relative_error(dense(encoded), weight) ** 0.5, rel=1e-4)


def test_large_and_stacked_weights_keep_rows_apart() -> None:
    params = TrellisParams()
    assert params.sides((16384, 64)).rows
    assert not params.sides((16385, 64)).rows
    assert not params.sides((4, 64, 64)).rows
    assert params.sides((4, 64, 64)).columns


def test_zeros_are_kept_and_hopeless_values_refused() -> None:
    assert torch.equal(decode(encode(torch.zeros(16, 32), "trellis:window=12")), torch.zeros(16, 32))
    assert decode(encode(torch.zeros(0, 8), "trellis")).shape == (0, 8)
    tiny = values(16, 32) * 1e-30
    assert relative_error(decode(encode(tiny, "trellis:window=12")) * 1e30, tiny * 1e30) < 0.02
    for bad in (float("nan"), float("inf"), 1e38):
        with pytest.raises(CodecError):
            encode(torch.full((16, 16), bad), "trellis")


@pytest.mark.parametrize("spec", ("trellis:bits=9", "trellis:window=17", "trellis:rotate=rows", "trellis:effort=some"))
def test_specs_that_make_no_sense_are_refused(spec: str) -> None:
    with pytest.raises(CodecError):
        parse_spec(spec)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("rotation", ("both", "columns", "none"))
def test_native_decoding_is_bit_identical_and_products_agree(bits: int, rotation: str, instruction_set: str) -> None:
    assert backend_of("trellis", "cpu").name == "cpu"
    for window in (12, 13, 16):
        for shape in ((1, 1), (40, 70), (96, 576), (3, 16, 24)):
            encoded = hostile(shape, f"trellis:bits={bits},window={window},rotate={rotation}")
            weight = dense(encoded)
            assert torch.equal(decode(encoded).reshape(weight.shape), weight)
            assert torch.equal(decode(encoded, dtype=torch.bfloat16).reshape(weight.shape), weight.bfloat16())
            bias = values(encoded.rows, seed=3)
            for count in (1, 3, 8, 9):
                x = values(count, encoded.columns, seed=count)
                allowed = 1e-5 * (x.abs() @ weight.abs().T + 1).amax()
                assert ((matmul(x, encoded, bias) - x @ weight.T - bias).abs() <= allowed).all()


@pytest.mark.parametrize("rotation", ("both", "columns", "none"))
def test_any_bytes_decode_as_the_reference_decodes_them(rotation: str, instruction_set: str) -> None:
    encoded = hostile((40, 70), f"trellis:bits=5,rotate={rotation}", is_wild=True)
    found, wanted = decode(encoded), dense(encoded)
    assert torch.equal(found.isnan(), wanted.isnan())
    assert torch.equal(found[~found.isnan()], wanted[~wanted.isnan()])


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
def test_half_precision_x_loses_little(dtype: torch.dtype, instruction_set: str) -> None:
    encoded = hostile((96, 576), "trellis:bits=4")
    weight = dense(encoded)
    for count in (1, 8, 40):
        x = values(count, 576, seed=count).to(dtype)
        found, wanted = matmul(x, encoded), x.float() @ weight.T
        assert found.dtype == dtype
        assert relative_error(found, wanted) < (4 * torch.finfo(dtype).eps) ** 2


@pytest.mark.parametrize("rotation", ("both", "none"))
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float32), ids=str)
def test_outliers_and_extreme_x_are_multiplied_as_float32_does(
    rotation: str, dtype: torch.dtype, instruction_set: str
) -> None:
    encoded = hostile((40, 300), f"trellis:bits=4,rotate={rotation}")
    weight = dense(encoded).double()
    for size in (1e-42, 1e-20, 1.0, 1e30):
        for count in (1, 2, 3, 8):
            x = values(count, 300, seed=count)
            x[0, 7] = 1e5
            x[-1, 140:] = 0
            x = (x * size).to(dtype)
            found, wanted = matmul(x, encoded).double(), x.double() @ weight.T
            before = 2e-5 if rotation == "both" and dtype == torch.bfloat16 else 1e-6
            norms = x.double().norm(dim=1, keepdim=True) * weight.norm(dim=1).max()
            allowed = torch.finfo(dtype).eps * wanted.abs() + before * norms + 1e-36
            assert ((found - wanted).abs() <= allowed).all(), (size, count)
    x[0, 3] = float("nan")
    assert matmul(x, encoded)[0].isnan().all()


@pytest.mark.parametrize("bits", (1, 8))
def test_the_largest_sums_of_a_block_do_not_overflow(bits: int, instruction_set: str) -> None:
    params = parse_spec(f"trellis:bits={bits},window=12,rotate=none")
    for byte in (0, 255, 0x11, 0xEE):
        parts = {"codes": torch.full((1, 16, 32 * bits), byte, dtype=torch.uint8),
                 "scales": torch.ones(1, 16, dtype=torch.bfloat16)}  # fmt: skip
        encoded = Encoded(params, (16, 256), torch.float32, parts)
        for x in (torch.ones(1, 256), -torch.ones(5, 256)):
            assert torch.allclose(matmul(x, encoded), x @ dense(encoded).T, rtol=1e-6)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_range_of_rows_multiplies_alone(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 100))
    rotation = data.draw(st.sampled_from(("both", "columns", "none")))
    encoded = hostile((rows, columns), f"trellis:bits=4,rotate={rotation}")
    x = values(data.draw(st.integers(0, 5)), columns)
    first, last = sorted((data.draw(st.integers(0, rows)), data.draw(st.integers(0, rows))))
    assert torch.equal(matmul(x, encoded, rows=slice(first, last)), matmul(x, encoded)[:, first:last])


@pytest.mark.parametrize("part", ("codes", "scales", "column_signs", "row_signs"))
def test_parts_that_do_not_fit_are_refused(part: str, instruction_set: str) -> None:
    encoded = hostile((40, 100), "trellis:bits=3")
    whole = encoded.parts[part]
    for spoilt in (whole[:-1], torch.cat([whole, whole]), whole.to(torch.int16), whole[:0]):
        other = Encoded(encoded.params, encoded.shape, encoded.dtype, {**encoded.parts, part: spoilt})
        with pytest.raises(CodecError):
            decode(other)
        for count in (1, 20):
            with pytest.raises(CodecError):
                matmul(torch.zeros(count, 100), other)


@pytest.mark.parametrize("shape", [(40, 113), (57, 100)])
def test_codes_of_fewer_rows_or_columns_are_refused(shape: tuple[int, int]) -> None:
    encoded = hostile((40, 100), "trellis:bits=3,rotate=none")
    with pytest.raises(CodecError, match="of fewer rows or columns"):
        decode(Encoded(encoded.params, shape, encoded.dtype, encoded.parts))


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    encoded = hostile((1600, 640), "trellis:bits=4")
    x = values(2, 640)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append((decode(encoded), matmul(x, encoded)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_operators_pass_opcheck() -> None:
    module = importlib.import_module("tilepress.kernels.cpu.trellis")
    for spec in ("trellis:bits=4", "trellis:bits=3,rotate=none"):
        weight = module.weight_of(hostile((40, 48), spec))
        operators = torch.ops.tilepress
        torch.library.opcheck(operators.trellis_decode.default, (*weight, 48, 3, 37, 5, 40, torch.bfloat16))
        for x in (torch.randn(2, 1, 48), torch.randn(20, 48).bfloat16()):
            bias = torch.randn(40, dtype=x.dtype)
            torch.library.opcheck(operators.trellis_matmul.default, (x, *weight[:4], bias, *weight[4:], 0, 40))


def test_a_layer_compiles_as_one_graph() -> None:
    encoded = hostile((40, 48), "trellis:bits=4")

    def layer(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(matmul(x, encoded)) + decode(encoded, slice(0, 1), slice(0, 40))

    x = torch.randn(3, 48)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))
