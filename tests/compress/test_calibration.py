"""Calibration: statistics are those of the running model, of every family; conversions resume and stay the same."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from tilepress.compress.calibration.blocks import BlockModel
from tilepress.compress.calibration.calibration import Calibration
from tilepress.compress.calibration.moments import MomentCollector
from tilepress.compress.calibration.statistics import Origin, Statistics, load_statistics, save_statistics
from tilepress.compress.pipeline import Progress
from tilepress.compress.plan import make_plan
from tilepress.conversion import compress
from tilepress.formats.checkpoint import open_checkpoint
from tilepress.formats.container import Container
from tilepress.kernels import FormatError, RecipeError

TEXT = "It was a bright cold day in April, and the clocks were striking thirteen. " * 40
SHAPE = {"hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SHAPE, "num_key_value_heads": 2, "vocab_size": 136, "max_position_embeddings": 128}
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": 136}
ENDS = {"bos_token_id": 0, "eos_token_id": 0}
FAMILIES = {
    "llama": transformers.LlamaConfig(**GROUPED),
    "gptj": transformers.GPTJConfig(**GPT, **ENDS, rotary_dim=8),
    "bloom": transformers.BloomConfig(hidden_size=64, n_layer=2, n_head=4, vocab_size=136),
    "gpt2": transformers.GPT2Config(**GPT, **ENDS),
    "gpt-neox": transformers.GPTNeoXConfig(**SHAPE, vocab_size=136, max_position_embeddings=128),
    "qwen3": transformers.Qwen3Config(**GROUPED, head_dim=16),
    "mistral": transformers.MistralConfig(**GROUPED, sliding_window=8),
    "gemma3": transformers.Gemma3TextConfig(**GROUPED, head_dim=16, sliding_window=8),
    "mixtral": transformers.MixtralConfig(**GROUPED, num_local_experts=4),
}


def save(family: str, folder: Path) -> Any:
    torch.manual_seed(11)
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    model.save_pretrained(folder)
    return model


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_run_alone_as_they_run_in_the_model(family: str, tmp_path: Path) -> None:
    model = save(family, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    blocks = BlockModel(checkpoint)
    generator = torch.Generator().manual_seed(5)
    windows = [torch.randint(3, 136, (length,), generator=generator) for length in (14, 14, 9)]
    layers = {name: layer for name in checkpoint.infos if (layer := blocks.layer(name)) is not None}
    with MomentCollector(layers) as collector:
        blocks.prepare(windows, checkpoint.tensor)
        states = blocks.enter(windows, checkpoint.tensor)
        collector = MomentCollector(layers)
        with collector:
            for stage in range(1, blocks.count + 1):
                with blocks.loaded(stage, checkpoint.tensor):
                    states = [blocks.run(stage, one) for one in states]
            blocks.leave(windows, states, checkpoint.tensor)
    found = collector.statistics()
    paths = {id(layer): path for path, layer in blocks._model.named_modules()}
    whole = MomentCollector({name: model.get_submodule(paths[id(layer)]) for name, layer in layers.items()})
    with whole, torch.no_grad():
        for window in windows:
            model(input_ids=window[None], use_cache=False)
    expected = whole.statistics()
    assert found.keys() == expected.keys()
    assert {blocks.stage(name) for name in found} == set(range(1, blocks.count + 1)) | {
        blocks.stage(name) for name in found if "lm_head" in name or "embed_out" in name
    }
    for name in expected:
        assert torch.allclose(found[name].moments, expected[name].moments, rtol=1e-4, atol=1e-5), name
    assert all(value.is_meta for value in blocks._model.parameters())


def test_layers_with_one_input_share_their_statistics(llama: Path, text: Path, tmp_path: Path) -> None:
    compress(llama, tmp_path / "out", "int:bits=4", calibration=text, statistics=tmp_path / "kept")
    stored = load_file(tmp_path / "kept" / "stage-0001.safetensors")
    assert len(stored) == 4  # q, k and v; o; gate and up; down


def test_calibrated_weights_move_outputs_less(llama: Path, text: Path, tmp_path: Path) -> None:
    compress(llama, tmp_path / "plain", "int:bits=3")
    compress(llama, tmp_path / "calibrated", "int:bits=3", calibration=text, statistics=tmp_path / "kept")
    plain, calibrated = Container.open(tmp_path / "plain"), Container.open(tmp_path / "calibrated")
    source = open_checkpoint(llama)
    origin = Calibration.prepare(source, text).origin
    for stage in (1, 2):
        statistics = load_statistics(tmp_path / "kept" / f"stage-{stage:04d}.safetensors", origin)
        for name, one in statistics.items():
            errors = []
            for container in (plain, calibrated):
                difference = (container.tensor(name) - source.tensor(name)).float()
                errors.append(float(((difference @ one.moments) * difference).sum()))
            assert errors[1] < 0.8 * errors[0], name


def test_saved_statistics_make_the_same_bytes_without_running_the_model(
    llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compress(llama, tmp_path / "first", "nf4", calibration=text, statistics=tmp_path / "kept")
    monkeypatch.setattr(BlockModel, "run", None)
    compress(llama, tmp_path / "second", "nf4", calibration=text, statistics=tmp_path / "kept")
    assert content(tmp_path / "first") == content(tmp_path / "second")


def test_statistics_of_another_text_are_refused(llama: Path, text: Path, tmp_path: Path) -> None:
    compress(llama, tmp_path / "out", "nf4", calibration=text, statistics=tmp_path / "kept")
    other = tmp_path / "other.txt"
    other.write_text(TEXT[::-1])
    with pytest.raises(RecipeError, match="another text"):
        compress(llama, tmp_path / "again", "nf4", calibration=other, statistics=tmp_path / "kept")


def test_damaged_statistics_are_named(tmp_path: Path) -> None:
    origin = Origin("source", "text", 3)
    path = tmp_path / "stage-0001.safetensors"
    save_statistics(path, {"a": Statistics(torch.eye(4))}, origin)
    assert torch.equal(load_statistics(path, origin)["a"].moments, torch.eye(4))
    data = path.read_bytes()
    for damaged in (
        data.replace(b'\\"version\\": 1', b'\\"version\\": 9'),
        data.replace(b"[4,4]", b"[2,8]"),
        data[:-4],
    ):
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match=r"stage-0001\.safetensors"):
            load_statistics(path, origin)


@pytest.mark.parametrize("stop_after", (1, 3, 9, 15))
def test_an_interrupted_calibration_goes_on_to_the_same_bytes(
    llama: Path, text: Path, tmp_path: Path, stop_after: int
) -> None:
    compress(llama, tmp_path / "whole", "int:bits=4,group=32", calibration=text)
    seen = []

    def interrupt(step: Progress) -> None:
        seen.append(step.name)
        if len(seen) == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(llama, tmp_path / "out", "int:bits=4,group=32", calibration=text, report=interrupt)
    result = compress(llama, tmp_path / "out", "int:bits=4,group=32", calibration=text)
    assert result.resumed == stop_after
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_finished_blocks_are_not_run_again(
    llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(step: Progress) -> None:
        if "layers.1.mlp" in step.name:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(llama, tmp_path / "out", "int:bits=4", calibration=text, report=interrupt)
    run, stages = BlockModel.run, []

    def note(model: BlockModel, stage: int, states: torch.Tensor) -> torch.Tensor:
        stages.append(stage)
        return run(model, stage, states)

    monkeypatch.setattr(BlockModel, "run", note)
    compress(llama, tmp_path / "out", "int:bits=4", calibration=text)
    assert set(stages) == {2}


def test_a_killed_calibration_goes_on(llama: Path, text: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time, torch; torch.set_num_threads(1)\n"
        "from tilepress.conversion import compress\n"
        "compress(sys.argv[1], sys.argv[2], 'int:bits=4', calibration=sys.argv[3], "
        "report=lambda step: (print(step.name, flush=True), time.sleep(0.05)))"
    )
    command = [sys.executable, "-c", code, str(llama), str(tmp_path / "out"), str(text)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "layers.1" in line:
                time.sleep(0.02)
                process.send_signal(signal.SIGKILL)
                break
    assert not (tmp_path / "out").exists()
    compress(llama, tmp_path / "out", "int:bits=4", calibration=text)
    compress(llama, tmp_path / "whole", "int:bits=4", calibration=text)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_output_does_not_depend_on_workers(llama: Path, text: Path, tmp_path: Path) -> None:
    for workers in (1, 3):
        compress(llama, tmp_path / str(workers), "fp8", calibration=text, workers=workers, max_shard_bytes=60_000)
    assert content(tmp_path / "1") == content(tmp_path / "3")


def test_only_quantizing_codecs_are_told_that_text_would_help(llama: Path) -> None:
    checkpoint = open_checkpoint(llama)
    assert any("--calibration" in note for note in make_plan(checkpoint, "int:bits=4").advice)
    assert not make_plan(checkpoint, "lossless").advice
    assert not make_plan(checkpoint, "zfp:rate=8").advice


def test_a_model_that_is_not_run_block_by_block_is_refused_in_a_sentence(tmp_path: Path) -> None:
    config = transformers.T5Config(d_model=64, d_ff=64, num_layers=2, num_heads=2, d_kv=32, vocab_size=136)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="encoder beside its decoder"):
        BlockModel(open_checkpoint(tmp_path))
