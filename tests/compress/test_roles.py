"""What a tensor is for is found in the model, not in a list of names."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from tilepress.compress.roles import Placement, Role, placements
from tilepress.formats.checkpoint import open_checkpoint

TINY = {"vocab_size": 64}
LLAMA_SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def placed(model: transformers.PreTrainedModel, folder: Path) -> dict[str, Placement]:
    model.save_pretrained(folder)
    checkpoint = open_checkpoint(folder)
    return placements(checkpoint.config, checkpoint.infos)


def test_llama(tmp_path: Path) -> None:
    found = placed(transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY, **LLAMA_SIZES)), tmp_path)
    assert found["model.embed_tokens.weight"] == Placement(Role.EMBEDDING)
    assert found["lm_head.weight"] == Placement(Role.HEAD)
    assert found["model.layers.1.mlp.down_proj.weight"] == Placement(Role.BLOCK)
    assert found["model.layers.1.input_layernorm.weight"] == Placement(Role.OTHER)
    assert found["model.norm.weight"] == Placement(Role.OTHER)


def test_gpt2_has_transposed_matrices(tmp_path: Path) -> None:
    config = transformers.GPT2Config(**TINY, n_embd=64, n_layer=2, n_head=4, n_positions=64)
    found = placed(transformers.GPT2LMHeadModel(config), tmp_path)
    assert found["transformer.h.0.attn.c_attn.weight"] == Placement(Role.BLOCK, transposed=True)
    assert found["transformer.wte.weight"] == Placement(Role.EMBEDDING)
    assert found["transformer.wpe.weight"] == Placement(Role.EMBEDDING)


def test_mixtral_experts_are_blocks_and_routers_are_not(tmp_path: Path) -> None:
    config = transformers.MixtralConfig(**TINY, **LLAMA_SIZES, num_key_value_heads=2, num_local_experts=4)
    found = placed(transformers.MixtralForCausalLM(config), tmp_path)
    assert found["model.layers.0.block_sparse_moe.experts.3.w2.weight"] == Placement(Role.BLOCK)
    assert found["model.layers.0.block_sparse_moe.gate.weight"] == Placement(Role.OTHER)


def test_vit_convolution_stays_and_classifier_is_a_head(tmp_path: Path) -> None:
    config = transformers.ViTConfig(**LLAMA_SIZES, image_size=32, patch_size=8)
    found = placed(transformers.ViTForImageClassification(config), tmp_path)
    assert found["vit.embeddings.patch_embeddings.projection.weight"] == Placement(Role.OTHER)
    assert found["classifier.weight"] == Placement(Role.HEAD)


@pytest.mark.parametrize("config", ({}, {"architectures": ["NobodyKnowsThisModel"]}, {"architectures": ["LlamaModel"]}))
def test_names_decide_where_the_model_is_unknown(config: dict[str, object]) -> None:
    found = placements(config, ["model.layers.3.attn.q.weight", "tok_embed.weight", "blocks.1.norm.weight"])
    if config.get("architectures") != ["LlamaModel"]:
        assert [place.role for place in found.values()] == [Role.BLOCK, Role.EMBEDDING, Role.OTHER]
    else:
        assert {place.role for place in found.values()} == {Role.OTHER}
