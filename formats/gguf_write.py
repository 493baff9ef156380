"""Writing a decoder of the LLaMA kind as a GGUF file that llama.cpp can run, token numbers in, logits out.

What no speed depends on is left out: the vocabulary, and the scaling of rotary embeddings for long contexts. Names are
those of the gguf package. Of a LLaMA, llama.cpp turns neighbouring channels of a head where Transformers turns
channels half a head apart, so that rows of its query and key projections change places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import PretrainedConfig

from tilepress.formats.gguf_model import NO_VOCABULARY, PLAIN_DTYPES
from tilepress.formats.tensor_info import TensorInfo
from tilepress.kernels.errors import RecipeError

ARCHITECTURES: Mapping[str, gguf.MODEL_ARCH] = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
"""Model type of Transformers -> architecture of llama.cpp."""

_TYPES = {dtype: kind for kind, dtype in PLAIN_DTYPES.items()}


def write_gguf(
    path: Path, config: PretrainedConfig, infos: Iterable[TensorInfo], load: Callable[[str], torch.Tensor]
) -> None:
    """Write a file, one tensor in memory at a time; matrices keep their dtype, vectors are written in float32.

    Args:
        path: of the file.
        config: of the model.
        infos: of the tensors, as Transformers names them.
        load: gives a tensor by its name.

    Raises:
        RecipeError: a model of another kind, or with a tensor that llama.cpp has no name for.
    """
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None:
        known = ", ".join(ARCHITECTURES)
        raise RecipeError(f"a {config.model_type} can't be written as a GGUF file, only {known}; name a GGUF file")
    table = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    _add_settings(writer, config)
    kept: list[TensorInfo] = []
    for info in infos:
        if info.name.endswith("rotary_emb.inv_freq"):
            continue
        name = table.get_name(info.name, try_suffixes=(".weight", ".bias"))
        stored = replace(info, dtype=torch.float32) if len(info.shape) == 1 else info
        if name is None or stored.dtype not in _TYPES:
            raise RecipeError(f"the tensor {info.name} can't be written to a GGUF file; name a GGUF file")
        kept.append(stored)
        writer.add_tensor_info(name, stored.shape, np.dtype(np.void), stored.size_bytes, _TYPES[stored.dtype])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for info in kept:
        tensor = load(info.name).to(info.dtype)
        if architecture is gguf.MODEL_ARCH.LLAMA and (".q_proj." in info.name or ".k_proj." in info.name):
            tensor = _with_neighbours(tensor, _head_size(config))
        writer.write_tensor_data(tensor.contiguous().view(torch.uint8).numpy())
    writer.close()


def _add_settings(writer: gguf.GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_head_size(config))
    writer.add_value_length(_head_size(config))
    writer.add_rope_dimension_count(_head_size(config))
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model(NO_VOCABULARY)


def _head_size(config: PretrainedConfig) -> int:
    size: int | None = getattr(config, "head_dim", None)
    return size or config.hidden_size // config.num_attention_heads


def _with_neighbours(rows: torch.Tensor, head_size: int) -> torch.Tensor:
    """Rows of both halves of each head in turns, where one half followed the other."""
    halves = rows.reshape(-1, 2, head_size // 2, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)
