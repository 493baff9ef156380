"""Small checkpoints that many tests start from; everything is made here, nothing is downloaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny tensors gain nothing from threads, and threads that wait for a busy processor lose much."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that no worker is left alone with it."""
    items.sort(key=lambda item: item.path.parent.name not in ("sanitizers", "packaging"))


def save_llama(
    folder: Path, *, tied: bool = False, dtype: torch.dtype = torch.bfloat16, shard: str = "100KB", heads: int = 4
) -> None:
    """Write a random LLaMA of two layers (about 0.5 MB in bfloat16) in several shards, with a byte-level tokenizer."""
    import tokenizers
    import transformers

    torch.manual_seed(7)
    config = transformers.LlamaConfig(
        vocab_size=257,
        hidden_size=96,
        intermediate_size=176,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        bos_token_id=256,
        eos_token_id=256,
        pad_token_id=256,
    )
    model = transformers.LlamaForCausalLM(config).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)} | {"<end>": 256}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    fast.save_pretrained(folder)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random bfloat16 LLaMA checkpoint in several shards. Tests must not write to it."""
    folder = tmp_path_factory.mktemp("checkpoint") / "llama"
    save_llama(folder)
    return folder


@pytest.fixture(scope="session")
def tied_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a head that is its embedding."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tied-llama"
    save_llama(folder, tied=True)
    return folder
