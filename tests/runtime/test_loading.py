"""Loading: what does not match is refused, what is unusual loads, and parts survive whatever is done to a model."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import build, inputs, logits
from transformers.core_model_loading import Chunk, WeightConverter
from transformers.pytorch_utils import Conv1D

from tilepress.compress.pipeline import run_plan
from tilepress.compress.plan import Plan, make_plan
from tilepress.compress.recipe import Recipe, Rule
from tilepress.conversion import compress
from tilepress.formats import names as names_module
from tilepress.formats.checkpoint import open_checkpoint
from tilepress.formats.container import Container
from tilepress.kernels import CodecError, Encoded, FormatError, RecipeError, TilepressError, decode, parse_spec
from tilepress.runtime import compressed as compressed_module
from tilepress.runtime.compressed import CompressedEmbedding, CompressedLinear, CompressedTensor
from tilepress.runtime.loading import load
from tilepress.runtime.quantizer import TilepressConfig

Tensors = dict[str, torch.Tensor]


def save(model: Any, folder: Path, change: Callable[[Tensors], None] = lambda tensors: None) -> Path:
    """Save a model in one file, after `change` has been at its tensors."""
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def compress_family(
    family: str,
    folder: Path,
    rules: Mapping[str, str] | str = "int:bits=4",
    change: Callable[[Tensors], None] = lambda tensors: None,
) -> Path:
    """Compress a tiny model with a codec or a recipe, to `folder / compressed`."""
    source = save(build(family), folder / "source", change)
    if isinstance(rules, str):
        compress(source, folder / "compressed", rules)
    else:
        recipe = Recipe([Rule(pattern, parse_spec(spec)) for pattern, spec in rules.items()])
        compress(source, folder / "compressed", recipe=recipe)
    return folder / "compressed"


def without(name: str) -> Callable[[Tensors], None]:
    """Change for `save`: leave a tensor out."""

    def change(tensors: Tensors) -> None:
        del tensors[name]

    return change


def decoded_logits(family: str, folder: Path) -> torch.Tensor:
    """Logits of the ordinary model with the decoded tensors of a container."""
    container = Container.open(folder)
    model = build(family)
    model.save_pretrained(folder.parent / "decoded")
    tensors = {name: container.tensor(name) for name in container}
    save_file(tensors, folder.parent / "decoded" / "model.safetensors", {"format": "pt"})
    return logits(type(model).from_pretrained(folder.parent / "decoded", dtype="float32"), family)


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compressed LLaMA in float32 with a tied head. Tests must not write to it."""
    return compress_family("llama-tied", tmp_path_factory.mktemp("llama"))


# What does not match is refused.


@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "model.embed_tokens.weight"]
)
def test_missing_tensor_is_named_and_never_random(name: str, tmp_path: Path) -> None:
    folder = compress_family("llama-tied", tmp_path, change=without(name))
    with pytest.raises(FormatError, match=f"has no tensor for .*{name}"):
        transformers.AutoModelForCausalLM.from_pretrained(folder)


def test_missing_part_is_named(llama: Path, tmp_path: Path) -> None:
    folder = save(build("llama-tied"), tmp_path / "copy")
    name = "model.layers.0.mlp.down_proj.weight.scales"
    files = [load_file(file) for file in sorted(llama.glob("*.safetensors"))]
    tensors = {key: value for file in files for key, value in file.items() if key != name}
    header = next(iter(Container.open(llama).headers.values()))
    save_file(tensors, folder / "model.safetensors", dict(header.metadata))
    (folder / "config.json").write_text((llama / "config.json").read_text())
    with pytest.raises(FormatError, match=r"model\.layers\.0\.mlp\.down_proj\.weight: part scales is missing"):
        transformers.AutoModelForCausalLM.from_pretrained(folder)


def test_missing_expert_is_named(tmp_path: Path) -> None:
    lost = "model.layers.1.block_sparse_moe.experts.2.w1.weight"
    folder = compress_family("mixtral", tmp_path, change=without(lost))
    with pytest.raises(FormatError, match=r"layers\.1\.mlp\.experts\.gate_up_proj, projection w1: expert 2 is missing"):
        load(folder)


def test_compressed_tensor_without_a_place_is_named(tmp_path: Path) -> None:
    def add_layer(tensors: Tensors) -> None:
        tensors["model.layers.7.mlp.up_proj.weight"] = torch.randn(80, 64)

    folder = compress_family("llama", tmp_path, {"*proj*": "int:bits=4"}, add_layer)
    with pytest.raises(FormatError, match=r"model\.layers\.7\.mlp\.up_proj\.weight: LlamaForCausalLM has no place"):
        load(folder)


