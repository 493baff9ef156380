"""What noise in each tensor costs the model: the KL divergence that it adds, from one backward pass.

For white noise of variance v in one tensor that is v / 2 times the trace of the tensor's part of the Fisher
information: the mean square norm of the gradients that `walk_back` takes through the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from tilepress.compress.calibration.backwards import Show, walk_back
from tilepress.compress.calibration.blocks import BlockModel
from tilepress.compress.calibration.moments import MomentCollector
from tilepress.compress.calibration.statistics import Statistics
from tilepress.formats.checkpoint import Checkpoint

_DIGITS = 4
"""Figures kept: another number of threads changes the last bits of sums, which must not change a plan."""


@dataclass(frozen=True)
class Sensitivity:
    """How a tensor's errors move the predictions.

    Attributes:
        kl: KL divergence in nats a token for white noise as strong as the tensor itself; in proportion for less.
        feedback_gain: share of it that is left when errors are fed back (see `error_feedback`), at most 1.
        output_gain: share of that which is left when they are fed back along rows, too.
    """

    kl: float
    feedback_gain: float = 1.0
    output_gain: float = 1.0


class _Squares:
    """Adds up square norms of gradients, tensor by tensor, and finds what error feedback leaves."""

    def __init__(self, model: BlockModel, names: Sequence[str]) -> None:
        self.of: dict[str, float] = {}
        self.energy: dict[str, float] = {}
        self.gains: dict[str, float] = {}
        self._model, self._names = model, names
        self._parameters: Mapping[str, nn.Parameter] = {}

    @contextmanager
    def watching(self, stage: int) -> Iterator[None]:
        """Take up the gradients of this stage's matrices."""
        found = self._model.parameters(stage)
        if stage > self._model.count:
            # A tied head is the embedding itself.
            found |= self._model.parameters(0)
        self._parameters = {name: value for name, value in found.items() if value.ndim >= 2}
        for name, value in self._parameters.items():
            value.requires_grad_()
            self.energy[name] = float(value.detach().double().square().mean())
        with MomentCollector(self._model.layers(stage, self._names)) as collector:
            yield
        self.gains |= {name: found.feedback_gain for name, found in collector.statistics().items()}

    def take(self) -> None:
        """Add what the parameters have collected since the last time."""
        for name, value in self._parameters.items():
            if value.grad is not None:
                self.of[name] = self.of.get(name, 0.0) + float(value.grad.double().square().sum())
                value.grad = None


def measure_sensitivities(
    checkpoint: Checkpoint, model: BlockModel, windows: Sequence[torch.Tensor], show: Show | None = None
) -> dict[str, Sensitivity]:
    """Sensitivities of all matrices that the model takes from the checkpoint as they are.

    Arguments and errors are those of `walk_back`.
    """
    squares = _Squares(model, list(checkpoint.infos))
    walk_back(checkpoint, model, windows, squares, show)
    return {
        name: Sensitivity(_rounded(total * squares.energy[name]), _rounded(squares.gains.get(name, 1.0)))
        for name, total in squares.of.items()
    }


def with_gains_of(
    sensitivities: Mapping[str, Sensitivity], statistics: Mapping[str, Statistics]
) -> dict[str, Sensitivity]:
    """The same, with what error feedback leaves of tables' errors, and of all others along rows.

    Traces of statistics tell of sensitivities, too, but as if a weight's effects on several positions were independent.
    """
    return {
        name: replace(
            one,
            feedback_gain=one.feedback_gain if one.feedback_gain < 1 else _rounded(statistics[name].feedback_gain),
            output_gain=_rounded(statistics[name].output_gain),
        )
        if name in statistics
        else one
        for name, one in sensitivities.items()
    }


def assumed_sensitivities(checkpoint: Checkpoint) -> dict[str, Sensitivity]:
    """Without a text: noise in every weight costs the same, and the whole model as noise costs 1 nat."""
    total = sum(math.prod(info.shape) for info in checkpoint.infos.values())
    return {name: Sensitivity(math.prod(info.shape) / total) for name, info in checkpoint.infos.items()}


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
