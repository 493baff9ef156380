"""`tilepress.compress`: budgets from Python, and what is said about tensors that a text does not help."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import transformers

import tilepress
from tilepress.conversion import prepare
from tilepress.formats.summary import summarise
from tilepress.kernels import RecipeError

TEXT = "It was a bright cold day in April, and the clocks were striking thirteen. " * 40


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


def test_budgets_are_met_from_python_too(llama: Path, text: Path, tmp_path: Path) -> None:
    tilepress.compress(llama, tmp_path / "bits", bits=5.0, codecs="int,nf4")
    assert 4.8 <= summarise(tmp_path / "bits").bits_per_weight <= 5.0
    for size in (120_000, "120KB"):
        result = tilepress.compress(llama, tmp_path / str(size), size=size, codecs="int nf4")
        assert 117_000 <= result.size_bytes <= 120_000
        assert result.measured_kl is None
    measured = tilepress.compress(
        llama, tmp_path / "kl", max_kl=0.01, codecs="int,fp8", calibration=text, calibration_tokens=256
    )
    assert measured.measured_kl is not None
    assert 0 < measured.measured_kl <= 0.01


@pytest.mark.parametrize(
    ("options", "words"),
    (
        ({"bits": 4.0, "codec": "nf4"}, "leave out the codec"),
        ({"bits": 4.0, "size": 10}, "exactly one"),
        ({"codecs": "int"}, "belongs to a budget"),
        ({"statistics": "here"}, "name a text"),
        ({"max_kl": 0.1}, "name a calibration"),
    ),
)
def test_contradictions_are_refused(llama: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        prepare(llama, **options)  # type: ignore[arg-type]


def test_tensors_that_a_text_does_not_help_are_named(llama: Path, text: Path, tmp_path: Path) -> None:
    torch.manual_seed(11)
    config = transformers.MixtralConfig(
        hidden_size=64,
        intermediate_size=80,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=257,
        max_position_embeddings=128,
        num_local_experts=2,
        tie_word_embeddings=True,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    for file in llama.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    job = prepare(tmp_path, "int:bits=4", calibration=text, calibration_tokens=64)
    (note,) = job.plan(tmp_path.with_name("out")).notes
    # Experts are helped; embeddings that are the head as well, only where gradients are taken.
    assert note.endswith("multiply: model.embed_tokens.weight")
