"""Choosing one option a tensor so that the damage is least for the bytes, or the bytes for the damage.

Each tensor offers points (bytes, damage); damages add up. On the lower convex hull of a tensor's points every step
to more bytes buys less than the one before, so taking the steps of all tensors in the order of what they buy a byte
gives, after each of them, the least damage of any choice with so few bytes: it minimises bytes + lambda * damage for
some lambda. What a budget in bytes leaves over between two steps is spent on whatever still fits.

Source: Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers".
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tilepress.kernels import Params


@dataclass(frozen=True)
class Option:
    """One way to store a tensor.

    Attributes:
        params: of the codec.
        size_bytes: of all parts.
        damage: predicted KL divergence that it adds, in nats a token.
    """

    params: Params
    size_bytes: int
    damage: float


Choice = dict[str, Option]


def within_bytes(options: Mapping[str, Sequence[Option]], most_bytes: int) -> Choice | None:
    """The choice of least damage that takes at most `most_bytes`; nothing where even the smallest takes more."""
    choice, left = _smallest(options), most_bytes
    left -= total_bytes(choice)
    if left < 0:
        return None
    passed_over: set[str] = set()
    for name, option in _steps(options):
        price = option.size_bytes - choice[name].size_bytes
        # A later step of a tensor builds on its earlier ones.
        if name in passed_over or price > left:
            passed_over.add(name)
            continue
        choice[name] = option
        left -= price
    return _fill(options, choice, left)


def within_damage(options: Mapping[str, Sequence[Option]], most_damage: float) -> Choice | None:
    """The smallest choice whose damage is at most `most_damage`; nothing where even the best does more."""
    choice = _smallest(options)
    damage = total_damage(choice)
    steps = _steps(options)
    while damage > most_damage:
        step = next(steps, None)
        if step is None:
            return None
        name, option = step
        choice[name] = option
        damage = total_damage(choice)
    return choice


def total_bytes(choice: Choice) -> int:
    """Bytes of all parts of a choice."""
    return sum(option.size_bytes for option in choice.values())


def total_damage(choice: Choice) -> float:
    """Predicted KL divergence of a choice, in nats a token."""
    return sum(option.damage for option in choice.values())


def hull(options: Sequence[Option]) -> list[Option]:
    """The lower convex hull: more bytes, less damage, and each step buys less a byte than the one before."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda option: (option.size_bytes, option.damage)):
        if kept and option.damage >= kept[-1].damage:
            continue
        while len(kept) >= 2 and _worth(kept[-2], kept[-1]) <= _worth(kept[-1], option):
            kept.pop()
        kept.append(option)
    return kept


def _worth(fewer: Option, more: Option) -> float:
    """Damage that a byte takes away on the way from one option to a larger one."""
    price = more.size_bytes - fewer.size_bytes
    return (fewer.damage - more.damage) / price if price else float("inf")


def _smallest(options: Mapping[str, Sequence[Option]]) -> Choice:
    return {name: hull(of_tensor)[0] for name, of_tensor in options.items()}


def _steps(options: Mapping[str, Sequence[Option]]) -> Iterator[tuple[str, Option]]:
    """Steps along the hulls of all tensors, the one that buys most a byte first."""
    hulls = {name: hull(of_tensor) for name, of_tensor in options.items()}
    waiting = [(-_worth(points[0], points[1]), name, 1) for name, points in hulls.items() if len(points) > 1]
    heapq.heapify(waiting)
    while waiting:
        _, name, position = heapq.heappop(waiting)
        points = hulls[name]
        yield name, points[position]
        if position + 1 < len(points):
            heapq.heappush(waiting, (-_worth(points[position], points[position + 1]), name, position + 1))


def _fill(options: Mapping[str, Sequence[Option]], choice: Choice, left: int) -> Choice:
    """Spend what is left on the exchanges that take away most damage, whether on a hull or not."""
    while True:
        affordable = [
            (choice[name].damage - option.damage, name, option)
            for name, of_tensor in options.items()
            for option in of_tensor
            if option.size_bytes - choice[name].size_bytes <= left and option.damage < choice[name].damage
        ]
        if not affordable:
            return choice
        _, name, option = max(affordable, key=lambda exchange: exchange[0])
        left -= option.size_bytes - choice[name].size_bytes
        choice[name] = option
