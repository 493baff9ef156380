"""Every family: compress, load, compare with the decoded weights, generate, save and load again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import GENERATING, MODELS, build, inputs, logits

from tilepress.conversion import compress
from tilepress.formats.container import Container
from tilepress.formats.verification import verify_tensor
from tilepress.runtime.compressed import CompressedTensor
from tilepress.runtime.loading import load

CODECS = ["int:bits=4", "lossless"]


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(family, codec) -> folder of the compressed checkpoint; the source lies beside it, as `source`."""
    root = tmp_path_factory.mktemp("families")

    def make(family: str, codec: str) -> Path:
        folder: Path = root / family / codec.partition(":")[0]
        source = root / family / "source"
        if not source.exists():
            build(family).save_pretrained(source)
        if not folder.exists():
            compress(source, folder, codec)
        return folder

    return make


def with_decoded_weights(container: Container, family: str, folder: Path) -> Any:
    """The ordinary model of the family, loaded from a checkpoint of the container's tensors, decoded."""
    shutil.copytree(container.path.parent / "source", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    save_file({name: container.tensor(name) for name in container}, folder / "model.safetensors", {"format": "pt"})
    return type(build(family)).from_pretrained(folder, dtype="float32")


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("family", MODELS)
def test_model_computes_what_its_decoded_weights_compute(
    compressed: Any, family: str, codec: str, tmp_path: Path
) -> None:
    folder = compressed(family, codec)
    container = Container.open(folder)
    dense = with_decoded_weights(container, family, tmp_path / "dense")
    model = load(folder, dtype="float32")
    coded = {name for name, record in container.records.items() if record.params.codec != "none"}
    held = {module.record.name for module in model.modules() if isinstance(module, CompressedTensor)}
    assert held == coded
    torch.testing.assert_close(logits(model, family), logits(dense, family), rtol=1e-5, atol=1e-5)
    if family in GENERATING:
        options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
        assert torch.equal(model.generate(**inputs(family), **options), dense.generate(**inputs(family), **options))


@pytest.mark.parametrize("family", MODELS)
def test_lossless_model_computes_what_the_original_computes(compressed: Any, family: str) -> None:
    model = load(compressed(family, "lossless"), dtype="float32")
    torch.testing.assert_close(logits(model, family), logits(build(family), family), rtol=0, atol=1e-5)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("family", MODELS)
def test_saved_model_is_the_same_container(compressed: Any, family: str, codec: str, tmp_path: Path) -> None:
    folder = compressed(family, codec)
    model = load(folder, dtype="float32")
    model.save_pretrained(tmp_path / "saved", max_shard_size="24KB")
    before, after = Container.open(folder), Container.open(tmp_path / "saved")
    assert len(after.headers) > 1
    coded = {name: record for name, record in before.records.items() if record.params.codec != "none"}
    assert {name: record for name, record in after.records.items() if record.params.codec != "none"} == coded
    assert [finding for name in after if (finding := verify_tensor(after, name)).problem] == []
    assert after.config["quantization_config"] == before.config["quantization_config"]
    again = load(tmp_path / "saved", dtype="float32")
    assert torch.equal(logits(again, family), logits(model, family))


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "mixtral", "qwen3-moe", "bert"])
def test_dequantized_model_is_an_ordinary_one(compressed: Any, family: str, tmp_path: Path) -> None:
    model = load(compressed(family, "int:bits=4"), dtype="float32")
    expected = logits(model, family)
    model = model.dequantize()
    original = build(family)
    assert [(name, type(module)) for name, module in model.named_modules()] == [
        (name, type(module)) for name, module in original.named_modules()
    ]
    torch.testing.assert_close(logits(model, family), expected, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path / "dense")
    again = type(original).from_pretrained(tmp_path / "dense", dtype="float32")
    assert torch.equal(logits(again, family), logits(model, family))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("family", ["llama-tied", "mixtral", "vit"])
def test_parts_keep_their_bits_in_every_dtype_of_the_model(compressed: Any, family: str, dtype: torch.dtype) -> None:
    folder = compressed(family, "int:bits=4")
    container = Container.open(folder)
    model = load(folder, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    for module in model.modules():
        if isinstance(module, CompressedTensor):
            for part, stored in container.parts(module.record.name).items():
                found = module.encoded.parts[part]
                assert found.dtype == stored.dtype
                assert torch.equal(found.view(torch.uint8), stored.view(torch.uint8))
    with torch.no_grad():
        given = {
            name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs(family).items()
        }
        assert model(**given).logits.dtype == dtype
