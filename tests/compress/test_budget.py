"""Budgets: sensitivities are those of the whole model, sizes are met, plans resume and can be repeated."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import pytest
import torch
import transformers
from typer.testing import CliRunner

from tilepress.cli import app
from tilepress.compress.budget.budget import Budget
from tilepress.compress.budget.candidates import competing
from tilepress.compress.budget.conversion import BudgetCompressor
from tilepress.compress.budget.sensitivity import measure_sensitivities
from tilepress.compress.calibration.backwards import SEED
from tilepress.compress.calibration.blocks import BlockModel
from tilepress.compress.calibration.calibration import Calibration
from tilepress.compress.codecs import encode, expected_error
from tilepress.compress.pipeline import Progress
from tilepress.conversion import compress
from tilepress.formats.checkpoint import open_checkpoint
from tilepress.formats.container import Container
from tilepress.formats.measure import measure_error
from tilepress.formats.plan_document import PLAN_NAME, RECIPE_NAME, read_plan_document
from tilepress.formats.summary import summarise
from tilepress.kernels import CodecError, RecipeError, parse_spec

# As a string, its name would lead to the function `tilepress.compress`.
conversion = importlib.import_module("tilepress.compress.budget.conversion")

TEXT = "It was a bright cold day in April, and the clocks were striking thirteen. " * 40
SPECS = "int nf4 fp8"
SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SHAPE, "num_key_value_heads": 2, "vocab_size": 136, "max_position_embeddings": 128}
FAMILIES = {
    "llama": transformers.LlamaConfig(**GROUPED),
    "llama-tied": transformers.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "bloom": transformers.BloomConfig(hidden_size=64, n_layer=2, n_head=4, vocab_size=136),
    "gpt2": transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=128, vocab_size=136),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def calibration(llama: Path, text: Path) -> Calibration:
    return Calibration.prepare(open_checkpoint(llama), text, 256)


def compressor(llama: Path, budget: Budget, calibration: Calibration | None = None) -> BudgetCompressor:
    return BudgetCompressor(open_checkpoint(llama), budget, competing(SPECS), calibration=calibration)


@pytest.mark.parametrize("family", FAMILIES)
def test_sensitivities_are_the_square_gradients_of_the_whole_model(family: str, tmp_path: Path) -> None:
    torch.manual_seed(11)
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    windows = list(torch.randint(3, 136, (2, 20), generator=torch.Generator().manual_seed(3)))
    found = measure_sensitivities(checkpoint, BlockModel(checkpoint), windows)
    generator = torch.Generator().manual_seed(SEED)
    expected: dict[str, float] = {}
    for window in windows:
        model.zero_grad()
        logits = model(input_ids=window[None]).logits[0]
        labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
        torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
        for name, value in model.named_parameters():
            square = float(value.grad.square().sum()) * float(value.detach().square().mean())
            expected[name] = expected.get(name, 0.0) + square / (2 * len(window) * len(windows))
    matrices = {name for name, value in model.named_parameters() if value.ndim == 2}
    by_shape = {name: found[name].kl for name in found}
    assert len(by_shape) == len(matrices)
    ours = sorted(by_shape.values())
    theirs = sorted(expected[name] for name in matrices)
    if model.config.tie_word_embeddings:
        # The two uses of the one matrix count as if they were independent.
        assert ours[-1] == pytest.approx(theirs[-1], rel=0.3)
        ours, theirs = ours[:-1], theirs[:-1]
    assert ours == pytest.approx(theirs, rel=2e-3)
    assert all(0 < one.feedback_gain <= 1.0001 for one in found.values())


def test_a_size_is_met_and_never_exceeded(llama: Path, calibration: Calibration, tmp_path: Path) -> None:
    for number, size in enumerate((95_000, 120_000, 170_000)):
        run = compressor(llama, Budget(size_bytes=size), calibration)
        target = tmp_path / str(number)
        result = run.convert(target, run.plan(target))
        on_disk = sum(file.stat().st_size for file in target.glob("*.safetensors"))
        assert result.size_bytes == on_disk
        assert 0.98 * size <= on_disk <= size


@pytest.mark.parametrize("bits", (3.5, 4.25, 6.0))
def test_bits_per_weight_are_met_and_never_exceeded(llama: Path, tmp_path: Path, bits: float) -> None:
    run = compressor(llama, Budget(bits=bits))
    plan = run.plan(tmp_path / "out")
    run.convert(tmp_path / "out", plan)
    assert 0.97 * bits <= summarise(tmp_path / "out").bits_per_weight <= bits
    assert plan.plan.bits_per_weight == pytest.approx(summarise(tmp_path / "out").bits_per_weight)


def test_more_bytes_are_predicted_to_do_less_damage(llama: Path, calibration: Calibration, tmp_path: Path) -> None:
    predicted = [
        compressor(llama, Budget(bits=bits), calibration).plan(tmp_path / "out").predicted_kl
        for bits in (3.5, 4.5, 6.5)
    ]
    assert predicted == sorted(predicted, reverse=True)
    assert predicted[-1] > 0


def test_the_saved_recipe_makes_the_same_tensors(llama: Path, tmp_path: Path) -> None:
    run = compressor(llama, Budget(bits=4.5))
    run.convert(tmp_path / "out", run.plan(tmp_path / "out"))
    compress(llama, tmp_path / "again", recipe=tmp_path / "out" / RECIPE_NAME)
    first, second = Container.open(tmp_path / "out"), Container.open(tmp_path / "again")
    assert {name: record.checksum for name, record in first.records.items()} == {
        name: record.checksum for name, record in second.records.items()
    }


def test_an_interrupted_conversion_keeps_its_plan(
    llama: Path, calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = compressor(llama, Budget(bits=4.5), calibration)

    def interrupt(step: Progress) -> None:
        if "layers.1" in step.name:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.convert(tmp_path / "out", run.plan(tmp_path / "out"), report=interrupt)
    monkeypatch.setattr(conversion, "measure_sensitivities", None)
    again = compressor(llama, Budget(bits=4.5), calibration)
    result = again.convert(tmp_path / "out", again.plan(tmp_path / "out"))
    assert result.resumed > 0
    assert summarise(tmp_path / "out").bits_per_weight <= 4.5


def test_a_missed_divergence_is_tightened_once(llama: Path, calibration: Calibration, tmp_path: Path) -> None:
    run = compressor(llama, Budget(kl=0.01), calibration)
    plan = run.plan(tmp_path / "out")
    answers = iter((0.02, 0.008))
    found = run.convert_within_kl(tmp_path / "out", plan, lambda path: next(answers))
    assert found.measured_kl == 0.008
    assert found.plan.predicted_kl < plan.predicted_kl
    assert Container.open(tmp_path / "out").size_bytes == found.conversion.size_bytes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_divergence_that_is_met_is_left_alone(llama: Path, calibration: Calibration, tmp_path: Path) -> None:
    run = compressor(llama, Budget(kl=0.01), calibration)
    found = run.convert_within_kl(tmp_path / "out", run.plan(tmp_path / "out"), lambda path: 0.009)
    assert found.conversion.path == tmp_path / "out"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_plans_say_why(llama: Path, calibration: Calibration, tmp_path: Path) -> None:
    run = compressor(llama, Budget(bits=5), calibration)
    plan = run.plan(tmp_path / "out")
    run.convert(tmp_path / "out", plan)
    document = read_plan_document(tmp_path / "out")
    assert document is not None
    assert (document.budget, document.is_measured) == ("--bits 5", True)
    assert math.isclose(sum(document.predicted_kl.values()), plan.predicted_kl)
    assert {name: record.params.spec() for name, record in Container.open(tmp_path / "out").records.items()} == {
        **dict.fromkeys(Container.open(tmp_path / "out").records, "none"),
        **document.specs,
    }


@pytest.mark.parametrize(
    ("options", "words"),
    (
        (("--size", "10", "--codecs", "int"), "even the smallest"),
        (("--bits", "1", "--codecs", "int"), "even the smallest"),
        (("--bits", "-1"), "positive"),
        (("--max-kl", "0.1"), "name a calibration"),
        (("--bits", "4", "--codec", "nf4"), "leave out the codec"),
        (("--bits", "4", "--size", "1MB"), "exactly one"),
        (("--bits", "4", "--codecs", "lossless"), "depends on the data"),
        (("--bits", "4", "--codecs", "morse"), "no codec is called"),
        (("--codecs", "int"), "belongs to a budget"),
    ),
)
def test_budgets_that_make_no_sense_are_refused(llama: Path, tmp_path: Path, options: tuple[str], words: str) -> None:
    result = CliRunner().invoke(app, ["compress", str(llama), str(tmp_path / "out"), *options, "--quiet"])
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_plans_converts_and_measures(llama: Path, text: Path, tmp_path: Path) -> None:
    command = ["compress", str(llama), str(tmp_path / "out"), "--max-kl", "0.01", "--codecs", SPECS.replace(" ", ",")]
    command += ["--calibration", str(text), "--calibration-tokens", "256"]
    planned = CliRunner().invoke(app, [*command, "--dry-run", "--json"])
    assert planned.exit_code == 0, planned.output
    tensors = json.loads(planned.stdout)["tensors"]
    assert 0 < sum(tensor["predicted_kl"] or 0 for tensor in tensors) <= 0.01
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "measured KL divergence" in done.stderr
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "out"), "--tensors"])
    assert "predicted KL" in shown.stdout
    assert "--max-kl 0.01" in shown.stdout
    (tmp_path / "out" / PLAN_NAME).write_text("{")
    damaged = CliRunner().invoke(app, ["inspect", str(tmp_path / "out")])
    assert (damaged.exit_code, PLAN_NAME in damaged.stderr) == (2, True)


def test_specs_can_be_named_whole() -> None:
    assert [params.spec() for params in competing("int:bits=3,group=32 nf4")] == ["int:bits=3,group=32", "nf4:group=64"]
    with pytest.raises(CodecError):
        competing("int:bits=9")
    with pytest.raises(RecipeError):
        competing(" ")


@pytest.mark.parametrize("bits", (2, 4))
def test_what_a_trellis_is_expected_to_miss_is_what_it_misses(bits: int) -> None:
    """Of a tensor whose values are far from normally distributed, and whose rows differ in strength."""
    generator = torch.Generator().manual_seed(6)
    weight = torch.randn(64, 256, generator=generator) ** 3 * torch.linspace(0.1, 3, 64)[:, None]
    params = parse_spec(f"trellis:bits={bits}")
    measured = measure_error(weight, encode(weight, params)).relative_rms ** 2
    assert expected_error(params) == pytest.approx(measured, rel=0.12)


def test_errors_that_differ_from_tensor_to_tensor_are_measured() -> None:
    for spec in ("int:bits=4", "nf4", "trellis:bits=4,rotate=none", "trellis:bits=4,effort=fast"):
        assert expected_error(parse_spec(spec)) is None
