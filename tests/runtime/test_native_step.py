"""Native steps of generation: the logits of Transformers' path, and its path wherever a step can't give them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import tiny_models
import torch
import transformers as T

import tilepress
from tilepress.kernels import CodecError, backend_of
from tilepress.kernels.cpu.instruction_set import instruction_set

if backend_of("int", "cpu").name != "cpu":
    pytest.skip("there are no native kernels", allow_module_level=True)

from tilepress.kernels import _native
from tilepress.kernels.cpu.decoder import Decoder
from tilepress.runtime.native_cache import RoomyLayer

SPECS = (
    "int:bits=3,group=32,symmetric=false",
    "nf4",
    "fp8",
    "mxfp4",
    "nvfp4",
    "trellis:bits=3,window=12",
    "lossless",
    "zfp:tolerance=1e-3",
    "sz:abs=1e-3",
    "none",
)
FAMILIES = ("llama-tied", "mistral-whole", "qwen2", "qwen3")
_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 136,
}
_MORE: dict[str, Callable[[], Any]] = {
    "mistral-whole": lambda: T.MistralForCausalLM(T.MistralConfig(**_SIZES, head_dim=32, sliding_window=None)),
    "qwen2": lambda: T.Qwen2ForCausalLM(T.Qwen2Config(**_SIZES)),
}


@cache
def source(family: str, spec: str) -> Any:
    """A compressed model in float32. Tests work on copies."""
    torch.manual_seed(3)
    model = _MORE[family]() if family in _MORE else tiny_models.build(family)
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    with TemporaryDirectory() as folder:
        model.eval().save_pretrained(Path(folder, "source"))
        tilepress.compress(Path(folder, "source"), Path(folder, "small"), spec, embeddings=spec)
        return tilepress.load(Path(folder, "small"), dtype="float32")


@pytest.fixture
def model() -> Any:
    return copy.deepcopy(source("llama", "int:bits=4"))


@pytest.fixture(params=_native.instruction_sets())
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TILEPRESS_CPU", request.param)
    instruction_set.cache_clear()
    yield
    instruction_set.cache_clear()


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each native step."""
    steps: list[int] = []
    step = Decoder.step

    def counted(self: Decoder, *arguments: Any, **options: Any) -> torch.Tensor:
        steps.append(len(steps))
        return step(self, *arguments, **options)

    monkeypatch.setattr(Decoder, "step", counted)
    return steps


def tokens(count: int, sequences: int = 1) -> torch.Tensor:
    return torch.randint(3, 136, (sequences, count), generator=torch.Generator().manual_seed(count))


def states(output: Any) -> Any:
    """The cache, whatever Transformers calls it."""
    return output.cache if "cache" in output else output.past_key_values


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor, prompt: int, cache: Any = None, **options: Any) -> torch.Tensor:
    """Logits of all tokens but those of the prompt, which are read at once."""
    output = model(input_ids=ids[:, :prompt], past_key_values=cache, use_cache=True)
    steps = []
    for i in range(prompt, ids.shape[1]):
        output = model(input_ids=ids[:, i : i + 1], past_key_values=states(output), use_cache=True, **options)
        steps.append(output.logits)
    return torch.cat(steps, dim=1)


def expected(model: Any, ids: torch.Tensor, prompt: int) -> torch.Tensor:
    """The same in one pass of Transformers."""
    with torch.no_grad():
        whole: torch.Tensor = model(input_ids=ids, use_cache=False).logits[:, prompt:]
    return whole


def assert_close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("spec", SPECS)
def test_every_codec_gives_the_logits_of_transformers(spec: str, taken: list[int]) -> None:
    model = copy.deepcopy(source("llama", spec))
    ids = tokens(12, sequences=3)
    assert_close(logits(model, ids, 9), expected(model, ids, 9))
    assert len(taken) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_logits_of_transformers(family: str, taken: list[int]) -> None:
    model, ids = source(family, "int:bits=8"), tokens(12, sequences=2)
    assert_close(logits(model, ids, 9), expected(model, ids, 9))
    assert len(taken) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_errs_by_its_rounding(model: Any, dtype: torch.dtype, taken: list[int]) -> None:
    ids = tokens(14)
    found = logits(model.to(dtype), ids, 9)
    assert found.dtype == dtype
    assert_close(found.float(), expected(model, ids, 9).float(), 8 * torch.finfo(dtype).eps)
    assert len(taken) == 5


