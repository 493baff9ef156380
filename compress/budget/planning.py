"""A plan that meets a budget.

The damage that a codec spec does to a tensor is predicted as

    sensitivity * relative error of the spec * share that error feedback leaves

in nats a token (see `sensitivity`); `allocation` spends the bytes where they take away most of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tilepress.compress.budget.allocation import Choice, Option, total_bytes, within_bytes, within_damage
from tilepress.compress.budget.budget import Budget
from tilepress.compress.budget.candidates import measure_candidates
from tilepress.compress.budget.sensitivity import Sensitivity
from tilepress.compress.codecs import uses_outputs, uses_statistics
from tilepress.compress.plan import Plan, is_codable, make_plan
from tilepress.compress.recipe import Recipe
from tilepress.compress.roles import Role, placements
from tilepress.formats.checkpoint import Checkpoint
from tilepress.formats.container_writer import Slot
from tilepress.kernels import Params, RecipeError
from tilepress.kernels.layout.none import NoneParams

_MOST_ROUNDS = 8


@dataclass(frozen=True)
class BudgetPlan:
    """A plan, and why it is as it is.

    Attributes:
        plan: one codec spec a tensor.
        recipe: that reproduces the plan without any measuring.
        budget: what was asked for.
        damages: tensor -> KL divergence that its codec is predicted to cost, nats a token.
        is_measured: whether damages stand on a text.
    """

    plan: Plan
    recipe: Recipe
    budget: Budget
    damages: Mapping[str, float]
    is_measured: bool

    @property
    def notes(self) -> list[str]:
        """What the user should know."""
        size = f"{self.plan.container_bytes:,} bytes, {self.plan.bits_per_weight:.3f} bits per weight"
        if not self.is_measured:
            return [f"{size}; with --calibration FILE, a text, bytes would go where they matter", *self.plan.notes]
        return [f"{size}, predicted KL divergence {self.predicted_kl:.3g}", *self.plan.notes]

    @property
    def predicted_kl(self) -> float:
        """Of all tensors together, nats a token."""
        return sum(self.damages.values())


def plan_budget(
    checkpoint: Checkpoint,
    budget: Budget,
    sensitivities: Mapping[str, Sensitivity],
    specs: Sequence[Params],
    max_shard_bytes: int = 5_000_000_000,
    stage: Callable[[str], int] | None = None,
    report: Callable[[str, int, int], None] | None = None,
) -> BudgetPlan:
    """Choose a codec spec for each matrix of blocks, embeddings and head; everything else stays as it is.

    Args:
        checkpoint: the source.
        budget: to be met; bytes and bits are never exceeded.
        sensitivities: of the tensors; those that aren't there take the median of the others, in proportion to size.
        specs: that compete.
        max_shard_bytes: as for `make_plan`.
        stage: as for `make_plan`; errors are fed back if it is given.
        report: called after each tensor with its name, tensors done and all.

    Raises:
        RecipeError: a budget that no choice of codecs meets, or nothing to compress.
    """
    options = _options(checkpoint, sensitivities, specs, stage is not None, report)

    def plan(choice: Choice) -> BudgetPlan:
        recipe = Recipe.of_names({name: option.params for name, option in choice.items()})
        made = make_plan(checkpoint, recipe=recipe, max_shard_bytes=max_shard_bytes, stage=stage)
        return BudgetPlan(made, recipe, budget, {name: one.damage for name, one in choice.items()}, stage is not None)

    if not options:
        raise RecipeError(f"{checkpoint.path}: has no matrix that could be compressed")
    if budget.kl is not None:
        choice = within_damage(options, budget.kl)
        if choice is None:
            least = sum(min(option.damage for option in of_tensor) for of_tensor in options.values())
            raise RecipeError(f"a KL divergence of {budget.kl:g} is out of reach; with these codecs {least:.2g} is not")
        return plan(choice)
    return _plan_within_bytes(options, budget, plan)


def _plan_within_bytes(
    options: Mapping[str, Sequence[Option]], budget: Budget, plan: Callable[[Choice], BudgetPlan]
) -> BudgetPlan:
    """Parts are exact, headers depend on the choice a little: allow for those of the last round until it fits."""
    smallest = {name: min(of_tensor, key=lambda option: option.size_bytes) for name, of_tensor in options.items()}
    found = plan(smallest)
    most = total_bytes(smallest) + _room(found.plan, budget)
    for _ in range(_MOST_ROUNDS):
        choice = within_bytes(options, most)
        if choice is None:
            break
        found = plan(choice)
        excess = -_room(found.plan, budget)
        if excess <= 0:
            return found
        most -= excess
    raise RecipeError(f"{budget}: even the smallest of these codecs take {_measure(found.plan, budget)}")


def _room(plan: Plan, budget: Budget) -> int:
    """Bytes that the budget leaves beside the plan; below 0 if the plan exceeds it."""
    if budget.size_bytes is not None:
        return budget.size_bytes - plan.container_bytes
    assert budget.bits is not None
    matrices = [tensor for tensor in plan.tensors if len(tensor.slot.shape) >= 2]
    weights = sum(math.prod(tensor.slot.shape) for tensor in matrices)
    return math.floor(budget.bits * weights / 8) - sum(tensor.predicted_bytes for tensor in matrices)


def _measure(plan: Plan, budget: Budget) -> str:
    if budget.size_bytes is not None:
        return f"{plan.container_bytes:,} bytes"
    return f"{plan.bits_per_weight:.3f} bits per weight"


def _options(
    checkpoint: Checkpoint,
    sensitivities: Mapping[str, Sensitivity],
    specs: Sequence[Params],
    feeds_back: bool,
    report: Callable[[str, int, int], None] | None,
) -> dict[str, list[Option]]:
    places = placements(checkpoint.config, checkpoint.infos)
    infos = [
        info for name, info in checkpoint.infos.items() if places[name].role is not Role.OTHER and is_codable(info)
    ]
    known = sorted(
        each.kl / math.prod(checkpoint.infos[name].shape) for name, each in sensitivities.items() if each.kl > 0
    )
    typical = known[len(known) // 2] if known else 0.0
    options: dict[str, list[Option]] = {}
    for number, info in enumerate(infos):
        slot = Slot(info.name, NoneParams(), info.shape, info.dtype, places[info.name].transposed)
        here = sensitivities.get(info.name) or Sensitivity(typical * math.prod(info.shape))
        found = []
        for each in measure_candidates(checkpoint, slot, specs):
            left = here.feedback_gain if feeds_back and uses_statistics(each.params) else 1.0
            left *= here.output_gain if feeds_back and uses_outputs(each.params) else 1.0
            found.append(Option(each.params, each.size_bytes, here.kl * left * each.relative_error))
        # Values that no competing codec has codes for (NaN, infinities) stay as they are.
        options[info.name] = found or [Option(NoneParams(), info.size_bytes, 0.0)]
        if report:
            report(info.name, number + 1, len(infos))
    return options
