"""Tiny random models, one of each family, with matrices just large enough to be compressed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers as T

_SHAPE = {"hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}
_GROUPED = {**_SHAPE, "num_key_value_heads": 2, "vocab_size": 136, "max_position_embeddings": 128}
_GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": 136}
_ENDS = {"bos_token_id": 0, "eos_token_id": 0}

MODELS: Mapping[str, Callable[[], Any]] = {
    "llama": lambda: T.LlamaForCausalLM(T.LlamaConfig(**_GROUPED)),
    "llama-tied": lambda: T.LlamaForCausalLM(T.LlamaConfig(**_GROUPED, tie_word_embeddings=True)),
    "gptj": lambda: T.GPTJForCausalLM(T.GPTJConfig(**_GPT, **_ENDS, rotary_dim=8)),
    "bloom": lambda: T.BloomForCausalLM(T.BloomConfig(hidden_size=64, n_layer=2, n_head=4, vocab_size=136)),
    "gpt2": lambda: T.GPT2LMHeadModel(T.GPT2Config(**_GPT, **_ENDS)),
    "gpt-neox": lambda: T.GPTNeoXForCausalLM(T.GPTNeoXConfig(**_SHAPE, vocab_size=136, max_position_embeddings=128)),
    "qwen3": lambda: T.Qwen3ForCausalLM(T.Qwen3Config(**_GROUPED, head_dim=16)),
    "mistral": lambda: T.MistralForCausalLM(T.MistralConfig(**_GROUPED)),
    "mixtral": lambda: T.MixtralForCausalLM(T.MixtralConfig(**_GROUPED, num_local_experts=4)),
    "qwen3-moe": lambda: T.Qwen3MoeForCausalLM(
        T.Qwen3MoeConfig(**_GROUPED, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=72)
    ),
    "bert": lambda: T.BertForMaskedLM(T.BertConfig(**_SHAPE, vocab_size=136, max_position_embeddings=128)),
    "vit": lambda: T.ViTForImageClassification(T.ViTConfig(**_SHAPE, image_size=32, patch_size=8)),
}
GENERATING = [name for name in MODELS if name not in ("bert", "vit")]


def build(family: str) -> Any:
    """A random model of the family, the same each time, in float32."""
    torch.manual_seed(11)
    return MODELS[family]().eval()


def inputs(family: str) -> dict[str, torch.Tensor]:
    """Something to run the model on."""
    generator = torch.Generator().manual_seed(5)
    if family == "vit":
        return {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator)}
    return {"input_ids": torch.randint(3, 136, (2, 14), generator=generator)}


def logits(model: Any, family: str) -> torch.Tensor:
    """Logits of the model for `inputs`."""
    with torch.no_grad():
        result: torch.Tensor = model(**inputs(family)).logits
    return result
