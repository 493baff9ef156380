"""Text from a model, piece by piece as it is generated."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from tilepress.formats.text import context_length
from tilepress.kernels import RecipeError
from tilepress.kernels.layout.kv import parse_kv_spec
from tilepress.runtime.entrants import Entrant
from tilepress.runtime.kv_generation import use_kv


def open_for_generation(
    container: str | Path, kv: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a compressed or uncompressed causal language model in its own dtype, and its tokenizer.

    Args:
        container: folder, or whatever else `open_checkpoint` opens.
        kv: codec spec of its KV cache (see `TilepressCache`); None: as Transformers keeps it.

    Raises:
        TilepressError: there is no such model, it is damaged, it doesn't generate text, or caches have no such codec.
    """
    if kv is not None:
        parse_kv_spec(kv)
    entrant = Entrant(container)
    model = entrant.load(entrant.dtype)
    if kv is not None:
        use_kv(model, kv)
    return model, entrant.tokenizer()


def stream(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    max_new_tokens: int = 100,
    *,
    seed: int = 0,
    temperature: float = 0.0,
    top_p: float = 1.0,
    chat: bool = False,
) -> Iterator[str]:
    """Continue a prompt until the model ends the text, or its context or `max_new_tokens` is used up.

    Closing the iterator, or an interrupt from the keyboard while it waits, stops the model at its next token.

    Args:
        model: a causal language model.
        tokenizer: of the model.
        prompt: text to continue, or the question where `chat` is set.
        max_new_tokens: most tokens to generate.
        seed: of the random choices at a temperature above 0.
        temperature: 0 always takes the most likely token; 1 chooses as the model's distribution says.
        top_p: choose among the most likely tokens that together have this probability.
        chat: put the prompt into the tokenizer's chat template.

    Yields:
        pieces of the continuation, which joined are its text.

    Raises:
        RecipeError: arguments out of range, a prompt that is empty or leaves no room, or no chat template.
    """
    if max_new_tokens < 1:
        raise RecipeError(f"max_new_tokens={max_new_tokens}: at least one is needed")
    if not 0.0 <= temperature < float("inf"):
        raise RecipeError(f"temperature={temperature}: must be 0 or more")
    if not 0.0 < top_p <= 1.0:
        raise RecipeError(f"top_p={top_p}: must be above 0 and at most 1")
    ids = _prompt_ids(tokenizer, prompt, chat).to(model.device)
    room = (context_length(model.config) or ids.shape[1] + max_new_tokens) - ids.shape[1]
    if room < 1:
        raise RecipeError(f"the prompt has {ids.shape[1]} tokens, which leaves no room in the model's context")
    options: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": min(max_new_tokens, room),
        "pad_token_id": tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        "do_sample": temperature > 0,
    }
    if temperature > 0:
        options |= {"temperature": temperature, "top_p": top_p, "top_k": 0}
    return _stream(model, tokenizer, options, seed)


class _Stop(StoppingCriteria):
    """Ends a generation from another thread."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device)


def _stream(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: dict[str, Any], seed: int
) -> Iterator[str]:
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    stop = _Stop()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            # The caller's random numbers are left as they were.
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                model.generate(  # type: ignore[operator]  # Declared so that a tensor could be meant.
                    **options, streamer=streamer, stopping_criteria=StoppingCriteriaList([stop])
                )
        except BaseException as failure:
            failures.append(failure)
            streamer.end()  # type: ignore[no-untyped-call]

    thread = threading.Thread(target=run, name="generate", daemon=True)
    thread.start()
    try:
        yield from filter(None, streamer)
    finally:
        stop.event.set()
        thread.join()
    if failures:
        raise failures[0]


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, chat: bool) -> torch.Tensor:
    """Tokens of the prompt, int64 [1, tokens]."""
    if chat and not tokenizer.chat_template:
        raise RecipeError("the tokenizer has no chat template; leave out the chat option and write the prompt in full")
    if chat:
        turns = [{"role": "user", "content": prompt}]
        prompt = str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    # A chat template writes the tokens in front of a text by itself.
    ids: torch.Tensor = tokenizer(prompt, return_tensors="pt", add_special_tokens=not chat)["input_ids"].to(torch.int64)
    if ids.shape[1] == 0:
        raise RecipeError("the prompt is empty; give the model something to continue")
    return ids
