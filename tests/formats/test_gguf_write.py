"""GGUF files written for llama.cpp, read back, hold the tensors and the config of their source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as T

from tilepress.formats.gguf_checkpoint import GgufCheckpoint
from tilepress.formats.gguf_write import write_gguf
from tilepress.formats.tensor_info import TensorInfo
from tilepress.kernels import RecipeError

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 136,
}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: T.LlamaForCausalLM(T.LlamaConfig(**SIZES, rope_theta=5e5)),
    "llama-tied": lambda: T.LlamaForCausalLM(T.LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "mistral": lambda: T.MistralForCausalLM(T.MistralConfig(**SIZES, head_dim=32)),
    "qwen2": lambda: T.Qwen2ForCausalLM(T.Qwen2Config(**SIZES)),
    "qwen3": lambda: T.Qwen3ForCausalLM(T.Qwen3Config(**SIZES, head_dim=128)),
}


def write(path: Path, config: T.PretrainedConfig, tensors: dict[str, torch.Tensor]) -> None:
    infos = [TensorInfo(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()]
    write_gguf(path, config, infos, tensors.__getitem__)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", MODELS)
def test_what_is_written_is_read_back(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = MODELS[family]().to(dtype)
    kept = {name: tensor for name, tensor in model.state_dict().items() if name not in model.all_tied_weights_keys}
    write(tmp_path / "model.gguf", model.config, kept)
    read = GgufCheckpoint(tmp_path / "model.gguf")
    assert set(read.infos) == set(kept)
    for name, tensor in kept.items():
        assert torch.equal(read.tensor(name), tensor.float() if tensor.ndim == 1 else tensor), name
    for setting in ("num_attention_heads", "num_key_value_heads", "rms_norm_eps", "max_position_embeddings"):
        assert read.config[setting] == pytest.approx(getattr(model.config, setting))
    assert read.companions() == []


def test_what_llama_cpp_has_no_name_for_is_refused(tmp_path: Path) -> None:
    other = T.GPT2LMHeadModel(T.GPT2Config(n_embd=64, n_layer=1, n_head=4, vocab_size=136))
    with pytest.raises(RecipeError, match="a gpt2 can't be written as a GGUF file"):
        write(tmp_path / "model.gguf", other.config, other.state_dict())
    llama = MODELS["llama"]()
    with pytest.raises(RecipeError, match=r"model\.adapter\.weight"):
        write(tmp_path / "model.gguf", llama.config, {"model.adapter.weight": torch.zeros(16, 16)})
