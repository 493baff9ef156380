"""Writing tiny GGUF files: a LLaMA with a byte-level tokenizer, and random tensors for other architectures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import gguf
import numpy as np
import tokenizers
from gguf import GGMLQuantizationType as Type

HIDDEN, FEED_FORWARD, HEADS, KEY_HEADS, VOCABULARY = 256, 256, 4, 2, 261
Tensor = tuple[str, tuple[int, ...], Type]


def llama_tensors(layers: int, types: Iterable[Type], *, tied: bool = False) -> list[Tensor]:
    """Names and shapes of a LLaMA's tensors; matrices take `types` in turn, norms are F32."""
    keys = HIDDEN * KEY_HEADS // HEADS
    matrices = {"attn_q": (HIDDEN, HIDDEN), "attn_k": (keys, HIDDEN), "attn_v": (keys, HIDDEN)}
    matrices |= {"attn_output": (HIDDEN, HIDDEN), "ffn_gate": (FEED_FORWARD, HIDDEN), "ffn_up": (FEED_FORWARD, HIDDEN)}
    matrices |= {"ffn_down": (HIDDEN, FEED_FORWARD)}
    shapes = {"token_embd.weight": (VOCABULARY, HIDDEN)} | ({} if tied else {"output.weight": (VOCABULARY, HIDDEN)})
    for layer in range(layers):
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in matrices.items()}
        shapes |= {f"blk.{layer}.{name}.weight": (HIDDEN,) for name in ("attn_norm", "ffn_norm")}
    shapes["output_norm.weight"] = (HIDDEN,)
    turns = list(types)
    names = [name for name, shape in shapes.items() if len(shape) > 1]
    return [
        (name, shape, turns[names.index(name) % len(turns)] if name in names else Type.F32)
        for name, shape in shapes.items()
    ]


def llama_settings(layers: int) -> dict[str, int | float]:
    """Metadata of a LLaMA, without the architecture's name in front."""
    return {
        "block_count": layers,
        "context_length": 128,
        "embedding_length": HIDDEN,
        "feed_forward_length": FEED_FORWARD,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KEY_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
        "vocab_size": VOCABULARY,
    }


def random_blocks(shape: tuple[int, ...], kind: Type, generator: np.random.Generator) -> np.ndarray:
    """Random values in the blocks of any type; random bits where gguf can't quantize."""
    values = generator.standard_normal(shape, dtype=np.float32)
    try:
        return gguf.quants.quantize(values, kind)
    except NotImplementedError:
        count, size = gguf.GGML_QUANT_SIZES[kind]
        # Bytes below 0x70 keep every half-precision scale finite, wherever it lies.
        return generator.integers(0, 0x70, (*shape[:-1], shape[-1] // count * size), dtype=np.uint8)


def write_gguf(
    path: Path,
    architecture: str,
    settings: Mapping[str, int | float],
    tensors: Iterable[Tensor],
    *,
    tokenizer: bool = True,
) -> None:
    """Write a file with random weights and, if asked for, a tokenizer of single bytes."""
    generator = np.random.default_rng(3)
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in settings.items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{architecture}.{name}", value)
    if tokenizer:
        add_tokenizer(writer)
    for name, shape, kind in tensors:
        blocks = random_blocks(shape, kind, generator)
        assert math.prod(shape)
        writer.add_tensor(name, blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: gguf.GGUFWriter) -> None:
    """A byte-level tokenizer with two merges, a start, an end and a padding token, and a chat template."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, "he", "ll", "<start>", "<end>", "<pad>"]
    assert len(tokens) == VOCABULARY
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * 258 + [gguf.TokenType.CONTROL] * 3)
    writer.add_token_merges(["h e", "l l"])
    writer.add_bos_token_id(258)
    writer.add_eos_token_id(259)
    writer.add_pad_token_id(260)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for message in messages %}{{ message.content }}{% endfor %}")


def write_llama(path: Path, types: Iterable[Type], *, layers: int = 1, tied: bool = False) -> None:
    """Write a random LLaMA whose matrices take `types` in turn."""
    write_gguf(path, "llama", llama_settings(layers), llama_tensors(layers, types, tied=tied))