@pytest.mark.parametrize(
    ("field", "tensor"),
    [
        ("intermediate_size", r"mlp\.(down|gate|up)_proj"),
        ("vocab_size", "embed_tokens"),
        ("num_key_value_heads", "[kv]_proj"),
    ],
)
def test_config_of_other_weights_is_refused(field: str, tensor: str, tmp_path: Path) -> None:
    folder = compress_family("llama-tied", tmp_path)
    edit_config(folder, **{field: 4 if field == "num_key_value_heads" else 128})
    with pytest.raises(FormatError, match=f"{tensor}.*shape"):
        load(folder)


def test_class_with_another_head_is_refused(tmp_path: Path) -> None:
    folder = compress_family("bert", tmp_path, {"bert.encoder.*": "int:bits=4"})
    with pytest.raises(FormatError, match=r"has no tensor for .* of BertForSequenceClassification"):
        transformers.BertForSequenceClassification.from_pretrained(folder)


def test_base_model_of_a_model_with_a_head_loads_and_saves_under_its_own_names(tmp_path: Path) -> None:
    folder = compress_family("bert", tmp_path, {"bert.*": "int:bits=4"})
    model = transformers.BertModel.from_pretrained(folder, dtype="float32", add_pooling_layer=False)
    model.save_pretrained(tmp_path / "saved")
    again = transformers.BertModel.from_pretrained(tmp_path / "saved", dtype="float32", add_pooling_layer=False)
    with torch.no_grad():
        before, after = (each(**inputs("bert")).last_hidden_state for each in (model, again))
    assert torch.equal(before, after)


def test_tensor_that_transformers_would_cut_up_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def merge(tensors: Tensors) -> None:
        halves = [tensors.pop(f"model.layers.0.mlp.{name}_proj.weight") for name in ("gate", "up")]
        tensors["model.layers.0.mlp.both.weight"] = torch.cat(halves)

    folder = compress_family("llama", tmp_path, {"*both*": "int:bits=4"}, merge)
    cutting = WeightConverter(
        "mlp.both.weight", ["mlp.gate_proj.weight", "mlp.up_proj.weight"], operations=[Chunk(dim=0)]
    )
    monkeypatch.setattr(names_module, "get_model_conversion_mapping", lambda model: [cutting])
    with pytest.raises(FormatError, match=r"both\.weight: Transformers computes .* keep this one with codec none"):
        load(folder)


def test_ordinary_checkpoint_must_be_compressed_first(tmp_path: Path) -> None:
    source = save(build("llama"), tmp_path / "source")
    with pytest.raises(RecipeError, match=r"not compressed.*tilepress compress"):
        transformers.AutoModelForCausalLM.from_pretrained(source, quantization_config=TilepressConfig())
    with pytest.raises(FormatError, match="not compressed by tilepress"):
        load(source)


def test_newer_format_is_refused(tmp_path: Path) -> None:
    folder = compress_family("llama", tmp_path)
    edit_config(folder, quantization_config={"quant_method": "tilepress", "format_version": 2})
    with pytest.raises(FormatError, match="format version 2"):
        transformers.AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["NoSuchModel"]}, "architecture NoSuchModel"),
        ({"architectures": None}, "names no architecture"),
    ],
)
def test_unknown_architecture_is_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    folder = compress_family("llama", tmp_path)
    edit_config(folder, **changes)
    with pytest.raises(FormatError, match=message):
        load(folder)


def test_missing_folder_and_missing_config_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such folder"):
        load(tmp_path / "nowhere")
    folder = compress_family("llama", tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(FormatError, match=r"no config\.json"):
        load(folder)


# What is unusual still loads.


def test_layers_without_a_compressed_kind_are_decoded_and_saved_dense(tmp_path: Path) -> None:
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=64,
            intermediate_size=80,
            num_hidden_layers=1,
            num_attention_heads=4,
            image_size=64,
            patch_size=8,
        )
    )
    model.save_pretrained(tmp_path / "source")
    compress(tmp_path / "source", tmp_path / "compressed", recipe=Recipe([Rule("*", parse_spec("int:bits=8"))]))
    container = Container.open(tmp_path / "compressed")
    convolution, table = "vit.embeddings.patch_embeddings.projection.weight", "vit.embeddings.position_embeddings"
    assert {container.records[name].params.codec for name in (convolution, table)} == {"int"}
    loaded = load(tmp_path / "compressed", dtype="float32")
    for name in (convolution, table):
        assert torch.equal(loaded.get_parameter(name), container.tensor(name))
    loaded.save_pretrained(tmp_path / "saved")
    saved = Container.open(tmp_path / "saved")
    assert {saved.records[name].params.codec for name in (convolution, table)} == {"none"}
    pixels = {"pixel_values": torch.randn(1, 3, 64, 64)}
    with torch.no_grad():
        again = load(tmp_path / "saved", dtype="float32")(**pixels).logits
        assert torch.equal(again, loaded(**pixels).logits)


