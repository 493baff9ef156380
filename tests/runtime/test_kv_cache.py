"""`TilepressCache` in models of Transformers, under tilepress' own attention and under theirs."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
import transformers as T
from tiny_models import build
from transformers.cache_utils import DynamicCache

import tilepress
from tilepress import TilepressCache
from tilepress.kernels import CodecError
from tilepress.runtime.kv_cache import StoredStates

TOKENS = 90
NAME = "cache" if "cache" in inspect.signature(T.LlamaForCausalLM.forward).parameters else "past_key_values"
"""The argument that takes a cache."""

_SHAPE = {"hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}
_GROUPED = {**_SHAPE, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 136, "max_position_embeddings": 256}


def gemma2() -> Any:
    """Soft-capped scores; every other layer sees a sliding window."""
    return T.Gemma2ForCausalLM(T.Gemma2Config(**_GROUPED, sliding_window=40, attn_logit_softcapping=0.5))


def gpt_oss() -> Any:
    """Sinks; every other layer sees a sliding window."""
    config = T.GptOssConfig(**_GROUPED, sliding_window=40, num_local_experts=2, num_experts_per_tok=1)
    return T.GptOssForCausalLM(config)


def mistral() -> Any:
    """All layers see a sliding window."""
    return T.MistralForCausalLM(T.MistralConfig(**_GROUPED, sliding_window=40))


def made(family: str) -> Any:
    own = {"gemma2": gemma2, "gpt-oss": gpt_oss, "mistral": mistral}
    if family not in own:
        return build(family)
    torch.manual_seed(3)
    return own[family]().eval()


def padded(side: str) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 136, (2, TOKENS), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if side == "left":
        mask[0, :9] = 0
    elif side == "right":
        mask[0, -9:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def logits(model: Any, cache: Any, side: str = "none", step: int = 30) -> torch.Tensor:
    """Logits of the tokens that are not padding, which come to the model in pieces."""
    texts, pieces = padded(side), []
    for last in range(step, TOKENS + 1, step):
        with torch.no_grad():
            output = model(
                texts["input_ids"][:, last - step : last],
                attention_mask=texts["attention_mask"][:, :last],
                **{NAME: cache},
            )
        pieces.append(output.logits)
    return torch.cat(pieces, dim=1)[texts["attention_mask"].bool()]


def generated(model: Any, cache: Any, side: str = "left", **arguments: Any) -> torch.Tensor:
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None, **arguments}
    tokens: torch.Tensor = model.generate(**padded(side), **options, **{NAME: cache})
    return tokens


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma2", "gpt-oss", "gpt2", "gpt-neox"])
def test_own_attention_computes_what_the_models_attention_does(family: str, side: str) -> None:
    model = made(family)
    model.set_attn_implementation("eager")
    wanted = logits(model, DynamicCache(), side)
    model.set_attn_implementation("tilepress")
    for cache in (DynamicCache(), TilepressCache("none", window=0)):
        torch.testing.assert_close(logits(model, cache, side), wanted, rtol=1e-4, atol=1e-5)
    close = logits(model, TilepressCache("int:bits=8", window=0), side)
    assert not torch.equal(close, wanted)
    torch.testing.assert_close(close, wanted, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("family", ["llama", "gptj", "bloom", "gpt2"])
def test_any_models_own_attention_reads_the_cache(family: str) -> None:
    model = made(family)
    wanted = generated(model, DynamicCache())
    assert torch.equal(generated(model, TilepressCache("none")), wanted)
    cache = TilepressCache("int:bits=8")
    torch.testing.assert_close(logits(model, cache), logits(model, DynamicCache()), rtol=0.02, atol=0.02)
    assert cache.layers[0].store.encoded_tokens == 64


@pytest.mark.parametrize("attention", ["sdpa", "eager", "tilepress"])
def test_generation_is_the_same_without_a_codec(attention: str) -> None:
    model = made("llama")
    wanted = generated(model, DynamicCache())
    model.set_attn_implementation(attention)
    assert torch.equal(generated(model, TilepressCache("none")), wanted)


def test_own_attention_never_decodes_the_whole_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("llama")
    monkeypatch.setattr(StoredStates, "decoded", lambda self: pytest.fail("the whole cache was decoded"))
    model.set_attn_implementation("tilepress")
    assert generated(model, TilepressCache("int:bits=4")).shape == (2, TOKENS + 12)
    model.set_attn_implementation("sdpa")
    with pytest.raises(pytest.fail.Exception):
        generated(model, TilepressCache("int:bits=4"))


def test_beams_reorder_the_cache() -> None:
    model = made("llama")
    model.set_attn_implementation("tilepress")
    wanted = generated(model, DynamicCache(), num_beams=3)
    assert torch.equal(generated(model, TilepressCache("none"), num_beams=3), wanted)
    assert generated(model, TilepressCache("int:bits=4"), num_beams=3).shape == wanted.shape


def test_assisted_generation_crops_the_cache() -> None:
    model = made("llama")
    model.set_attn_implementation("tilepress")
    ids = padded("none")["input_ids"][:1]
    options = {"max_new_tokens": 30, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    wanted = model.generate(ids, **options)
    found = model.generate(ids, **options, assistant_model=copy.deepcopy(model), **{NAME: TilepressCache("none")})
    assert torch.equal(found, wanted)


def test_a_cropped_cache_goes_on_from_there() -> None:
    model = made("llama")
    model.set_attn_implementation("tilepress")
    cache = TilepressCache("none", window=0)
    wanted = logits(model, cache)
    cache.crop(-30)
    assert cache.get_seq_length() == 60
    cache.crop(0)
    texts = padded("none")
    with torch.no_grad():
        again = model(texts["input_ids"][:, 60:], **{NAME: cache}).logits
    torch.testing.assert_close(again.flatten(0, 1), wanted.view(2, TOKENS, -1)[:, 60:].flatten(0, 1))
    cache.reset()
    assert (cache.get_seq_length(), cache.nbytes) == (0, 0)


def test_bytes_are_those_of_all_layers() -> None:
    model, cache = made("llama"), TilepressCache("int:bits=2")
    logits(model, cache)
    assert cache.kv == "int:bits=2"
    assert cache.nbytes == sum(layer.store.nbytes for layer in cache.layers) > 0


def test_states_of_a_cache_that_has_changed_are_refused() -> None:
    cache = TilepressCache("fp8")
    states = torch.zeros(1, 2, 70, 16)
    cache.update(states, states, 0)
    keys, values = cache.update(states, states, 0)
    assert keys.shape == (1, 2, 140, 16)
    assert (keys + 1).shape == keys.shape
    cache.crop(-3)
    with pytest.raises(CodecError, match="changed"):
        values + 1


def test_specs_that_make_no_sense_are_refused_at_once() -> None:
    for arguments in ({"kv": "nf4"}, {"kv": "int:bits=5"}, {"window": -1}):
        with pytest.raises(CodecError):
            TilepressCache(**arguments)  # type: ignore[arg-type]
    assert "TilepressCache" in dir(tilepress)
