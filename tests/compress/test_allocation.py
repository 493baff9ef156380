"""Allocation against every possible choice, on problems small enough for that."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from tilepress.compress.budget.allocation import (
    Choice,
    Option,
    hull,
    total_bytes,
    total_damage,
    within_bytes,
    within_damage,
)
from tilepress.kernels import parse_spec

PARAMS = parse_spec("nf4")
OPTIONS = st.lists(
    st.builds(Option, st.just(PARAMS), st.integers(1, 60), st.floats(0, 10, allow_nan=False)), min_size=1, max_size=5
)
PROBLEMS = st.dictionaries(st.sampled_from("abcd"), OPTIONS, min_size=1, max_size=4)


def every_choice(options: dict[str, list[Option]]) -> list[Choice]:
    return [dict(zip(options, picked, strict=True)) for picked in itertools.product(*options.values())]


@given(PROBLEMS, st.integers(0, 250))
def test_bytes_are_never_exceeded_and_a_choice_is_found_where_there_is_one(
    options: dict[str, list[Option]], most: int
) -> None:
    smallest = sum(min(option.size_bytes for option in of_tensor) for of_tensor in options.values())
    choice = within_bytes(options, most)
    assert (choice is None) == (smallest > most)
    if choice is not None:
        assert set(choice) == set(options)
        assert all(choice[name] in options[name] for name in options)
        assert total_bytes(choice) <= most


@given(PROBLEMS, st.integers(0, 250))
def test_nothing_that_still_fits_would_do_less_damage(options: dict[str, list[Option]], most: int) -> None:
    choice = within_bytes(options, most)
    for name in choice or {}:
        for option in options[name]:
            fits = total_bytes(choice) - choice[name].size_bytes + option.size_bytes <= most
            assert not fits or option.damage >= choice[name].damage


@given(PROBLEMS)
def test_budgets_that_end_on_a_step_are_spent_in_the_best_way(options: dict[str, list[Option]]) -> None:
    # A choice that minimises bytes + damage * price is, among all choices with as few bytes, the one of least damage.
    for price in (0.5, 3.0, 20.0):
        cheapest = {
            name: min(of_tensor, key=lambda option: (option.size_bytes + price * option.damage, option.size_bytes))
            for name, of_tensor in options.items()
        }
        most = total_bytes(cheapest)
        best = min(total_damage(choice) for choice in every_choice(options) if total_bytes(choice) <= most)
        found = within_bytes(options, most)
        assert found is not None
        assert math.isclose(total_damage(found), best, rel_tol=1e-9, abs_tol=1e-9)


@given(PROBLEMS, st.floats(0, 30))
def test_damage_is_never_exceeded(options: dict[str, list[Option]], most: float) -> None:
    least = sum(min(option.damage for option in of_tensor) for of_tensor in options.values())
    choice = within_damage(options, most)
    if choice is None:
        assert least > most - 1e-9
    else:
        assert total_damage(choice) <= most


@given(OPTIONS)
def test_each_step_of_a_hull_buys_less_than_the_one_before(options: list[Option]) -> None:
    points = hull(options)
    assert min(option.size_bytes for option in options) == points[0].size_bytes
    assert math.isclose(points[-1].damage, min(option.damage for option in options))
    worths = [(a.damage - b.damage) / (b.size_bytes - a.size_bytes) for a, b in itertools.pairwise(points)]
    assert all(worth > 0 for worth in worths)
    assert all(a >= b for a, b in itertools.pairwise(worths))
