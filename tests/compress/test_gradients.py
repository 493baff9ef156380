"""Gradients in a calibration: what they weight and what that is worth; conversions with them repeat and resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tilepress.compress.budget.budget import Budget
from tilepress.compress.budget.candidates import competing
from tilepress.compress.budget.conversion import BudgetCompressor
from tilepress.compress.calibration.backwards import SEED
from tilepress.compress.calibration.blocks import BlockModel
from tilepress.compress.calibration.calibration import Calibration
from tilepress.compress.calibration.gradients import gather_with_gradients
from tilepress.compress.calibration.statistics import Statistics
from tilepress.compress.codecs import encode
from tilepress.compress.pipeline import Progress
from tilepress.conversion import compress
from tilepress.formats.checkpoint import open_checkpoint
from tilepress.kernels import CodecError, RecipeError, decode

TEXT = "It was a bright cold day in April, and the clocks were striking thirteen. " * 40
FAMILIES = {
    "llama": transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=136,
        tie_word_embeddings=False,
    ),
    "gpt2": transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=128, vocab_size=136),
}
"""One with a head of its own, one whose head is its table, and whose layers have weights [inputs, outputs]."""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def of_whole_model(model: Any, windows: list[torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Module -> the two matrices, by hooks on the model as Transformers runs it; of a table, only gradients'."""
    sums: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def watch(path: str) -> Any:
        def forward(module: Any, arguments: Any, output: torch.Tensor) -> None:
            inputs = arguments[0].detach().reshape(-1, arguments[0].shape[-1]).double()

            def backward(gradient: torch.Tensor) -> None:
                each = gradient.reshape(-1, gradient.shape[-1]).double()
                outputs = each.T @ each
                moments = outputs
                if not isinstance(module, torch.nn.Embedding):
                    moments = torch.einsum("ti,tj,t->ij", inputs, inputs, each.square().sum(1))
                before = sums.get(path)
                sums[path] = (moments, outputs) if before is None else (before[0] + moments, before[1] + outputs)

            output.register_hook(backward)

        return forward

    kinds = (torch.nn.Linear, torch.nn.Embedding, transformers.pytorch_utils.Conv1D)
    for path, module in model.named_modules():
        if isinstance(module, kinds):
            module.register_forward_hook(watch(path))
    generator = torch.Generator().manual_seed(SEED)
    for window in windows:
        logits = model(input_ids=window[None], use_cache=False).logits[0]
        labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        (loss / math.sqrt(2 * len(window) * len(windows))).backward()
    return sums


@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_are_those_of_gradients_in_the_whole_model(family: str, tmp_path: Path) -> None:
    torch.manual_seed(11)
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    windows = list(torch.randint(3, 136, (3, 20), generator=torch.Generator().manual_seed(3)))
    found: dict[str, Statistics] = {}
    gather_with_gradients(checkpoint, BlockModel(checkpoint), windows, lambda _, of_stage: found.update(of_stage))
    expected = of_whole_model(model, windows)
    if model.config.tie_word_embeddings:
        head = expected.pop("lm_head")
        table = expected["transformer.wte"]
        expected["transformer.wte"] = (table[0] + head[0], table[1])
    paths = {name if name in expected else f"transformer.{name}": one for name, one in by_module(found).items()}
    assert paths.keys() == expected.keys()
    for path, (moments, outputs) in expected.items():
        one = paths[path]
        assert torch.allclose(one.moments.double(), moments, rtol=1e-3, atol=1e-6 * float(moments.max())), path
        if not isinstance(model.get_submodule(path), torch.nn.Embedding):
            assert one.outputs is not None
            assert torch.allclose(one.outputs.double(), outputs, rtol=1e-3, atol=1e-6 * float(outputs.max())), path


def by_module(found: dict[str, Statistics]) -> dict[str, Statistics]:
    return {name.removesuffix(".weight"): one for name, one in found.items()}


