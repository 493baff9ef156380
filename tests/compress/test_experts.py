"""What experts multiply, though their matrices lie merged in one parameter."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import transformers

from tilepress.compress.calibration.blocks import BlockModel
from tilepress.compress.calibration.calibration import Calibration
from tilepress.compress.calibration.gradients import gather_with_gradients
from tilepress.compress.calibration.moments import MomentCollector
from tilepress.compress.calibration.statistics import Statistics, load_statistics
from tilepress.conversion import compress
from tilepress.formats.checkpoint import open_checkpoint
from tilepress.formats.container import Container

EXPERTS, WIDTH, INNER = 11, 64, 64
"""Enough experts that their names do not sort as their numbers do."""


@pytest.fixture(scope="module")
def mixtral(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixtral")
    torch.manual_seed(3)
    config = transformers.MixtralConfig(
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=EXPERTS,
        vocab_size=257,
    )
    transformers.MixtralForCausalLM(config).eval().save_pretrained(folder)
    for file in llama.glob("token*"):
        shutil.copy(file, folder)
    return folder


def windows(count: int) -> list[torch.Tensor]:
    return list(torch.randint(3, 256, (count, 100), generator=torch.Generator().manual_seed(4)))


def test_each_expert_has_the_moments_of_the_tokens_that_it_was_given(mixtral: Path) -> None:
    checkpoint = open_checkpoint(mixtral)
    model = BlockModel(checkpoint)
    names = [name for name in checkpoint.infos if ".experts." in name and model.stage(name) == 1]
    texts = windows(6)
    model.prepare(texts, checkpoint.tensor)
    with MomentCollector({}, model.experts(names)) as collector, model.loaded(1, checkpoint.tensor):
        for states in model.enter(texts, checkpoint.tensor):
            model.run(1, states)
    found = collector.statistics()

    whole = transformers.MixtralForCausalLM.from_pretrained(mixtral).eval()
    block = whole.model.layers[0].mlp
    given: list[tuple[torch.Tensor, torch.Tensor]] = []
    block.experts.register_forward_pre_hook(lambda _, arguments: given.append(arguments[:2]))
    with torch.no_grad():
        for text in texts:
            whole(input_ids=text[None], use_cache=False)
    seen = 0
    for number in range(EXPERTS):
        inputs = torch.cat([states.reshape(-1, WIDTH)[(index == number).any(-1)] for states, index in given])
        first, second, third = (checkpoint.tensor(place(names, number, which)) for which in ("w1", "w2", "w3"))
        inner = torch.nn.functional.silu(inputs @ first.T) * (inputs @ third.T)
        if len(inputs) < WIDTH:
            assert place(names, number, "w1") not in found
            continue
        seen += 1
        for which, rows in (("w1", inputs), ("w3", inputs), ("w2", inner)):
            moments = found[place(names, number, which)].moments
            assert torch.allclose(moments, rows.T @ rows / len(rows), rtol=1e-4, atol=1e-6), (number, which)
        assert second.shape == (WIDTH, INNER)
    assert seen > EXPERTS // 2


def test_a_text_helps_experts(mixtral: Path, tmp_path: Path) -> None:
    text, kept = tmp_path / "text.txt", tmp_path / "kept"
    text.write_text("It was a bright cold day in April, and the clocks were striking thirteen. " * 40)
    compress(mixtral, tmp_path / "plain", "int:bits=3")
    compress(mixtral, tmp_path / "fed-back", "int:bits=3", calibration=text, statistics=kept)
    plain, fed_back = (Container.open(tmp_path / name) for name in ("plain", "fed-back"))
    checkpoint = open_checkpoint(mixtral)
    origin = Calibration.prepare(checkpoint, text).origin
    statistics = load_statistics(kept / "stage-0001.safetensors", origin)
    of_experts = {name: one for name, one in statistics.items() if ".experts." in name and name in plain.records}
    assert len(of_experts) > EXPERTS
    for name, one in of_experts.items():
        errors = []
        for container in (plain, fed_back):
            missed = (container.tensor(name) - checkpoint.tensor(name)).float()
            errors.append(float((missed @ one.moments * missed).sum()))
        assert errors[1] < 0.9 * errors[0], name


def test_gradients_at_merged_outputs_are_told_apart(mixtral: Path) -> None:
    checkpoint = open_checkpoint(mixtral)
    found: dict[str, Statistics] = {}
    gather_with_gradients(checkpoint, BlockModel(checkpoint), windows(6), lambda _, one: found.update(one))
    of_experts = {name: one for name, one in found.items() if ".experts." in name}
    assert len(of_experts) > 3 * EXPERTS
    for name, one in of_experts.items():
        assert one.outputs is not None
        assert one.outputs.shape[0] == checkpoint.infos[name].shape[0]
        assert one.moments.shape[0] == checkpoint.infos[name].shape[1]
    gates = {name: one for name, one in of_experts.items() if ".w1." in name}
    for name, gate in gates.items():
        up = of_experts[name.replace(".w1.", ".w3.")]
        assert gate.outputs is not None
        assert up.outputs is not None
        assert not torch.allclose(gate.outputs, up.outputs)


def place(names: list[str], number: int, which: str) -> str:
    return next(name for name in names if f".experts.{number}.{which}." in name)