@pytest.mark.parametrize("cached", [511, 512, 513, 1030])
def test_long_texts_are_attended_to_in_spans(model: Any, cached: int, taken: list[int]) -> None:
    ids = tokens(cached + 2)
    assert_close(logits(model, ids, cached), expected(model, ids, cached))
    assert len(taken) == 2


def test_the_number_of_threads_changes_nothing() -> None:
    model, ids = source("llama", "trellis:bits=3,window=12"), tokens(600)
    found = [logits(model, ids, 590)]
    for threads in (2, 5):
        torch.set_num_threads(threads)
        found.append(logits(model, ids, 590))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False},
        {"do_sample": True, "temperature": 0.8, "top_p": 0.9},
        {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"do_sample": False, "num_beams": 3},
        {"do_sample": False, "prompt_lookup_num_tokens": 3},
    ],
)
def test_generate_chooses_the_tokens_of_transformers(
    model: Any, options: dict[str, Any], taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate() -> torch.Tensor:
        torch.manual_seed(9)
        ids = torch.tensor([[5, 9, 7, 5, 9, 7, 5, 9]])
        chosen: torch.Tensor = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, min_new_tokens=24, pad_token_id=0, **options
        )
        return chosen

    found = generate()
    assert taken
    monkeypatch.setenv("TILEPRESS_NATIVE", "0")
    count = len(taken)
    assert torch.equal(found, generate())
    assert len(taken) == count


def test_a_cache_can_be_cropped_copied_and_gone_on_with_by_either_path(model: Any, taken: list[int]) -> None:
    ids = tokens(20)
    with torch.no_grad():
        cache = states(model(input_ids=ids[:, :6], use_cache=True))
        for _ in range(3):
            model(input_ids=tokens(1), past_key_values=cache, use_cache=True)
        keys = cache.layers[0].keys
        before = keys.clone()
        cache.crop(-3)
        assert cache.get_seq_length() == 6
        for i in range(6, 10):
            model(input_ids=ids[:, i : i + 1], past_key_values=cache, use_cache=True)
        assert torch.equal(keys, before)
        assert cache.get_seq_length() == 10
        assert cache.layers[1].keys.shape == (1, 2, 10, 16)
        twin = copy.deepcopy(cache)
        assert len(taken) == 7
        of_both = [model(input_ids=ids[:, 10:14], past_key_values=one, use_cache=True) for one in (cache, twin)]
        wanted = expected(model, ids, 10)
        for output in of_both:
            assert_close(output.logits, wanted[:, :4])
            for i in range(14, 20):
                step = model(input_ids=ids[:, i : i + 1], past_key_values=states(output), use_cache=True)
                assert_close(step.logits, wanted[:, i - 10 : i - 9])
    assert len(taken) == 19


def test_positions_may_differ_from_places(model: Any, taken: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> torch.Tensor:
        return logits(model, tokens(9, sequences=2), 8, position_ids=torch.tensor([[40], [70_000]]))

    found = run()
    assert len(taken) == 1
    monkeypatch.setenv("TILEPRESS_NATIVE", "0")
    assert_close(found, run(), 1e-4)


def _hook(model: Any) -> None:
    model.model.layers[1].mlp.register_forward_hook(lambda *_: None)


def _replace(model: Any) -> None:
    class Doubled(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * self.inner(x)  # type: ignore[no-any-return]

    model.model.layers[0].self_attn.v_proj = Doubled(model.model.layers[0].self_attn.v_proj)


def _override(model: Any) -> None:
    norm = model.model.norm
    forward = norm.forward
    norm.forward = lambda x: 3 * forward(x)


@pytest.mark.parametrize("change", [_hook, _replace, _override])
def test_what_others_do_to_modules_is_respected(model: Any, change: Callable[[Any], None], taken: list[int]) -> None:
    ids = tokens(12)
    logits(model, ids, 9)
    change(model)
    assert_close(logits(model, ids, 9), expected(model, ids, 9))
    assert len(taken) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"output_hidden_states": True},
        {"output_attentions": True},
        {"labels": torch.tensor([[5]])},
        {"attention_mask": torch.tensor([[0] + 9 * [1]])},
        {"attention_mask": torch.zeros(1, 1, 1, 10)},
    ],
)
def test_other_outputs_and_masks_are_left_to_transformers(
    model: Any, options: dict[str, Any], taken: list[int]
) -> None:
    model.set_attn_implementation("eager")
    logits(model, tokens(10), 9, **options)
    assert not taken
    logits(model, tokens(10), 9)
    assert len(taken) == 1