def test_a_changed_byte_is_found_before_loading_where_asked_for(llama: Path, tmp_path: Path) -> None:
    load(llama, verify=True)
    damaged = shutil.copytree(llama, tmp_path / "damaged")
    shard = next(iter(sorted(damaged.glob("*.safetensors"))))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    load(damaged)
    with pytest.raises(FormatError, match="the checksum does not match"):
        load(damaged, verify=True)


def test_damaged_tensor_that_is_decoded_on_loading_is_named(tmp_path: Path) -> None:
    folder = compress_family("vit", tmp_path, {"*patch_embeddings*": "lossless:version=1"})
    container = Container.open(folder)
    name = "vit.embeddings.patch_embeddings.projection.weight"
    part = container.parts(name)["payload"]
    with open(container.where(name), "r+b") as file:
        data = file.read()
        start = data.index(part.numpy().tobytes())
        frame = data.index(b"\x28\xb5\x2f\xfd", start)
        file.seek(frame + 6)
        file.write(b"\xff" * 8)
    with pytest.raises(FormatError, match=name):
        load(folder)


def test_matrix_of_gpt2_that_was_not_transposed_is_decoded(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save(build("gpt2"), tmp_path / "source"))
    plan = make_plan(checkpoint, "int:bits=4")
    shards = [
        [dataclasses.replace(tensor, slot=dataclasses.replace(tensor.slot, transposed=False)) for tensor in shard]
        for shard in plan.shards
    ]
    run_plan(checkpoint, Plan(shards, plan.notes), tmp_path / "compressed")
    model = load(tmp_path / "compressed", dtype="float32")
    assert isinstance(model.transformer.h[0].mlp.c_fc, Conv1D)
    assert isinstance(model.transformer.wte, CompressedEmbedding)
    expected = decoded_logits("gpt2", tmp_path / "compressed")
    torch.testing.assert_close(logits(model, "gpt2"), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "rules",
    [
        {"*experts.1.*": "none", "*.experts.*": "int:bits=4"},
        {"*.w2.*": "int:bits=3"},
        {"*layers.0*experts*": "int:bits=8,group=16", "*.w1.*": "lossless"},
    ],
)
def test_experts_of_mixed_codecs_load_and_save(rules: dict[str, str], tmp_path: Path) -> None:
    folder = compress_family("mixtral", tmp_path, rules)
    model = load(folder, dtype="float32")
    expected = decoded_logits("mixtral", folder)
    torch.testing.assert_close(logits(model, "mixtral"), expected, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path / "saved")
    assert dict(Container.open(tmp_path / "saved").records) == dict(Container.open(folder).records)
    assert torch.equal(logits(load(tmp_path / "saved", dtype="float32"), "mixtral"), logits(model, "mixtral"))


def test_experts_that_the_checkpoint_holds_in_one_tensor_stay_in_one(tmp_path: Path) -> None:
    model = build("mixtral")
    model.save_pretrained(tmp_path / "source", save_original_format=False)
    recipe = Recipe([Rule("*experts*", parse_spec("int:bits=4"))])
    compress(tmp_path / "source", tmp_path / "compressed", recipe=recipe)
    container = Container.open(tmp_path / "compressed")
    name = "model.layers.0.mlp.experts.gate_up_proj"
    assert container.records[name].shape == (4, 160, 64)
    loaded = load(tmp_path / "compressed", dtype="float32")
    assert isinstance(loaded.get_submodule(name), CompressedTensor)
    state = {key: container.tensor(key) for key in container}
    model.load_state_dict(state)
    torch.testing.assert_close(logits(loaded, "mixtral"), logits(model, "mixtral"), rtol=1e-5, atol=1e-5)
    loaded.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(load(tmp_path / "saved", dtype="float32"), "mixtral"), logits(loaded, "mixtral"))
    torch.testing.assert_close(logits(loaded.dequantize(), "mixtral"), logits(model, "mixtral"), rtol=1e-5, atol=1e-5)


# Tied weights.


