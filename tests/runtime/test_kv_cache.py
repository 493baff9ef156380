"""`TilepressCache` in models of Transformers, under tilepress' own attention and under theirs."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as T
from tiny_models import build
from transformers.cache_utils import DynamicCache

import tilepress
from tilepress import TilepressCache, use_kv
from tilepress.kernels import CodecError
from tilepress.runtime.kv_cache import StoredStates

TOKENS = 90
NAME = "cache" if "cache" in inspect.signature(T.LlamaForCausalLM.forward).parameters else "past_key_values"
"""The argument that takes a cache."""

_SHAPE = {"hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}
_GROUPED = {**_SHAPE, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 136, "max_position_embeddings": 256}
_T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 32}


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
@pytest.mark.parametrize(
    "family", ["llama", "mistral", "qwen3", "gemma2", "gpt-oss", "gpt2", "gpt-neox", "gptj", "bloom"]
)
def test_own_attention_computes_what_the_models_attention_does(family: str, side: str) -> None:
    model = made(family)
    model.set_attn_implementation("eager")
    wanted = logits(model, DynamicCache(), side)
    use_kv(model)
    for cache in (DynamicCache(), TilepressCache("none", window=0)):
        torch.testing.assert_close(logits(model, cache, side), wanted, rtol=1e-4, atol=1e-5)
    forgetful = TilepressCache("none:group=16", window=0, config=model.config)
    torch.testing.assert_close(logits(model, forgetful, side), wanted, rtol=1e-4, atol=1e-5)
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


def test_bloom_takes_masks_of_own_attention(tmp_path: Path) -> None:
    model = made("bloom")
    model.save_pretrained(tmp_path)
    other = T.BloomForCausalLM.from_pretrained(tmp_path, attn_implementation="tilepress")
    torch.testing.assert_close(logits(other, DynamicCache(), "left"), logits(model, DynamicCache(), "left"))


@pytest.mark.parametrize("attention", ["sdpa", "eager", "tilepress"])
def test_generation_is_the_same_without_a_codec(attention: str) -> None:
    model = made("llama")
    wanted = generated(model, DynamicCache())
    model.set_attn_implementation(attention)
    assert torch.equal(generated(model, TilepressCache("none")), wanted)


@pytest.mark.parametrize("family", ["llama", "gptj", "bloom"])
def test_own_attention_never_decodes_the_whole_cache(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(family)
    monkeypatch.setattr(StoredStates, "decoded", lambda self: pytest.fail("the whole cache was decoded"))
    use_kv(model)
    assert generated(model, TilepressCache("int:bits=4")).shape == (2, TOKENS + 12)
    if family == "bloom":
        return
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


@pytest.mark.parametrize("step", [3, 9, 30, 90])
def test_tiles_that_a_sliding_window_has_left_are_forgotten(step: int) -> None:
    model = made("mistral")
    model.set_attn_implementation("tilepress")
    wanted = logits(model, DynamicCache(), step=step)
    cache = TilepressCache("none:group=16", window=4, config=model.config)
    torch.testing.assert_close(logits(model, cache, step=step), wanted, rtol=1e-4, atol=1e-5)
    layer = cache.layers[1]
    assert cache.get_seq_length() == layer.get_seq_length() == TOKENS
    assert layer.store.tokens <= 39 + step + 16
    assert layer.store.first > 0


def test_layers_without_a_sliding_window_keep_everything() -> None:
    model = made("gemma2")
    cache = TilepressCache("fp8:group=16", window=0, config=model.config)
    logits(model, cache)
    assert cache.is_sliding == [True, False]
    assert [layer.store.tokens == TOKENS for layer in cache.layers] == [False, True]


def test_a_sliding_window_takes_back_only_what_it_still_shows() -> None:
    model = made("mistral")
    cache = TilepressCache("none:group=16", config=model.config)
    wanted = logits(model, cache)
    cache.crop(-3)
    assert cache.get_seq_length() == TOKENS - 3
    with pytest.raises(CodecError, match="sliding window has forgotten"):
        cache.crop(-40)
    cache.reset()
    cache.activate_past_recording()
    logits(model, cache)
    cache.crop(-45)
    assert cache.layers[0].store.first == 0
    texts = padded("none")
    with torch.no_grad():
        again = model(texts["input_ids"][:, TOKENS - 45 :], **{NAME: cache}).logits
    wanted = wanted.view(2, TOKENS, -1)[:, TOKENS - 45 :]
    torch.testing.assert_close(again, wanted, rtol=1e-4, atol=1e-5)
    cache.crop(0)
    assert cache.layers[0].store.first == 48


def test_beams_and_assistants_work_with_a_cache_that_forgets() -> None:
    model = made("mistral")
    wanted = generated(model, None, num_beams=2)
    use_kv(model, "none:group=16")
    assert torch.equal(generated(model, None, num_beams=2), wanted)
    ids = padded("none")["input_ids"][:1]
    options = {"max_new_tokens": 30, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assisted = model.generate(ids, **options, assistant_model=copy.deepcopy(model))
    assert torch.equal(assisted, model.generate(ids, **options, kv=None))


def test_a_model_without_keys_and_values_has_no_such_cache() -> None:
    config = T.LlamaConfig(**_GROUPED)
    config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(CodecError, match="linear_attention"):
        TilepressCache(config=config)


def kept(model: Any, **options: Any) -> Any:
    """The cache that a call of generate has made for itself."""
    output = model.generate(
        **padded("left"), max_new_tokens=3, pad_token_id=0, return_dict_in_generate=True, do_sample=False, **options
    )
    return output.get(NAME)


def test_generate_takes_a_codec_for_its_cache() -> None:
    model = made("llama")
    use_kv(model)
    assert model.config._attn_implementation == "tilepress"
    assert type(kept(model)) is DynamicCache
    cache = kept(model, kv="int:bits=2")
    assert isinstance(cache, TilepressCache)
    assert cache.kv == "int:bits=2"
    assert cache.layers[1].store.encoded_tokens == 64
    with pytest.raises(CodecError, match="bits=5"):
        kept(model, kv="int:bits=5")


def test_a_model_can_be_told_the_codec_of_every_call() -> None:
    model = made("mistral")
    wanted = generated(model, None)
    use_kv(model, "none")
    cache = kept(model)
    assert isinstance(cache, TilepressCache)
    assert cache.is_sliding == [True, True]
    assert torch.equal(generated(model, None), wanted)
    assert torch.equal(generated(copy.deepcopy(model), None), wanted)
    for kv in ("fp8", "zfp:rate=6"):
        assert kept(model, kv=kv).kv == kv
    assert type(kept(model, kv=None)) is DynamicCache
    assert kept(model, use_cache=False) is None
    given = TilepressCache("int:bits=8")
    assert kept(model, **{NAME: given}) is given


def test_load_takes_the_codec_of_the_cache(tmp_path: Path) -> None:
    made("llama").save_pretrained(tmp_path / "source")
    tilepress.compress(tmp_path / "source", tmp_path / "small", "int:bits=8")
    model = tilepress.load(tmp_path / "small", kv="int:bits=4")
    cache = kept(model)
    assert cache.kv == "int:bits=4"
    assert cache.layers[0].store.window_keys.dtype == torch.bfloat16
    with pytest.raises(CodecError, match="no codec 'trellis'"):
        tilepress.load(tmp_path / "small", kv="trellis:bits=4")


def test_what_has_no_cache_to_compress_is_refused() -> None:
    for model in (build("bert"), T.T5ForConditionalGeneration(T.T5Config(**_T5))):
        with pytest.raises(CodecError, match="no KV cache"):
            use_kv(model)
    with pytest.raises(CodecError, match="no codec 'nf4'"):
        use_kv(made("llama"), "nf4")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "attention"),
    [(family, "tilepress") for family in ("llama", "gemma2", "gpt-oss", "bloom")] + [("llama", "sdpa")],
)
def test_a_compiled_model_is_one_graph_and_computes_the_same(family: str, attention: str) -> None:
    model = made(family)
    use_kv(model)
    if family != "bloom":
        model.set_attn_implementation(attention)

    def cache() -> TilepressCache:
        return TilepressCache("int:bits=8", window=0, config=model.config)

    wanted = logits(model, cache(), step=10)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(logits(compiled, cache(), step=10), wanted)


@pytest.mark.slow
def test_a_compiled_model_takes_a_cache_that_makes_its_layers_as_they_come() -> None:
    model = made("llama")
    use_kv(model)
    wanted = generated(model, TilepressCache("int:bits=8"))
    torch._dynamo.reset()
    model.forward = torch.compile(model.forward)
    assert torch.equal(generated(model, TilepressCache("int:bits=8")), wanted)


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