def test_gradients_training_and_other_caches_are_left_to_transformers(model: Any, taken: list[int]) -> None:
    ids = tokens(10)
    logits(model, ids, 9, cache=tilepress.TilepressCache("none"))
    logits(model, ids, 9, cache=T.StaticCache(config=model.config, max_cache_len=32))
    logits(model.train(), ids, 9)
    model.eval().model.norm.weight.requires_grad_(True)
    output = model(input_ids=ids[:, :9], use_cache=True)
    assert model(input_ids=ids[:, 9:], past_key_values=states(output), use_cache=True).logits.requires_grad
    assert not taken


def test_a_window_that_slides_is_left_to_transformers(taken: list[int]) -> None:
    model = copy.deepcopy(source("mistral-whole", "int:bits=8"))
    model.config.sliding_window = 11
    ids = tokens(14)
    assert_close(logits(model, ids, 9, cache=T.DynamicCache()), expected(model, ids, 9))
    assert len(taken) == 2


def test_changed_weights_are_followed(model: Any, taken: list[int]) -> None:
    ids = tokens(12)
    first = logits(model, ids, 9)
    attention, norm = model.model.layers[0].self_attn, model.model.norm
    with torch.no_grad():
        model.lm_head.weight.codes.bitwise_not_()
        norm.weight.data = norm.weight * 1.5
        attention.q_proj.weight.scales = attention.q_proj.weight.scales * 2
        scales = model.model.layers[1].self_attn.q_proj.weight.scales
        scales.data = scales * 2
        model.model.layers[1].mlp.up_proj = model.model.layers[0].mlp.up_proj
    found = logits(model, ids, 9)
    assert (found - first).abs().max() > 0.01
    assert_close(found, expected(model, ids, 9))
    assert_close(logits(model.dequantize(), ids, 9), expected(model, ids, 9))
    assert len(taken) == 9


def test_damaged_parts_and_tokens_that_are_not_there_are_refused() -> None:
    model = copy.deepcopy(source("llama", "lossless"))
    ids = tokens(10)
    with torch.no_grad():
        cache = states(model(input_ids=ids, use_cache=True))
        with pytest.raises(IndexError):
            model(input_ids=torch.tensor([[136]]), past_key_values=copy.deepcopy(cache), use_cache=True)
        model.model.layers[1].mlp.down_proj.weight.offsets.fill_(1 << 40)
        with pytest.raises(CodecError, match="damaged"):
            model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
    assert type(cache.layers[0]) is RoomyLayer
    assert cache.get_seq_length() == 10


@pytest.mark.parametrize("kv", ["int:bits=8,group=32", "int:bits=4,group=32", "fp8:group=16"])
def test_a_compressed_cache_is_read_and_written_where_it_is(
    model: Any, kv: str, taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model.set_attn_implementation("tilepress")
    ids = tokens(140, sequences=2)
    caches = [tilepress.TilepressCache(kv) for _ in range(2)]
    found = logits(model, ids, 70, cache=caches[0])
    assert len(taken) == 70
    monkeypatch.setenv("TILEPRESS_NATIVE", "0")
    assert_close(found, logits(model, ids, 70, cache=caches[1]), 1e-4)
    assert caches[0].get_seq_length() == 140
    for mine, others in zip(caches[0].layers, caches[1].layers, strict=True):
        assert mine.store.encoded_tokens == others.store.encoded_tokens > 70
        assert_close(mine.store.dense_keys(), others.store.dense_keys(), 0.1)


def test_a_compressed_cache_may_change_between_steps(model: Any, taken: list[int]) -> None:
    model.set_attn_implementation("tilepress")
    ids, cache = tokens(60), tilepress.TilepressCache("int:bits=8,group=16", window=16)
    wanted = expected(model, ids, 50)
    with torch.no_grad():
        model(input_ids=ids[:, :45], past_key_values=cache, use_cache=True)
        for tokens_kept in (45, 30, 20):
            cache.crop(tokens_kept - cache.get_seq_length())
            model(input_ids=ids[:, tokens_kept:50], past_key_values=cache, use_cache=True)
            cache.reorder_cache(torch.tensor([0]))
            for i in range(50, 60):
                output = model(input_ids=ids[:, i : i + 1], past_key_values=cache, use_cache=True)
                assert_close(output.logits[:, 0], wanted[:, i - 50], 0.1)
    assert len(taken) == 30
