"""Whole compressed models as one graph: `torch.compile(fullgraph=True)` and `torch.export` see the native operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

import tilepress
from tilepress.kernels import backend_of

CASES = (
    ("llama", "int:bits=4"),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (("llama-tied", "nf4"), ("llama", "fp8"), ("gpt2", "int:bits=4"), ("bloom", "nf4"))
    ),
)


class Logits(torch.nn.Module):
    """A model as a function of its tokens, without a cache."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_a_model_compiles_and_exports_as_one_graph(family: str, spec: str, tmp_path: Path) -> None:
    if backend_of(spec.split(":")[0], "cpu").name != "cpu":
        pytest.skip("there are no native kernels")
    tiny_models.build(family).save_pretrained(tmp_path / "source")
    tilepress.compress(tmp_path / "source", tmp_path / "small", spec, embeddings=spec)
    model = Logits(tilepress.load(tmp_path / "small", dtype="float32"))
    ids = tiny_models.inputs(family)["input_ids"]
    with torch.no_grad():
        wanted = model(ids)
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert torch.allclose(compiled(ids), wanted, atol=1e-5)
        program = torch.export.export(model, (ids,))
        assert torch.allclose(program.module()(ids), wanted, atol=1e-5)
    operators = {str(node.target) for node in program.graph.nodes}
    assert "tilepress.tiles_matmul.default" in operators