@pytest.mark.parametrize("shape", ((48, 64), (192, 33), (50, 80)))
@pytest.mark.parametrize("spec", ("trellis:bits=3,window=12", "trellis:bits=4,window=12,rotate=none"))
def test_feedback_along_rows_saves_what_the_outputs_tell(spec: str, shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(5)

    def correlated(size: int) -> torch.Tensor:
        values = torch.randn(300, size // 4, generator=generator) @ torch.randn(size // 4, size, generator=generator)
        values += 0.7 * torch.randn(300, size, generator=generator)
        return values.T @ values / 300

    weight = torch.randn(shape, generator=generator)
    moments, outputs = correlated(shape[1]), correlated(shape[0])

    def cost(statistics: Statistics) -> float:
        missed = (decode(encode(weight, spec, statistics)) - weight).double()
        return float((outputs.double() @ missed @ moments.double() * missed).sum())

    assert cost(Statistics(moments, outputs)) < 0.8 * cost(Statistics(moments))


def test_rows_that_do_not_matter_together_are_coded_as_without_outputs() -> None:
    weight = torch.randn(64, 48, generator=torch.Generator().manual_seed(6))
    spec = "trellis:bits=3,window=12,rotate=none"
    alone = encode(weight, spec, Statistics(torch.eye(48)))
    together = encode(weight, spec, Statistics(torch.eye(48), torch.eye(64)))
    assert torch.equal(alone.parts["codes"], together.parts["codes"])


def test_outputs_of_another_matrix_are_refused() -> None:
    with pytest.raises(CodecError, match="of 32 outputs, not 16"):
        encode(torch.zeros(16, 64), "trellis:bits=4", Statistics(torch.eye(64), torch.eye(32)))


def test_statistics_with_gradients_are_kept_beside_others(
    tied_llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"calibration": text, "statistics": tmp_path / "kept"}
    spec = {"codec": "trellis:bits=4,window=12", "embeddings": "trellis:bits=4,window=12"}
    compress(tied_llama, tmp_path / "first", **spec, **options, gradients=True)
    monkeypatch.setattr(BlockModel, "run", None)
    compress(tied_llama, tmp_path / "other", **spec, **options)
    assert content(tmp_path / "first") != content(tmp_path / "other")
    compress(tied_llama, tmp_path / "second", **spec, **options, gradients=True)
    assert content(tmp_path / "first") == content(tmp_path / "second")


def test_an_interrupted_conversion_with_gradients_goes_on_to_the_same_bytes(
    llama: Path, text: Path, tmp_path: Path
) -> None:
    def convert(name: str, report: Any = None) -> None:
        compress(llama, tmp_path / name, "trellis:bits=3,window=12", calibration=text, gradients=True, report=report)

    def interrupt(step: Progress) -> None:
        if step.record is not None and "layers.1" in step.name:
            raise KeyboardInterrupt

    convert("whole")
    with pytest.raises(KeyboardInterrupt):
        convert("out", interrupt)
    convert("out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert not (tmp_path / "out" / "calibration").exists()


def test_a_budget_knows_what_feedback_leaves_with_kept_statistics(llama: Path, text: Path, tmp_path: Path) -> None:
    plans = []
    for gradients in (False, True):
        calibration = Calibration.prepare(open_checkpoint(llama), text, 512, tmp_path / str(gradients), gradients)
        specs = competing("trellis:bits=3,window=12 trellis:bits=4,window=12 int:bits=6")
        compressor = BudgetCompressor(calibration.checkpoint, Budget(bits=4.5), specs, calibration=calibration)
        plans.append(compressor.plan(tmp_path / "out"))
    assert all(plan.plan.bits_per_weight <= 4.5 for plan in plans)
    assert plans[1].predicted_kl < 0.95 * plans[0].predicted_kl


def test_gradients_need_a_text(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="name a text"):
        compress(llama, tmp_path / "out", "int:bits=4", gradients=True)
