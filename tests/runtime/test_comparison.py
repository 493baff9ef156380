"""Comparison of a tiny LLaMA with its compressed forms, on a text of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, BertConfig, BertModel

from tilepress.conversion import compress
from tilepress.kernels import FormatError, RecipeError
from tilepress.runtime.base_logits import LogitsCache, StoredLogits
from tilepress.runtime.comparison import compare, headings, notes, table_rows
from tilepress.runtime.speed import resident_bytes

FIELDS = {
    "name",
    "size_bytes",
    "bits_per_weight",
    "codec",
    "perplexity",
    "kl_mean",
    "kl_median",
    "kl_p99",
    "top1",
    "load_seconds",
    "memory_bytes",
    "tokens_per_second_prefill",
    "tokens_per_second_decode",
    "tokens",
    "noise_floor_kl",
}
MEASURED_TIMES = {"load_seconds", "tokens_per_second_prefill", "tokens_per_second_decode"}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("Tiles hold rows, rows hold weights, and weights hold what was learnt. " * 8, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def containers(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("containers")
    for name, spec in (("exact", "lossless"), ("small", "int:bits=4")):
        compress(llama, root / name, spec)
    return [root / "exact", root / "small"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> LogitsCache:
    return LogitsCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def rows(llama: Path, containers: list[Path], text: Path, cache: LogitsCache) -> list[dict[str, Any]]:
    return compare(llama, containers, text, tokens=300, cache=cache)


def without_times(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in MEASURED_TIMES} for row in rows]


def with_other_files(source: Path, folder: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(source, folder)
    return folder


def test_every_row_has_every_field_and_can_be_written_as_json(rows: list[dict[str, Any]]) -> None:
    assert [row["name"] for row in rows] == ["llama", "exact", "small"]
    assert [row["codec"] for row in rows] == ["none", "lossless", "int:bits=4,group=64"]
    for row in json.loads(json.dumps(rows)):
        assert set(row) == FIELDS
        assert row["tokens"] == 300
        assert all(row[key] > 0 for key in MEASURED_TIMES | {"size_bytes", "memory_bytes", "perplexity"})


def test_base_does_not_differ_from_itself_and_has_the_noise_floor(rows: list[dict[str, Any]]) -> None:
    base = rows[0]
    assert base["kl_mean"] == base["kl_p99"] == 0
    assert base["top1"] == 1
    assert 0 < base["noise_floor_kl"] < 1e-3
    assert [row["noise_floor_kl"] for row in rows[1:]] == [None, None]


def test_lossless_stays_below_the_noise_floor_and_four_bits_do_not(rows: list[dict[str, Any]]) -> None:
    base, exact, small = rows
    assert exact["kl_mean"] <= base["noise_floor_kl"]
    assert small["kl_mean"] > 2 * base["noise_floor_kl"]
    assert small["kl_median"] < small["kl_p99"]
    assert small["top1"] < 1


def test_sizes_are_those_of_the_files(llama: Path, containers: list[Path], rows: list[dict[str, Any]]) -> None:
    for folder, row in zip([llama, *containers], rows, strict=True):
        files = list(folder.glob("*.safetensors"))
        assert row["size_bytes"] == sum(file.stat().st_size for file in files)
    stored = 0
    for file in containers[1].glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            parts = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        stored += sum(8 * part.nbytes for name, part in parts.items() if "norm" not in name)
    weights = sum(
        weight.numel() for weight in AutoModelForCausalLM.from_pretrained(llama).parameters() if weight.ndim >= 2
    )
    assert rows[0]["bits_per_weight"] == 16
    assert rows[2]["bits_per_weight"] == pytest.approx(stored / weights)


def test_weights_that_are_tied_are_counted_once(llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    before, head = resident_bytes(model), model.lm_head.weight
    assert before >= sum(parameter.nbytes for parameter in model.parameters())
    model.lm_head.weight = model.model.embed_tokens.weight
    assert resident_bytes(model) == before - head.nbytes


def test_second_run_takes_the_logits_from_the_cache(
    llama: Path, containers: list[Path], text: Path, cache: LogitsCache, rows: list[dict[str, Any]]
) -> None:
    class NeverStoring(LogitsCache):
        def store(self, key: str, logits: Iterable[torch.Tensor], rows: Sequence[int]) -> StoredLogits | None:
            raise AssertionError("computed again")

    again = compare(llama, containers, text, tokens=300, cache=NeverStoring(cache.folder))
    assert without_times(again) == without_times(rows)


def test_damaged_cache_is_computed_again(
    llama: Path, text: Path, cache: LogitsCache, rows: list[dict[str, Any]]
) -> None:
    (file,) = cache.folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:3000] + b"\xff" + whole[3001:])
    assert without_times(compare(llama, [], text, tokens=300, cache=cache)) == without_times(rows[:1])
    assert file.read_bytes() == whole


def test_without_room_for_a_cache_the_figures_are_the_same(
    llama: Path, containers: list[Path], text: Path, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    again = compare(llama, containers, text, tokens=300, cache=LogitsCache(tmp_path, limit_bytes=0))
    assert without_times(again) == without_times(rows)
    assert list(tmp_path.iterdir()) == []


def test_uncompressed_candidate_takes_part_and_progress_reaches_its_end(
    llama: Path, text: Path, tmp_path: Path
) -> None:
    copy = with_other_files(llama, tmp_path / "copy")
    reports: list[tuple[int, int, str]] = []
    rows = compare(
        str(llama),
        str(copy),
        text,
        tokens=300,
        cache=LogitsCache(tmp_path / "cache"),
        report=lambda *now: reports.append(now),
    )
    assert rows[1]["name"] == "copy"
    assert rows[1]["kl_mean"] == 0
    done = [report[0] for report in reports]
    assert done == sorted(done)
    assert done[-1] == reports[-1][1] == 6


def test_container_can_be_the_base(containers: list[Path], text: Path, tmp_path: Path) -> None:
    exact, small = containers
    rows = compare(small, [exact], text, tokens=300, cache=LogitsCache(tmp_path))
    assert [row["codec"] for row in rows] == ["int:bits=4,group=64", "lossless"]
    assert rows[0]["kl_mean"] == 0
    assert rows[1]["kl_mean"] > rows[0]["noise_floor_kl"] > 0


def test_missing_candidate_is_refused_before_anything_runs(llama: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises((RecipeError, FormatError), match="nowhere"):
        compare(llama, [tmp_path / "nowhere"], text, cache=LogitsCache(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_other_tokenizer_is_refused(llama: Path, text: Path, tmp_path: Path) -> None:
    other = with_other_files(llama, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["e"], vocabulary["t"] = vocabulary["t"], vocabulary["e"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(RecipeError, match="other: its tokenizer makes other tokens"):
        compare(llama, [other], text, cache=LogitsCache(tmp_path / "cache"))


def test_other_vocabulary_is_refused(llama: Path, text: Path, tmp_path: Path) -> None:
    other = with_other_files(llama, tmp_path / "other")
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    (other / "config.json").write_text(json.dumps(config | {"vocab_size": 300}), encoding="utf-8")
    with pytest.raises(RecipeError, match="vocabulary of 300 tokens"):
        compare(llama, [other], text, cache=LogitsCache(tmp_path / "cache"))


def test_missing_tokenizer_is_refused(llama: Path, text: Path, tmp_path: Path) -> None:
    other = with_other_files(llama, tmp_path / "other")
    for file in other.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(RecipeError, match="other: has no tokenizer"):
        compare(other, [], text, cache=LogitsCache(tmp_path / "cache"))


def test_missing_tensor_is_refused_instead_of_made_up(llama: Path, text: Path, tmp_path: Path) -> None:
    other = with_other_files(llama, tmp_path / "other")
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    (other / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"other: has no tensor for model\.layers\.2"):
        compare(other, [], text, cache=LogitsCache(tmp_path / "cache"))


def test_encoder_is_refused(text: Path, tmp_path: Path) -> None:
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    BertModel(config).save_pretrained(tmp_path / "encoder")
    with pytest.raises(RecipeError, match="BertModel, which does not predict a next token"):
        compare(tmp_path / "encoder", [], text)


def test_table_shows_every_model_and_the_noise_floor(rows: list[dict[str, Any]]) -> None:
    lines = table_rows(rows)
    assert [line[0].strip() for line in lines] == ["llama", "its noise floor", "exact", "small"]
    assert {len(line) for line in lines} == {len(headings())}
    floor = f"{rows[0]['noise_floor_kl']:.2e}"
    assert floor in lines[1]
    assert floor in notes(rows)[0]
