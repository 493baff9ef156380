"""Conversion to a budget: measure, plan, convert, and where a KL divergence is the budget, measure the result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import xxhash

from tilepress.compress.budget.budget import Budget
from tilepress.compress.budget.planning import BudgetPlan, plan_budget
from tilepress.compress.budget.sensitivity import (
    Sensitivity,
    assumed_sensitivities,
    measure_sensitivities,
    with_gains_of,
)
from tilepress.compress.calibration.backwards import Show
from tilepress.compress.calibration.calibration import Calibration
from tilepress.compress.pipeline import Conversion, Progress, require_apart, run_plan
from tilepress.compress.plan import PlannedTensor, make_plan
from tilepress.compress.recipe import Recipe
from tilepress.formats.atomic_folder import PARTIAL_SUFFIX, partial_folder, publish
from tilepress.formats.checkpoint import Checkpoint
from tilepress.formats.container import Container
from tilepress.formats.plan_document import PLAN_NAME, RECIPE_NAME, PlanDocument, read_plan_document
from tilepress.kernels import Params, RecipeError, parse_spec

MOST_SENSITIVITY_TOKENS = 2048
"""Tokens of the calibration's text that sensitivities are measured on: their states lie in memory for all blocks."""

ATTEMPT_SUFFIX = ".attempt"
_CAUTION = 0.95


@dataclass(frozen=True)
class BudgetConversion:
    """A conversion within a KL divergence.

    Attributes:
        conversion: what was written.
        plan: that it follows.
        measured_kl: of the result, nats a token.
        is_within: whether that is within the budget.
    """

    conversion: Conversion
    plan: BudgetPlan
    measured_kl: float
    is_within: bool


