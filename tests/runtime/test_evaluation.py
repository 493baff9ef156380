"""Evaluation against brute force and against Transformers' own loss; text, windows, and the cache of base logits."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tilepress.formats.text import cut_windows, default_text, read_text, total_tokens
from tilepress.kernels import RecipeError
from tilepress.runtime.base_logits import LogitsCache, logits_key
from tilepress.runtime.evaluation import evaluate, predictions

TEXT = "The quick brown fox jumps over the lazy dog, again and again. " * 20


@pytest.fixture(scope="module")
def tokenizer(llama: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(llama)


@pytest.fixture(scope="module")
def model(llama: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def windows(tokenizer: PreTrainedTokenizerBase) -> list[torch.Tensor]:
    return cut_windows(tokenizer, TEXT, tokens=150, window=64)


def test_model_against_itself_has_no_divergence(model: PreTrainedModel, windows: list[torch.Tensor]) -> None:
    accuracy = evaluate(predictions(model, windows), predictions(model, windows), windows)
    assert 0 <= accuracy.kl_mean < 1e-12
    assert accuracy.kl_p99 < 1e-12
    assert accuracy.top1 == 1.0


def test_divergence_and_agreement_match_a_sum_over_the_vocabulary(
    model: PreTrainedModel, windows: list[torch.Tensor]
) -> None:
    base = [logits.clone() for logits in predictions(model, windows)]
    noise = torch.Generator().manual_seed(3)
    candidate = [logits + 0.3 * torch.randn(logits.shape, generator=noise) for logits in base]
    divergences, agreements = [], []
    for ours, theirs in zip(candidate, base, strict=True):
        for q, p in zip(ours.double().numpy(), theirs.double().numpy(), strict=True):
            p_sum, q_sum = math.fsum(np.exp(p)), math.fsum(np.exp(q))
            terms = np.exp(p) / p_sum * ((p - math.log(p_sum)) - (q - math.log(q_sum)))
            divergences.append(math.fsum(terms))
            agreements.append(p.argmax() == q.argmax())
    accuracy = evaluate(candidate, base, windows)
    assert accuracy.kl_mean == pytest.approx(np.mean(divergences), rel=1e-9)
    assert accuracy.kl_median == pytest.approx(np.quantile(divergences, 0.5), rel=1e-9)
    assert accuracy.kl_p99 == pytest.approx(np.quantile(divergences, 0.99), rel=1e-9)
    assert accuracy.top1 == pytest.approx(np.mean(agreements))
    assert 0.01 < accuracy.kl_mean < 0.2
    assert accuracy.top1 < 1


def test_perplexity_matches_the_loss_of_transformers(model: PreTrainedModel, windows: list[torch.Tensor]) -> None:
    with torch.no_grad():
        losses = [model(input_ids=window[None], labels=window[None]).loss.double().item() for window in windows]
    weights = [len(window) - 1 for window in windows]
    expected = math.exp(np.average(losses, weights=weights))
    accuracy = evaluate(predictions(model, windows), predictions(model, windows), windows)
    assert accuracy.perplexity == pytest.approx(expected, rel=1e-6)


def test_tokens_that_the_base_rules_out_count_nothing() -> None:
    base = torch.tensor([[0.0, 0.0, -math.inf]])
    candidate = torch.tensor([[0.0, 0.0, 0.0]])
    window = torch.tensor([0, 1])
    assert evaluate([candidate], [base], [window]).kl_mean == pytest.approx(math.log(3 / 2))
    assert evaluate([base], [base], [window]).kl_mean == 0


def test_other_vocabulary_is_refused() -> None:
    with pytest.raises(RecipeError, match="7 logits a token, the base 8"):
        evaluate([torch.zeros(1, 7)], [torch.zeros(1, 8)], [torch.tensor([0, 1])])


def test_windows_follow_each_other_without_gap_or_overlap(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer(TEXT)["input_ids"]
    windows = cut_windows(tokenizer, TEXT, tokens=150, window=64)
    assert [len(window) for window in windows] == [64, 64, 22]
    assert torch.cat(windows).tolist() == ids[:150]
    assert total_tokens(windows) == 150


def test_no_window_has_nothing_to_predict(tokenizer: PreTrainedTokenizerBase) -> None:
    assert [len(window) for window in cut_windows(tokenizer, TEXT, tokens=129, window=64)] == [64, 64]
    assert [len(window) for window in cut_windows(tokenizer, "abcdefg", tokens=999, window=3)] == [3, 3]


def test_each_window_begins_as_the_tokenizer_begins_a_text(llama: Path) -> None:
    class WithBeginning:
        """A tokenizer that puts a token of its own in front."""

        inner = AutoTokenizer.from_pretrained(llama)
        bos_token_id = 256

        def __call__(self, text: str, add_special_tokens: bool = True, **options: object) -> dict[str, list[int]]:
            return {"input_ids": [256] * add_special_tokens + self.inner(text)["input_ids"]}

    windows = cut_windows(WithBeginning(), TEXT, tokens=100, window=40)  # type: ignore[arg-type]
    assert [window[0].item() for window in windows] == [256] * 3
    assert [len(window) for window in windows] == [40, 40, 20]
    joined = torch.cat([window[1:] for window in windows]).tolist()
    assert joined == WithBeginning.inner(TEXT)["input_ids"][:97]


@pytest.mark.parametrize(("text", "tokens", "window"), [("a", 10, 10), ("", 10, 10), (TEXT, 1, 10), (TEXT, 10, 1)])
def test_nothing_to_predict_is_refused(tokenizer: PreTrainedTokenizerBase, text: str, tokens: int, window: int) -> None:
    with pytest.raises(RecipeError):
        cut_windows(tokenizer, text, tokens, window)


def test_text_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"missing.txt: can't be read"):
        read_text(tmp_path / "missing.txt")
    latin = tmp_path / "latin.txt"
    latin.write_bytes("café".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"latin.txt: is not UTF-8 at byte 3"):
        read_text(latin)


def test_default_text_is_long_and_always_the_same() -> None:
    assert len(default_text()) > 200_000
    assert read_text(None) == default_text()


def some_logits(dtype: torch.dtype, rows: tuple[int, ...] = (5, 3)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(count, 11, generator=generator).to(dtype) for count in rows]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_stored_logits_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    cache, logits = LogitsCache(tmp_path / "new"), some_logits(dtype)
    assert cache.find("key") is None
    stored = cache.store("key", iter(logits), [5, 3])
    for found in (stored, cache.find("key")):
        assert found is not None
        for _ in range(2):
            for ours, theirs in zip(found, logits, strict=True):
                assert ours.dtype == dtype
                assert torch.equal(ours, theirs)


def test_any_flipped_byte_and_any_truncation_is_found(tmp_path: Path) -> None:
    cache = LogitsCache(tmp_path)
    cache.store("key", iter(some_logits(torch.bfloat16)), [5, 3])
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for position in range(len(whole)):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        assert cache.find("key") is None, position
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        assert cache.find("key") is None, length
    file.write_bytes(whole)
    assert cache.find("key") is not None


def test_interrupted_store_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> object:
        yield some_logits(torch.float32)[0]
        raise KeyboardInterrupt

    cache = LogitsCache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache.store("key", interrupted(), [5, 3])  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_least_recently_used_makes_room(tmp_path: Path) -> None:
    cache = LogitsCache(tmp_path)
    for number, key in enumerate("abc"):
        cache.store(key, iter(some_logits(torch.float32)), [5, 3])
        os.utime(tmp_path / f"{key}.safetensors", (number, number))
    assert cache.find("a") is not None
    size = (tmp_path / "a.safetensors").stat().st_size
    LogitsCache(tmp_path, limit_bytes=3 * size).store("d", iter(some_logits(torch.float32)), [5, 3])
    assert {path.stem for path in tmp_path.iterdir()} == {"a", "c", "d"}


def test_room_is_what_limit_and_disk_allow(tmp_path: Path) -> None:
    cache = LogitsCache(tmp_path / "not" / "there", limit_bytes=100)
    assert cache.has_room_for(100)
    assert not cache.has_room_for(101)
    assert not LogitsCache(tmp_path, limit_bytes=1 << 62).has_room_for(1 << 60)


def test_folder_that_cannot_be_written_stores_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert LogitsCache(tmp_path / "file" / "cache").store("key", iter(some_logits(torch.float32)), [5, 3]) is None


def test_key_changes_with_tokens_windows_and_facts() -> None:
    one, two = torch.tensor([1, 2]), torch.tensor([3, 4])
    variants = [
        ([one, two], {"model": "a"}),
        ([torch.cat([one, two])], {"model": "a"}),
        ([two, one], {"model": "a"}),
        ([one, two], {"model": "b"}),
    ]
    assert len({logits_key(windows, facts) for windows, facts in variants}) == len(variants)
