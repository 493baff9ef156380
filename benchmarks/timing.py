"""How benchmarks take times."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

PROMPT_TOKENS = 16

Clock = Callable[[], float]


def best_of(
    actions: Mapping[str, Callable[[], object]], runs: int, clock: Clock = time.process_time
) -> dict[str, float]:
    """Seconds of the fastest of `runs` runs of each, in turns: other work on the machine can only add to them."""
    best = dict.fromkeys(actions, float("inf"))
    for _ in range(runs):
        for name, action in actions.items():
            begin = clock()
            action()
            best[name] = min(best[name], clock() - begin)
    return best


def seconds_of(action: Callable[[], object], runs: int) -> float:
    """The processor's seconds of the fastest of `runs` runs."""
    return best_of({"": action}, runs)[""]


def seconds_a_token(model: Any, tokens: int, clock: Clock = time.perf_counter) -> float:
    """Of greedy generation, the mean over `tokens` tokens after the first, which waits for the prompt."""
    prompt = torch.arange(100, 100 + PROMPT_TOKENS, device=model.device)[None]
    seconds: list[float] = []
    for count in (1, tokens + 1):
        begin = clock()
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            min_new_tokens=count,
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
        )
        seconds.append(clock() - begin)
    return (seconds[1] - seconds[0]) / tokens