class BudgetCompressor:
    """Plans and carries out conversions of one checkpoint to one budget.

    An interrupted conversion goes on with the plan that it was begun with, which lies in its unfinished folder.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        budget: Budget,
        specs: Sequence[Params],
        *,
        calibration: Calibration | None = None,
        max_shard_bytes: int = 5_000_000_000,
    ) -> None:
        """Prepare.

        Args:
            checkpoint: the source.
            budget: to be met.
            specs: that compete.
            calibration: text to measure sensitivities and to feed errors back with.
            max_shard_bytes: predicted size at which a new shard is begun.

        Raises:
            RecipeError: a KL divergence without a text that could tell of it.
        """
        if budget.kl is not None and calibration is None:
            raise RecipeError(f"{budget}: what a codec does to predictions is measured on a text; name a calibration")
        self.budget = budget
        self._checkpoint, self._specs = checkpoint, specs
        self._calibration, self._max_shard_bytes = calibration, max_shard_bytes

    def plan(self, destination: Path, restart: bool = False, show: Show | None = None) -> BudgetPlan:
        """The plan of the unfinished conversion to `destination` if there is one, else a new one.

        Args:
            destination: folder that will be written.
            restart: make a new plan in any case.
            show: called with what is being measured, steps done and all.

        Raises:
            RecipeError: a destination that exists, or a budget that can't be met.
        """
        destination = destination.absolute()
        require_apart(self._checkpoint, destination)
        partial_folder(destination)
        for suffix in (PARTIAL_SUFFIX, ATTEMPT_SUFFIX, ATTEMPT_SUFFIX + PARTIAL_SUFFIX):
            unfinished = destination.with_name(destination.name + suffix)
            document = None if restart else read_plan_document(unfinished)
            if document is not None and document.key == self._key():
                return self._planned(document)
        stage = self._calibration.stage if self._calibration is not None else None
        return plan_budget(
            self._checkpoint, self.budget, self._sensitivities(show), self._specs, self._max_shard_bytes, stage, show
        )

    def convert(
        self,
        destination: Path,
        plan: BudgetPlan,
        *,
        workers: int | None = None,
        restart: bool = False,
        report: Callable[[Progress], None] | None = None,
    ) -> Conversion:
        """Carry out a plan of `plan`; arguments and errors as for `run_plan`."""
        document = PlanDocument(
            str(self.budget),
            self._key(),
            {tensor.slot.name: tensor.slot.params.spec() for tensor in plan.plan.tensors if _is_chosen(tensor, plan)},
            plan.damages,
            plan.is_measured,
        )
        return run_plan(
            self._checkpoint,
            plan.plan,
            destination,
            workers=workers,
            restart=restart,
            calibration=self._calibration,
            documents={PLAN_NAME: document.text(), RECIPE_NAME: plan.recipe.text()},
            report=report,
        )

    def convert_within_kl(
        self,
        destination: Path,
        plan: BudgetPlan,
        measure: Callable[[Path], float],
        *,
        workers: int | None = None,
        restart: bool = False,
        report: Callable[[Progress], None] | None = None,
    ) -> BudgetConversion:
        """Convert, measure the KL divergence, and if its bound is missed plan and convert once more for less.

        The first attempt lies in `DST.attempt` until it is measured.

        Args:
            destination: folder to write.
            plan: of `plan`.
            measure: KL divergence of a container from the source, nats a token.
            workers: as for `run_plan`.
            restart: as for `run_plan`.
            report: as for `run_plan`.
        """
        assert self.budget.kl is not None
        destination = destination.absolute()
        attempt = destination.with_name(destination.name + ATTEMPT_SUFFIX)
        if restart:
            shutil.rmtree(attempt, ignore_errors=True)
        document = read_plan_document(attempt)
        if document is not None and document.key == self._key():
            done = Container.open(attempt)
            conversion = Conversion(attempt, plan.plan.source_bytes, done.size_bytes, len(done.records))
        else:
            conversion = self.convert(attempt, plan, workers=workers, restart=restart, report=report)
        found = measure(attempt)
        if found <= self.budget.kl:
            publish(attempt, destination)
            return BudgetConversion(replace(conversion, path=destination), plan, found, True)
        tighter = Budget(kl=self.budget.kl * min(1.0, plan.predicted_kl / found) * _CAUTION)
        again = BudgetCompressor(
            self._checkpoint,
            tighter,
            self._specs,
            calibration=self._calibration,
            max_shard_bytes=self._max_shard_bytes,
        )
        plan = again.plan(destination, restart)
        conversion = again.convert(destination, plan, workers=workers, restart=restart, report=report)
        shutil.rmtree(attempt, ignore_errors=True)
        found = measure(destination)
        return BudgetConversion(conversion, plan, found, found <= self.budget.kl)

    def _sensitivities(self, show: Show | None) -> dict[str, Sensitivity]:
        calibration = self._calibration
        if calibration is None:
            return assumed_sensitivities(self._checkpoint)
        count = max(1, MOST_SENSITIVITY_TOKENS // len(calibration.windows[0]))
        found = measure_sensitivities(self._checkpoint, calibration.model, calibration.windows[:count], show)
        if not calibration.origin.gradients or calibration.statistics is None:
            return found
        return with_gains_of(found, calibration.gather_with_gradients(calibration.statistics, show))

    def _planned(self, document: PlanDocument) -> BudgetPlan:
        recipe = Recipe.of_names({name: parse_spec(spec) for name, spec in document.specs.items()})
        stage = self._calibration.stage if self._calibration is not None else None
        plan = make_plan(self._checkpoint, recipe=recipe, max_shard_bytes=self._max_shard_bytes, stage=stage)
        return BudgetPlan(plan, recipe, self.budget, document.predicted_kl, document.is_measured)

    def _key(self) -> str:
        origin = self._calibration.origin if self._calibration is not None else None
        facts = [
            self._checkpoint.identity(),
            [origin.key, origin.tokens] if origin is not None else None,
            str(self.budget),
            [params.spec() for params in self._specs],
            self._max_shard_bytes,
        ]
        return xxhash.xxh3_128_hexdigest(json.dumps(facts).encode())


def _is_chosen(tensor: PlannedTensor, plan: BudgetPlan) -> bool:
    return tensor.slot.name in plan.damages
