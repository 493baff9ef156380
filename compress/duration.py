"""How long a conversion will take, predicted from short trials on this machine before it begins.

    seconds = sum over tensors (fixed + rows * per_row)         of trials with as many rows as workers soon have done
            + windows * blocks * (gathering + running)          of one window through one block, with a text

Trials run as the conversion will: as many at a time as there are workers, on the tensors' own values. All matrices of
one shape and codec share a trial.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tilepress.compress.calibration.statistics import Statistics
from tilepress.compress.codecs import encode, uses_outputs, uses_statistics
from tilepress.compress.pipeline import default_workers, shared_processors
from tilepress.compress.plan import Plan, PlannedTensor
from tilepress.formats.checkpoint import Checkpoint
from tilepress.formats.measure import measure_error
from tilepress.kernels import PANEL_ROWS, CodecError, Params, matrix_shape

if TYPE_CHECKING:
    from tilepress.compress.calibration.calibration import Calibration

_TRIAL_VALUES = 1 << 17
"""Values of a trial, about: small beside a matrix of a model for which waiting is long."""

Kind = tuple[Params, int, int, bool, bool]
"""Codec, rows and columns of a matrix, and whether errors are fed back along columns, and rows: what its time depends
on."""


@dataclass(frozen=True)
class Trial:
    """Seconds that a matrix of one kind takes, its share of all workers' time.

    Attributes:
        fixed: whatever its number of rows.
        per_row: for each of its rows.
    """

    fixed: float
    per_row: float

    @classmethod
    def through(cls, fewer: tuple[int, float], more: tuple[int, float]) -> Trial:
        """The line through two measurements (rows, seconds), none of whose terms is below zero."""
        slope = (more[1] - fewer[1]) / (more[0] - fewer[0]) if more[0] > fewer[0] else 0.0
        slope = min(max(slope, 0.0), more[1] / more[0])
        return cls(more[1] - slope * more[0], slope)


@dataclass(frozen=True)
class Walk:
    """A calibration's way through the model.

    Attributes:
        windows: of the text.
        blocks: that they go through.
        gathering: seconds for one window through one block while moments are added up.
        running: seconds without.
    """

    windows: int
    blocks: int
    gathering: float
    running: float

    @property
    def seconds(self) -> float:
        """Of the whole way: through each block twice, before it is coded and after, or forwards and backwards."""
        return self.windows * self.blocks * (self.gathering + self.running)


def add_up(kinds: Sequence[Kind], trials: Mapping[Kind, Trial], walks: Sequence[Walk] = ()) -> float:
    """Seconds of a conversion of matrices of these kinds; those without a trial count as nothing."""
    known = [(trials[kind], kind[1]) for kind in kinds if kind in trials]
    return sum(trial.fixed + rows * trial.per_row for trial, rows in known) + sum(walk.seconds for walk in walks)


def predict_seconds(
    checkpoint: Checkpoint, plan: Plan, workers: int | None = None, calibration: Calibration | None = None
) -> float:
    """Seconds that a conversion will take.

    Args:
        checkpoint: the source.
        plan: of the conversion.
        workers: as for `run_plan`.
        calibration: likewise.
    """
    coded = [tensor for tensor in plan.tensors if tensor.slot.params.codec != "none"]
    kinds = [_kind(tensor, calibration) for tensor in coded]
    examples = dict(zip(kinds, coded, strict=True))
    trials = {}
    for kind, tensor in examples.items():
        trial = _try_out(checkpoint, tensor, kind, default_workers() if workers is None else workers)
        if trial is not None:
            trials[kind] = trial
    return add_up(kinds, trials, list(_try_walks(calibration, coded, kinds)) if calibration is not None else ())


def _try_walks(calibration: Calibration, tensors: Sequence[PlannedTensor], kinds: Sequence[Kind]) -> Iterator[Walk]:
    stages = [calibration.stage(tensor.slot.name) for tensor, kind in zip(tensors, kinds, strict=True) if kind[3]]
    if not stages:
        return
    count = calibration.model.count
    if windows := calibration.windows_to_run():
        # Blocks behind the last one that is coded are not run.
        yield Walk(windows, min(max(stages), count), *calibration.try_block())
    if windows := calibration.windows_to_differentiate():
        yield Walk(windows, count, *calibration.try_gradients())


def _kind(tensor: PlannedTensor, calibration: Calibration | None) -> Kind:
    slot = tensor.slot
    rows, columns = matrix_shape(slot.shape[::-1] if slot.transposed else slot.shape)
    if calibration is None or not uses_statistics(slot.params) or not calibration.has_statistics(slot.name):
        return slot.params, rows, columns, False, False
    along_rows = uses_outputs(slot.params) and calibration.has_outputs(slot.name, rows)
    return slot.params, rows, columns, True, along_rows


def _try_out(checkpoint: Checkpoint, tensor: PlannedTensor, kind: Kind, workers: int) -> Trial | None:
    """Encode the first panels of a tensor; nothing for values that the conversion itself will refuse."""
    params, rows, columns, feeds_back, along_rows = kind
    weight = checkpoint.tensor(tensor.slot.name)
    matrix = weight.T if tensor.slot.transposed else weight.reshape(rows, columns)
    more = min(rows, max(PANEL_ROWS, _TRIAL_VALUES // columns // PANEL_ROWS * PANEL_ROWS))
    fewer = min(more, max(PANEL_ROWS, more // 4 // PANEL_ROWS * PANEL_ROWS))

    def run(count: int) -> None:
        sample = matrix[:count]
        statistics = Statistics(torch.eye(columns), torch.eye(count) if along_rows else None) if feeds_back else None
        measure_error(sample, encode(sample, params, statistics))

    try:
        run(PANEL_ROWS)  # The first time, libraries set themselves up.
        with shared_processors() if feeds_back else nullcontext(), ThreadPoolExecutor(workers) as pool:
            seconds = [_elapsed(pool, run, count, workers) for count in (fewer, more)]
    except CodecError:
        return None
    return Trial.through((fewer, seconds[0] / workers), (more, seconds[1] / workers))


def _elapsed(pool: ThreadPoolExecutor, run: Callable[[int], None], count: int, times: int) -> float:
    begin = time.perf_counter()
    list(pool.map(run, [count] * times))
    return time.perf_counter() - begin
