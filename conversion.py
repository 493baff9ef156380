"""From what is asked for to a finished container: `tilepress.compress`, in steps that the command line can show.

job = prepare(source, codec="int:bits=4", calibration="text.txt")      reads headers and cuts the text
planned = job.plan(destination)                                        measures what a budget has to know
conversion = job.run(destination, planned)                             writes the container
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from tilepress.compress.budget.budget import Budget
from tilepress.compress.budget.candidates import competing
from tilepress.compress.budget.conversion import BudgetCompressor
from tilepress.compress.budget.planning import BudgetPlan
from tilepress.compress.calibration.calibration import DEFAULT_CALIBRATION_TOKENS, Calibration
from tilepress.compress.codecs import uses_statistics
from tilepress.compress.duration import predict_seconds
from tilepress.compress.pipeline import Conversion, Progress, run_plan
from tilepress.compress.plan import Plan, make_plan
from tilepress.compress.recipe import Recipe
from tilepress.compress.sizes import parse_size
from tilepress.formats.checkpoint import Checkpoint, open_checkpoint
from tilepress.kernels import RecipeError

_SOON_DONE_BYTES = 50_000_000
"""Size below which predicting would take as long as converting."""

_SOON_DONE_SECONDS = 10

_MOST_NAMES = 3

Report = Callable[[Progress], None]
Show = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Planned:
    """What a job is about to do.

    Attributes:
        plan: one codec spec a tensor.
        notes: what the user should know before.
        predicted_kl: tensor -> KL divergence that its codec is predicted to cost, nats a token; only for a budget.
        budget_plan: that all this comes from, for a budget.
    """

    plan: Plan
    notes: Sequence[str]
    predicted_kl: Mapping[str, float] = field(default_factory=dict)
    budget_plan: BudgetPlan | None = None


class Job(Protocol):
    """A conversion that can be planned and run."""

    def plan(self, destination: Path, *, restart: bool = False, show: Show | None = None) -> Planned:
        """Plan it, or take up the plan of an unfinished conversion to `destination`.

        `show` is called with what is being measured, steps done and all.
        """

    def predict_seconds(self, planned: Planned, workers: int | None = None) -> float | None:
        """How long `run` will take on this machine, from short trials; nothing where it is over soon."""

    def run(
        self,
        destination: Path,
        planned: Planned,
        *,
        workers: int | None = None,
        restart: bool = False,
        report: Report | None = None,
    ) -> Conversion:
        """Carry the plan out; `report` is called after every tensor."""


def compress(
    source: str | Path,
    destination: str | Path,
    codec: str | None = None,
    *,
    recipe: str | Path | Recipe | None = None,
    embeddings: str | None = None,
    size: str | int | None = None,
    bits: float | None = None,
    max_kl: float | None = None,
    codecs: str | None = None,
    calibration: str | Path | None = None,
    calibration_tokens: int | None = None,
    statistics: str | Path | None = None,
    gradients: bool = False,
    workers: int | None = None,
    max_shard_bytes: int = 5_000_000_000,
    restart: bool = False,
    report: Report | None = None,
) -> Conversion:
    """Write a compressed checkpoint.

    An interrupted conversion goes on where it stopped when it is started again with the same arguments. The output
    does not depend on interruptions or on `workers`.

    Args:
        source: a folder with safetensors, a safetensors or GGUF file, or a Hub name.
        destination: folder to write; must not exist yet.
        codec: spec for the matrices of the blocks; 4-bit integers by default.
        recipe: rules instead of a codec, or a file of them.
        embeddings: spec for embeddings and head.
        size: instead of codecs, most bytes of the weight files, as a number or as `"100MB"`.
        bits: instead of codecs, most bits per weight over all tensors of two or more dimensions.
        max_kl: instead of codecs, most KL divergence from the original in nats a token, measured at the end on text
            that follows what was used for calibration; it needs `calibration`.
        codecs: those that may be chosen for a budget, as `"int,trellis"`.
        calibration: a text in UTF-8 of the kind that the model is meant for; without one, weights are just rounded.
        calibration_tokens: most tokens of that text to use, 16,384 by default.
        statistics: folder in which the calibration's statistics are looked for, and kept for other conversions.
        gradients: weight the calibration by what errors cost, which a pass backwards through the model tells.
        workers: tensors that are encoded at the same time; as many as there are processors, at most 4, when left out.
        max_shard_bytes: predicted size at which a new shard is begun.
        restart: throw an unfinished conversion away instead of resuming it.
        report: called after every tensor.

    Raises:
        TilepressError: anything about the source, the request, the values or the disk that makes it impossible.
    """
    job = prepare(
        source,
        codec,
        recipe=recipe,
        embeddings=embeddings,
        size=size,
        bits=bits,
        max_kl=max_kl,
        codecs=codecs,
        calibration=calibration,
        calibration_tokens=calibration_tokens,
        statistics=statistics,
        gradients=gradients,
        max_shard_bytes=max_shard_bytes,
    )
    target = Path(destination)
    return job.run(target, job.plan(target, restart=restart), workers=workers, restart=restart, report=report)


def prepare(
    source: str | Path,
    codec: str | None = None,
    *,
    recipe: str | Path | Recipe | None = None,
    embeddings: str | None = None,
    size: str | int | None = None,
    bits: float | None = None,
    max_kl: float | None = None,
    codecs: str | None = None,
    calibration: str | Path | None = None,
    calibration_tokens: int | None = None,
    statistics: str | Path | None = None,
    gradients: bool = False,
    max_shard_bytes: int = 5_000_000_000,
) -> Job:
    """Look at what is asked for; arguments and errors as for `compress`."""
    rules = Recipe.read(recipe) if isinstance(recipe, (str, Path)) else recipe
    checkpoint = open_checkpoint(source)
    prepared = None
    if calibration is not None:
        tokens = DEFAULT_CALIBRATION_TOKENS if calibration_tokens is None else calibration_tokens
        folder = Path(statistics) if statistics is not None else None
        prepared = Calibration.prepare(checkpoint, calibration, tokens, folder, gradients)
    elif calibration_tokens is not None or statistics is not None or gradients:
        raise RecipeError("tokens, statistics and gradients belong to a calibration; name a text")
    if size is None and bits is None and max_kl is None:
        if codecs is not None:
            raise RecipeError("a choice of codecs belongs to a budget: a size, bits per weight or a KL divergence")
        return _CodecJob(checkpoint, prepared, codec, rules, embeddings, max_shard_bytes)
    if codec is not None or recipe is not None or embeddings is not None:
        raise RecipeError("a budget chooses the codecs; leave out the codec, the recipe and the embeddings' codec")
    budget = Budget(parse_size(size) if isinstance(size, str) else size, bits, max_kl)
    compressor = BudgetCompressor(
        checkpoint, budget, competing(codecs), calibration=prepared, max_shard_bytes=max_shard_bytes
    )
    measure = None
    if max_kl is not None and prepared is not None and calibration is not None:
        measure = _divergence_from(source, prepared, calibration)
    return _BudgetJob(checkpoint, prepared, compressor, measure)


@dataclass(frozen=True)
class _CodecJob:
    """A codec or a recipe says what each tensor gets."""

    checkpoint: Checkpoint
    calibration: Calibration | None
    codec: str | None
    recipe: Recipe | None
    embeddings: str | None
    max_shard_bytes: int

    def plan(self, destination: Path, *, restart: bool = False, show: Show | None = None) -> Planned:
        stage = self.calibration.stage if self.calibration else None
        plan = make_plan(self.checkpoint, self.codec, self.recipe, self.embeddings, self.max_shard_bytes, stage)
        return Planned(plan, [*plan.notes, *_notes(plan, self.calibration)])

    def predict_seconds(self, planned: Planned, workers: int | None = None) -> float | None:
        return _predict(self.checkpoint, planned.plan, workers, self.calibration)

    def run(
        self,
        destination: Path,
        planned: Planned,
        *,
        workers: int | None = None,
        restart: bool = False,
        report: Report | None = None,
    ) -> Conversion:
        return run_plan(
            self.checkpoint,
            planned.plan,
            destination,
            workers=workers,
            restart=restart,
            calibration=self.calibration,
            report=report,
        )


@dataclass(frozen=True)
class _BudgetJob:
    """A budget is met; `measure` gives a container's KL divergence where that is the budget."""

    checkpoint: Checkpoint
    calibration: Calibration | None
    compressor: BudgetCompressor
    measure: Callable[[Path], float] | None

    def plan(self, destination: Path, *, restart: bool = False, show: Show | None = None) -> Planned:
        made = self.compressor.plan(destination, restart, show)
        return Planned(made.plan, [*made.notes, *_notes(made.plan, self.calibration)], made.damages, made)

    def predict_seconds(self, planned: Planned, workers: int | None = None) -> float | None:
        return _predict(self.checkpoint, planned.plan, workers, self.calibration)

    def run(
        self,
        destination: Path,
        planned: Planned,
        *,
        workers: int | None = None,
        restart: bool = False,
        report: Report | None = None,
    ) -> Conversion:
        plan = planned.budget_plan
        assert plan is not None
        if self.measure is None:
            return self.compressor.convert(destination, plan, workers=workers, restart=restart, report=report)
        found = self.compressor.convert_within_kl(
            destination, plan, self.measure, workers=workers, restart=restart, report=report
        )
        return replace(found.conversion, measured_kl=found.measured_kl)


