"""How benchmarks take times."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

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
