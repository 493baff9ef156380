"""The store of a KV cache: what comes back, how it grows, shrinks and is reordered, and what it takes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tilepress.kernels import CodecError, kv_coding
from tilepress.kernels.kv_store import KvStore
from tilepress.kernels.layout.kv import KvLayout, parse_kv_spec
from tilepress.kernels.reference import kv

SPECS = ("none", "int:bits=8", "int:bits=4", "int:bits=2", "fp8", "int:bits=4,group=32", "fp8:group=16", "zfp:rate=8")


def states(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normal values with a channel that is far from the others, as keys have."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    values[..., 3] += 20.0
    return values.to(dtype)


def filled(spec: str, tokens: int, window: int = 16, dtype: torch.dtype = torch.float32) -> KvStore:
    store = KvStore(parse_kv_spec(spec), window)
    store.append(states(2, 3, tokens, 32, dtype=dtype), states(2, 3, tokens, 48, seed=1, dtype=dtype))
    return store


def contents(store: KvStore) -> tuple[torch.Tensor, torch.Tensor]:
    return store.dense_keys(), store.dense_values()


def assert_same(store: KvStore, wanted: tuple[torch.Tensor, torch.Tensor]) -> None:
    for found, want in zip(contents(store), wanted, strict=True):
        assert torch.equal(found, want)


@pytest.mark.parametrize("group", [64, 128])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_integers_err_by_half_a_step_of_their_own_group(bits: int, group: int) -> None:
    layout = KvLayout(parse_kv_spec(f"int:bits={bits},group={group}"), 32, 144, torch.float32)
    keys, values = states(2, 3, group, 32), states(2, 3, group, 144, seed=1)
    tiles = kv.encode(keys, values, layout)
    assert tiles.shape == (2, 3, layout.tile_bytes)
    steps = (1 << bits) - 1

    def half_step(piece: torch.Tensor, dim: int) -> torch.Tensor:
        lowest, highest = piece.amin(dim, keepdim=True), piece.amax(dim, keepdim=True)
        return ((highest - lowest) * 1.01 + lowest.abs() / 128) / steps / 2

    assert bool(((kv.decode_keys(tiles, layout) - keys).abs() <= half_step(keys, -2)).all())
    decoded = kv.decode_values(tiles, layout)
    for found, wanted in zip(decoded.split(group, dim=-1), values.split(group, dim=-1), strict=True):
        assert bool(((found - wanted).abs() <= half_step(wanted, -1)).all())


def test_fp8_errs_by_a_sixteenth_of_each_value() -> None:
    layout = KvLayout(parse_kv_spec("fp8"), 32, 48, torch.float32)
    keys, values = states(3, 64, 32), states(3, 64, 48, seed=1)
    tiles = kv.encode(keys, values, layout)
    torch.testing.assert_close(kv.decode_keys(tiles, layout), keys, rtol=1 / 15, atol=1e-3)
    torch.testing.assert_close(kv.decode_values(tiles, layout), values, rtol=1 / 15, atol=1e-3)


@pytest.mark.parametrize("spec", ["zfp:rate=8", "zfp:rate=1", "zfp:group=16,rate=5.3"])
def test_tiles_of_zfp_are_zfpys_streams(spec: str) -> None:
    layout = KvLayout(parse_kv_spec(spec), 32, 48, torch.bfloat16)
    keys = states(2, 3, layout.group, 32, dtype=torch.bfloat16)
    values = states(2, 3, layout.group, 48, seed=1, dtype=torch.bfloat16)
    tiles = kv_coding.encode(keys, values, layout)
    assert torch.equal(tiles, kv.encode(keys, values, layout))
    assert tiles.shape[-1] == layout.tile_bytes
    assert torch.equal(kv_coding.decode_keys(tiles, layout), kv.decode_keys(tiles, layout))
    assert torch.equal(kv_coding.decode_values(tiles, layout), kv.decode_values(tiles, layout))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1 << 30), scale=st.floats(1e-20, 1e20), spread=st.integers(0, 12))
def test_zfp_errs_by_a_small_part_of_the_largest_value_of_a_block(seed: int, scale: float, spread: int) -> None:
    layout = KvLayout(parse_kv_spec("zfp:group=16,rate=16"), 16, 16, torch.float32)
    keys = torch.randn(16, 16, generator=torch.Generator().manual_seed(seed)) * scale
    keys *= 2.0 ** (torch.arange(16.0) * spread / 4)
    tiles = kv_coding.encode(keys[None], keys[None].flip(-1), layout)
    for found, came in (
        (kv_coding.decode_keys(tiles, layout)[0], keys),
        (kv_coding.decode_values(tiles, layout)[0], keys.flip(-1)),
    ):
        largest = came.abs().unflatten(0, (4, 4)).unflatten(2, (4, 4)).amax((1, 3), keepdim=True)
        error = (found - came).abs().unflatten(0, (4, 4)).unflatten(2, (4, 4))
        assert bool((error <= largest / 128).all())


@pytest.mark.parametrize("spec", SPECS)
def test_values_that_are_not_finite_and_bytes_of_any_kind_do_no_harm(spec: str) -> None:
    layout = KvLayout(parse_kv_spec(spec), 32, 48, torch.float32)
    keys, values = states(2, layout.group, 32), states(2, layout.group, 48)
    keys[0, 1, 2], values[0, 3, 4], values[0, 5] = torch.inf, torch.nan, -torch.inf
    tiles = kv_coding.encode(keys, values, layout)
    wanted = kv_coding.encode(states(2, layout.group, 32), states(2, layout.group, 48), layout)
    assert torch.equal(tiles[1], wanted[1])
    tiles = torch.randint(0, 256, tiles.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    assert kv_coding.decode_keys(tiles, layout).shape == keys.shape
    assert kv_coding.decode_values(tiles, layout).shape == values.shape


@pytest.mark.parametrize("spec", SPECS)
def test_groups_of_equal_values_come_back_as_they_are(spec: str) -> None:
    layout = KvLayout(parse_kv_spec(spec), 16, 16, torch.float32)
    for value in (0.0, -2.5, 3.0):
        keys = torch.full((1, layout.group, 16), value)
        tiles = kv.encode(keys, keys, layout)
        torch.testing.assert_close(kv.decode_keys(tiles, layout), keys, rtol=0.01, atol=0)
        torch.testing.assert_close(kv.decode_values(tiles, layout), keys, rtol=0.01, atol=0)


def test_bytes_of_a_tile_are_as_the_layout_draws_them() -> None:
    layout = KvLayout(parse_kv_spec("int:bits=4"), 16, 32, torch.float32)
    token = torch.arange(64.0) % 16
    keys, values = token[:, None].expand(64, 16), (torch.arange(32.0) % 16).expand(64, 32)
    sections = layout.split(kv.encode(keys, values, layout))
    rows = torch.arange(32) % 16
    assert torch.equal(sections["key_codes"][5], (rows | rows << 4).to(torch.uint8))  # tokens r and r + 32 of a channel
    channels = torch.arange(32) % 16
    assert torch.equal(sections["value_codes"][7], (channels | channels << 4).to(torch.uint8))
    assert sections["key_scales"].eq(1.0).all()
    assert sections["value_minima"].eq(0.0).all()
    assert layout.tile_bytes == 16 * 32 + 32 * 32 + 2 * 16 * 2 + 2 * 64 * 2


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_token_by_token_is_the_same_as_a_few_at_a_time(spec: str, dtype: torch.dtype) -> None:
    keys, values = states(2, 3, 150, 32, dtype=dtype), states(2, 3, 150, 48, seed=1, dtype=dtype)
    one, many = KvStore(parse_kv_spec(spec)), KvStore(parse_kv_spec(spec))
    for token in range(150):
        one.append(keys[:, :, token : token + 1], values[:, :, token : token + 1])
        assert one.tokens == token + 1
    for first in range(0, 150, 30):
        many.append(keys[:, :, first : first + 30], values[:, :, first : first + 30])
    assert one.encoded_tokens >= 64
    shared = min(one.encoded_tokens, many.encoded_tokens)
    for found, wanted, came in zip(contents(one), contents(many), (keys, values), strict=True):
        assert found.dtype == dtype
        assert torch.equal(found[:, :, :shared], wanted[:, :, :shared])
        assert torch.equal(found[:, :, one.encoded_tokens :], came[:, :, one.encoded_tokens :])
        if spec == "none":
            assert torch.equal(found, came)


def test_blocks_stay_where_they_are_when_tokens_follow() -> None:
    store = filled("int:bits=4", 200)
    addresses = [block.data_ptr() for block in store.blocks]
    for _ in range(130):
        store.append(states(2, 3, 1, 32), states(2, 3, 1, 48))
    assert [block.data_ptr() for block in store.blocks][: len(addresses)] == addresses
    assert len(store.blocks) > len(addresses)


@pytest.mark.parametrize("window", [0, 16, 100])
def test_the_newest_tokens_stay_dense(window: int) -> None:
    store = filled("int:bits=2", 500, window)
    dense = store.tokens - store.encoded_tokens
    assert window <= dense <= window + 64
    assert torch.equal(store.window_keys, states(2, 3, 500, 32)[:, :, -dense:] if dense else store.window_keys)


def test_pieces_are_the_whole_sequence() -> None:
    store = filled("int:bits=4", 400)
    pieces = list(store.pieces(128))
    assert [first for first, _, _ in pieces] == [0, 128, 256, 384]
    assert torch.equal(torch.cat([keys for _, keys, _ in pieces], dim=2), store.dense_keys())
    assert torch.equal(torch.cat([values for _, _, values in pieces], dim=2), store.dense_values())


@pytest.mark.parametrize("tokens", [399, 384, 383, 321, 320, 64, 5, 0])
def test_crop_keeps_the_first_tokens_and_goes_on(tokens: int) -> None:
    store = filled("int:bits=4", 400)
    keys, values = contents(store)
    store.crop(tokens)
    assert store.tokens == tokens
    assert_same(store, (keys[:, :, :tokens], values[:, :, :tokens]))
    store.append(states(2, 3, 100, 32, seed=3), states(2, 3, 100, 48, seed=4))
    assert store.tokens == tokens + 100
    assert torch.equal(store.dense_keys()[:, :, -10:], states(2, 3, 100, 32, seed=3)[:, :, -10:])


def test_tiles_before_a_token_are_forgotten() -> None:
    store, whole = filled("int:bits=4", 4000), filled("int:bits=4", 4000)
    for before, first in ((63, 0), (64, 64), (700, 640), (100, 640), (3000, 2944), (4000, 3968)):
        assert store.first_without(before) == first
        store.forget(before)
        assert (store.first, store.tokens) == (first, 4000 - first)
        assert_same(store, tuple(states[:, :, first:] for states in contents(whole)))
        assert sum(block.untyped_storage().nbytes() for block in store.blocks) == sum(b.nbytes for b in store.blocks)
    store.append(states(2, 3, 100, 32), states(2, 3, 100, 48))
    assert store.first + store.tokens == 4100


def test_tokens_that_come_first_can_be_skipped() -> None:
    store = KvStore(parse_kv_spec("int:bits=8"))
    store.append(states(2, 3, 300, 32), states(2, 3, 300, 48), first_seen=130)
    assert (store.first, store.tokens) == (130, 170)
    torch.testing.assert_close(store.dense_keys(), states(2, 3, 300, 32)[:, :, 130:], rtol=0, atol=0.02)


def test_a_cropped_store_gives_memory_back() -> None:
    store, small = filled("int:bits=4", 4000), filled("int:bits=4", 200)
    store.crop(200)
    assert sum(block.untyped_storage().nbytes() for block in store.blocks) <= small.nbytes


def test_sequences_are_reordered_repeated_and_chosen() -> None:
    store = filled("fp8", 200)
    keys, values = contents(store)
    blocks = store.blocks
    store.select(torch.tensor([0, 1]))
    assert store.blocks is blocks
    store.select(torch.tensor([1, 1, 0]))
    assert_same(store, (keys[[1, 1, 0]], values[[1, 1, 0]]))
    store.append(states(3, 3, 1, 32), states(3, 3, 1, 48))
    store.select(torch.tensor([False, True, True]))
    assert store.sequences == 2
    assert torch.equal(store.dense_keys()[:, :, :200], keys[[1, 0]])


def test_bytes_are_those_of_all_tensors() -> None:
    keys, values = states(1, 3, 4096, 64, dtype=torch.bfloat16), states(1, 3, 4096, 64, dtype=torch.bfloat16)
    store = KvStore(parse_kv_spec("int:bits=4"))
    store.append(keys, values)
    window = 2 * 3 * 80 * 64 * 2
    assert store.nbytes == 63 * 3 * store.layout.tile_bytes + window
    assert store.nbytes <= 0.30 * (keys.nbytes + values.nbytes)


def test_a_store_that_was_reset_takes_other_sizes() -> None:
    store = filled("int:bits=8", 300)
    store.reset()
    assert (store.tokens, store.nbytes) == (0, 0)
    store.append(states(1, 1, 5, 64), states(1, 1, 5, 64))
    assert store.tokens == 5


@pytest.mark.parametrize(
    "spec",
    ["zfp:tolerance=1e-3", "zfp:reversible=true", "zfp:rate=0.5", "zfp:rate=33", "zfp:rate=nan", "zfp:group=24",
     "int:bits=3", "int:bits=4,group=16", "int:bits=2,group=32", "fp8:group=0", "fp8:group=512",
     "none:bits=4", "int:bits=four", "int:symmetric=true", ""],
)  # fmt: skip
def test_specs_that_make_no_sense_are_refused(spec: str) -> None:
    with pytest.raises(CodecError):
        parse_kv_spec(spec)


def test_tokens_that_do_not_fit_are_refused() -> None:
    store = filled("int:bits=4", 20)
    good = states(2, 3, 1, 32), states(2, 3, 1, 48)
    for keys, values in (
        (states(1, 3, 1, 32), states(1, 3, 1, 48)),
        (states(2, 2, 1, 32), states(2, 2, 1, 48)),
        (states(2, 3, 1, 48), states(2, 3, 1, 48)),
        (states(2, 3, 2, 32), states(2, 3, 1, 48)),
        (states(3, 1, 32), states(3, 1, 48)),
        (good[0].bfloat16(), good[1].bfloat16()),
        (good[0].bfloat16(), good[1]),
    ):
        with pytest.raises(CodecError):
            store.append(keys, values)
    assert store.tokens == 20
    for size in (8, 40, 528):
        with pytest.raises(CodecError, match="channels"):
            KvStore(parse_kv_spec("fp8")).append(states(1, 1, 1, size), states(1, 1, 1, size))
    with pytest.raises(CodecError, match="float64"):
        KvStore(parse_kv_spec("fp8")).append(good[0].double(), good[1].double())
    with pytest.raises(CodecError, match="window=-1"):
        KvStore(parse_kv_spec("fp8"), -1)
    with pytest.raises(CodecError, match="-2"):
        store.crop(-2)