def _notes(plan: Plan, calibration: Calibration | None) -> list[str]:
    """Which tensors the text does not help."""
    if calibration is None:
        return []
    eager = [tensor.slot.name for tensor in plan.tensors if uses_statistics(tensor.slot.params)]
    left = [name for name in eager if not calibration.has_statistics(name)]
    if not left:
        return []
    names = ", ".join(left[:_MOST_NAMES]) + (f" and {len(left) - _MOST_NAMES} more" if len(left) > _MOST_NAMES else "")
    return [f"rounded as without the text, which tells nothing of what they multiply: {names}"]


def _predict(checkpoint: Checkpoint, plan: Plan, workers: int | None, calibration: Calibration | None) -> float | None:
    if plan.source_bytes < _SOON_DONE_BYTES:
        return None
    seconds = predict_seconds(checkpoint, plan, workers, calibration)
    # So short a time is one of reading and writing, which trials leave out.
    return seconds if seconds >= _SOON_DONE_SECONDS else None


def _divergence_from(source: str | Path, calibration: Calibration, text: str | Path) -> Callable[[Path], float]:
    """What measures a container's KL divergence from the source, on text that it was not calibrated with."""

    def measure(container: Path) -> float:
        # Imported here because it runs models, which no other conversion does.
        from tilepress.runtime.comparison import divergence

        return divergence(source, container, calibration.held_out(text))

    return measure
