"""Text that comes piece by piece: the same text as all at once, and an end when it is asked for."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tilepress.conversion import compress
from tilepress.kernels import CodecError, RecipeError
from tilepress.runtime.generation import open_for_generation, stream

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def opened(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    folder = tmp_path_factory.mktemp("container") / "small"
    compress(llama, folder, "int:bits=8")
    return open_for_generation(folder)


def expected_tokens(model: Any, tokenizer: Any, count: int) -> list[int]:
    """The greedy continuation of the prompt, from Transformers."""
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
    tokens: list[int] = output[0, ids.shape[1] :].tolist()
    return tokens


def test_pieces_join_to_the_greedy_continuation(opened: Any) -> None:
    model, tokenizer = opened
    assert model.dtype == torch.bfloat16
    text = "".join(stream(model, tokenizer, PROMPT, 20))
    assert text == tokenizer.decode(expected_tokens(model, tokenizer, 20), skip_special_tokens=True)


def test_a_compressed_cache_that_the_model_can_not_have_is_refused(llama: Path) -> None:
    with pytest.raises(CodecError, match="no codec 'zip'"):
        open_for_generation(llama, kv="zip")
    model, tokenizer = open_for_generation(llama, kv="int:bits=8")
    with pytest.raises(CodecError, match="not of 24"):
        list(stream(model, tokenizer, PROMPT))


def test_seed_decides_the_random_choices(opened: Any) -> None:
    def draw(seed: int) -> str:
        return "".join(stream(*opened, PROMPT, 20, seed=seed, temperature=1.0, top_p=0.9))

    state = torch.get_rng_state()
    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert torch.equal(torch.get_rng_state(), state)


def test_end_of_text_ends_it(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = opened
    tokens = expected_tokens(model, tokenizer, 10)
    monkeypatch.setattr(model.generation_config, "eos_token_id", tokens[4])
    calls = count_calls(model, monkeypatch)
    list(stream(model, tokenizer, PROMPT, 10))
    assert len(calls) == tokens.index(tokens[4]) + 1


def test_context_ends_it(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = opened
    monkeypatch.setattr(model.config, "max_position_embeddings", len(PROMPT) + 7)
    calls = count_calls(model, monkeypatch)
    list(stream(model, tokenizer, PROMPT, 10_000))
    assert len(calls) == 7
    with pytest.raises(RecipeError, match="no room"):
        stream(model, tokenizer, PROMPT * 3)


def test_closing_the_iterator_stops_the_model(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = opened
    calls = count_calls(model, monkeypatch)
    counted = model.forward
    space = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(" "))[0]

    def say_spaces(*arguments: Any, **options: Any) -> Any:
        # Pieces end at spaces, and a random model may not say one for long.
        output = counted(*arguments, **options)
        output.logits[..., space] += 1000
        return output

    monkeypatch.setattr(model, "forward", say_spaces)
    pieces = stream(model, tokenizer, PROMPT, 200)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert len(calls) < 200
    assert "generate" not in [thread.name for thread in threading.enumerate()]


def test_failure_of_the_model_reaches_the_caller(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = opened

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("in the model")

    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(ZeroDivisionError, match="in the model"):
        list(stream(model, tokenizer, PROMPT))


def test_chat_template_is_applied(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = opened
    with pytest.raises(RecipeError, match="no chat template"):
        stream(model, tokenizer, PROMPT, chat=True)
    asked = "".join(stream(model, tokenizer, f"<{PROMPT}>", 12))
    monkeypatch.setattr(tokenizer, "chat_template", "<{{ messages[0]['content'] }}>")
    assert "".join(stream(model, tokenizer, PROMPT, 12, chat=True)) == asked


@pytest.mark.parametrize(
    "options", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}]
)
def test_arguments_out_of_range_are_refused(opened: Any, options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(options))):
        stream(*opened, PROMPT, **options)


def test_empty_prompt_is_refused(opened: Any) -> None:
    with pytest.raises(RecipeError, match="empty"):
        stream(*opened, "")


def count_calls(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """A list that grows with each forward pass."""
    calls: list[None] = []
    forward = model.forward

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        return forward(*arguments, **options)

    monkeypatch.setattr(model, "forward", counted)
    return calls