def test_tied_head_shares_the_tensor_of_the_embedding(llama: Path, tmp_path: Path) -> None:
    model = load(llama, dtype="float32")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not any(name.startswith("lm_head") for name in model.state_dict())
    model.tie_weights()
    assert isinstance(model.lm_head.weight, CompressedTensor)
    again = copy.deepcopy(model)
    assert again.lm_head.weight is again.model.embed_tokens.weight is not model.lm_head.weight
    assert torch.equal(logits(again, "llama-tied"), logits(model, "llama-tied"))


def test_embedding_shares_the_tensor_of_a_tied_head(tmp_path: Path) -> None:
    def keep_the_head(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")

    folder = compress_family("llama-tied", tmp_path, {"*": "lossless"}, keep_the_head)
    model = load(folder, dtype="float32")
    assert model.model.embed_tokens.weight is model.lm_head.weight
    torch.testing.assert_close(
        logits(model, "llama-tied"), logits(build("llama-tied"), "llama-tied"), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("rules", [{"*": "lossless"}, {"lm_head*": "lossless"}, {"*embed*": "lossless"}])
def test_head_and_embedding_that_differ_are_not_tied(rules: dict[str, str], tmp_path: Path) -> None:
    head = torch.randn(136, 64)
    folder = compress_family(
        "llama-tied", tmp_path, rules, lambda tensors: tensors.update({"lm_head.weight": head.clone()})
    )
    model = load(folder, dtype="float32")
    original = build("llama-tied")
    original.lm_head.weight = torch.nn.Parameter(head)
    torch.testing.assert_close(logits(model, "llama-tied"), logits(original, "llama-tied"), rtol=0, atol=1e-5)


def test_tied_head_computes_where_its_embedding_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(compress_family("bert", tmp_path, {"*": "int:bits=8"}), dtype="float32")
    assert model.cls.predictions.decoder.bias is not None
    expected = logits(model, "bert")
    # "cpu:0" does not equal "cpu", so it stands for another device.
    monkeypatch.setattr(Encoded, "device", property(lambda encoded: torch.device("cpu", 0)))
    torch.testing.assert_close(logits(model, "bert"), expected)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weight_of_many_users_is_shared_by_all(dtype: str, tmp_path: Path) -> None:
    torch.manual_seed(2)
    config = transformers.T5Config(vocab_size=136, d_model=64, d_kv=16, d_ff=80, num_layers=1, num_heads=4)
    original = transformers.T5ForConditionalGeneration(config).eval()
    original.save_pretrained(tmp_path / "source")
    compress(tmp_path / "source", tmp_path / "compressed", "int:bits=4")
    model = load(tmp_path / "compressed", dtype=dtype)
    users = [model.shared, model.encoder.embed_tokens, model.decoder.embed_tokens, model.lm_head]
    assert len({id(user.weight) for user in users}) == 1
    # T5 asks for its `wo` in float32 where the model is in float16; that must not reach their scales.
    container = Container.open(tmp_path / "compressed")
    name = "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    found, stored = model.get_submodule(name).encoded.parts["scales"], container.parts(name)["scales"]
    assert found.dtype == stored.dtype
    assert torch.equal(found, stored)
    with torch.no_grad():
        ids = torch.tensor([[4, 9, 77]])
        assert bool(model(input_ids=ids, decoder_input_ids=ids).logits.isfinite().all())


def test_tied_weight_that_one_of_its_users_needs_dense_is_decoded(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Head(torch.nn.Linear):
        pass

    def give_head(self: Any, config: Any) -> None:
        original(self, config)
        self.lm_head.__class__ = Head

    original = transformers.LlamaForCausalLM.__init__
    monkeypatch.setattr(transformers.LlamaForCausalLM, "__init__", give_head)
    model = load(llama, dtype="float32")
    assert type(model.model.embed_tokens) is torch.nn.Embedding
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, Container.open(llama).tensor("model.embed_tokens.weight"))


# Parts survive whatever is done to a model.


def test_casting_the_model_leaves_parts_alone(llama: Path) -> None:
    model = load(llama, dtype="float32")
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if ".weight." in name}
    model.to(torch.float16)
    after = {name: buffer for name, buffer in model.named_buffers() if ".weight." in name}
    assert {name: part.dtype for name, part in before.items()} == {name: part.dtype for name, part in after.items()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.model.embed_tokens(torch.tensor([3])).dtype == torch.float16
    assert logits(model, "llama-tied").dtype == torch.float16
    with pytest.raises(ValueError, match="half"):
        model.half()


def test_compressed_weight_answers_for_the_dense_one(llama: Path) -> None:
    model = load(llama)
    weight = model.model.layers[0].mlp.up_proj.weight
    assert (weight.shape, weight.dtype, weight.device.type) == ((80, 64), torch.bfloat16, "cpu")
    assert model.dtype == torch.bfloat16
    parts = sum(part.nbytes for module in model.modules() for part in module.buffers(recurse=False))
    assert model.get_memory_footprint() == parts + sum(parameter.nbytes for parameter in model.parameters())


def test_resizing_the_embedding_is_refused(llama: Path) -> None:
    with pytest.raises(TypeError, match="Embedding"):
        load(llama).resize_token_embeddings(200)


def test_model_on_disk_computes_the_same(llama: Path, tmp_path: Path) -> None:
    places: dict[str, str] = dict.fromkeys(["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"], "cpu")
    places |= {"model.layers.0": "cpu", "model.layers.1": "disk"}
    model = load(llama, dtype="float16", device_map=places, offload_folder=str(tmp_path / "disk"), offload_buffers=True)
    assert model.model.layers[1].mlp.up_proj.weight.codes.device.type == "meta"
    assert torch.equal(logits(model, "llama-tied"), logits(load(llama, dtype="float16"), "llama-tied"))
    assert model.model.layers[1].mlp.up_proj.weight.codes.device.type == "meta"
    with pytest.raises(TilepressError, match="offloaded"):
        model.save_pretrained(tmp_path / "saved")


def test_experts_and_decoded_layers_on_disk_compute_the_same(tmp_path: Path) -> None:
    folder = compress_family("mixtral", tmp_path, {"*": "lossless"})
    places: dict[str, str] = dict.fromkeys(["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"], "cpu")
    places |= {"model.layers.0": "disk", "model.layers.1": "disk"}
    model = load(
        folder, dtype="float32", device_map=places, offload_folder=str(tmp_path / "disk"), offload_buffers=True
    )
    assert torch.equal(logits(model, "mixtral"), logits(load(folder, dtype="float32"), "mixtral"))


def test_device_map_is_computed_from_compressed_sizes(llama: Path) -> None:
    model = load(llama, dtype="float32", device_map="auto", max_memory={"cpu": 150_000})
    assert torch.equal(logits(model, "llama-tied"), logits(load(llama, dtype="float32"), "llama-tied"))


def test_dtype_is_taken_from_config_or_from_the_tensors(llama: Path, tmp_path: Path) -> None:
    assert load(llama).dtype == torch.bfloat16
    assert load(llama, dtype="auto").dtype == torch.float32
    folder = compress_family("llama", tmp_path)
    edit_config(folder, dtype=None)
    assert load(folder, dtype="auto").dtype == torch.float32


# Layers by themselves.


def test_lookup_decodes_only_the_panels_it_needs(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = load(llama, dtype="float32").model.embed_tokens
    dense = Container.open(llama).tensor("model.embed_tokens.weight")
    seen: list[tuple[int, int]] = []

    def watched(encoded: Any, rows: slice, **options: Any) -> torch.Tensor:
        seen.append((rows.start, rows.stop))
        return decode(encoded, rows, **options)

    monkeypatch.setattr(compressed_module, "decode", watched)
    ids = torch.tensor([[5, 40, 135], [33, 5, 17]])
    assert torch.equal(table(ids), dense[ids])
    assert seen == [(0, 48), (128, 136)]
    assert table(torch.empty(2, 0, dtype=torch.long)).shape == (2, 0, 64)


@pytest.mark.parametrize("row", [-1, 136, 143, 144, 10_000])
def test_lookup_outside_the_table_is_refused(llama: Path, row: int) -> None:
    table = load(llama, dtype="float32").model.embed_tokens
    with pytest.raises(IndexError):
        table(torch.tensor([3, row]))


def test_head_takes_activations_of_any_rank(llama: Path) -> None:
    head = load(llama, dtype="float32").lm_head
    assert isinstance(head, CompressedLinear)
    x = torch.randn(2, 3, 64)
    expected = x @ Container.open(llama).tensor("model.embed_tokens.weight").T
    torch.testing.assert_close(head(x), expected)
    torch.testing.assert_close(head(x[0, 0]), expected[0, 0])
    with pytest.raises(CodecError, match="columns"):
        head(torch.randn(2, 63))


def test_forward_asks_for_no_gradients_unless_the_caller_does(llama: Path) -> None:
    model = load(llama, dtype="float32")
    ids = torch.arange(1, 9)[None]
    assert not model(input_ids=ids).logits.requires_grad
    embedded = model.get_input_embeddings()(ids).requires_grad_()
    model(inputs_embeds=embedded).logits.sum().backward()
    assert embedded.grad is not None
    assert bool(embedded.grad.abs().sum() > 0)
