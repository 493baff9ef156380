"""What noise in each tensor costs the model: the KL divergence that it adds, from one backward pass.

A small change d of the weights moves the predictions by KL = 1/2 d F d a token, with the Fisher information F. For
white noise of variance v in one tensor that is v / 2 times the trace of the tensor's part of F, and the trace is the
mean square norm of the gradient of log p(y | text) where the labels y are drawn from the model's own predictions. At
many positions at once the labels are independent of each other, so the gradients' square norms add up and one pass
gives the sum for a whole window. No text is needed beyond what the model reads.

The model is walked forwards and backwards block by block, with one block's weights in memory.

Source: Amari 1998, "Natural gradient works efficiently in learning"; the sampled form is that of Martens 2020, "New
insights and perspectives on the natural gradient method".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tilepress.compress.calibration.blocks import BlockModel
from tilepress.compress.calibration.moments import MomentCollector
from tilepress.formats.checkpoint import Checkpoint

SEED = 1
"""Of the labels that are drawn, so that the same command makes the same plan."""

_DIGITS = 4
"""Figures kept: another number of threads changes the last bits of sums, which must not change a plan."""


@dataclass(frozen=True)
class Sensitivity:
    """How a tensor's errors move the predictions.

    Attributes:
        kl: KL divergence in nats a token for white noise as strong as the tensor itself; in proportion for less.
        feedback_gain: share of it that is left when errors are fed back (see `error_feedback`), at most 1.
    """

    kl: float
    feedback_gain: float = 1.0


class _Squares:
    """Adds up square norms of gradients, tensor by tensor."""

    def __init__(self) -> None:
        self.of: dict[str, float] = {}
        self.energy: dict[str, float] = {}
        self._parameters: Mapping[str, nn.Parameter] = {}

    def watch(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """From now on, take up the gradients of these matrices."""
        self._parameters = {name: value for name, value in parameters.items() if value.ndim >= 2}
        for name, value in self._parameters.items():
            value.requires_grad_()
            self.energy[name] = float(value.detach().double().square().mean())

    def take(self) -> None:
        """Add what the parameters have collected since the last time."""
        for name, value in self._parameters.items():
            if value.grad is not None:
                self.of[name] = self.of.get(name, 0.0) + float(value.grad.double().square().sum())
                value.grad = None


def measure_sensitivities(
    checkpoint: Checkpoint,
    model: BlockModel,
    windows: Sequence[torch.Tensor],
    report: Callable[[str, int, int], None] | None = None,
) -> dict[str, Sensitivity]:
    """Sensitivities of all matrices that the model takes from the checkpoint as they are.

    Args:
        checkpoint: read tensor by tensor.
        model: of the checkpoint.
        windows: int64 vectors of tokens; the states in front of all blocks are kept in memory for all of them.
        report: called after each step with what was done, steps done and all.

    Raises:
        RecipeError: a model that can't be run block by block.
    """
    read, names = checkpoint.tensor, list(checkpoint.infos)
    steps = 2 * model.count + 2
    done = 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        if report:
            report(what, done, steps)

    squares = _Squares()
    gains: dict[str, float] = {}
    model.prepare(windows, read)
    states = [model.enter(windows, read)]
    for stage in range(1, model.count + 1):
        with model.loaded(stage, read), MomentCollector(_layers(model, names, stage)) as collector:
            states.append([model.run(stage, each) for each in states[-1]])
        gains |= {name: found.feedback_gain for name, found in collector.statistics().items()}
        step(f"forwards, block {stage}")
    gradients, of_head = _from_predictions(model, windows, states.pop(), squares, names, checkpoint)
    gains |= of_head
    step("head")
    for stage in range(model.count, 0, -1):
        inputs = states.pop()
        with model.loaded(stage, read):
            squares.watch(model.parameters(stage))
            for number, each in enumerate(inputs):
                gradients[number] = model.differentiate(stage, each, gradients[number])
                squares.take()
        step(f"backwards, block {stage}")
    with model.loaded(0, read):
        squares.watch(model.parameters(0))
        for window, gradient in zip(windows, gradients, strict=True):
            model.differentiate_entry(window, gradient)
            squares.take()
    step("embeddings")
    return {
        name: Sensitivity(_rounded(total * squares.energy[name]), _rounded(gains.get(name, 1.0)))
        for name, total in squares.of.items()
    }


def assumed_sensitivities(checkpoint: Checkpoint) -> dict[str, Sensitivity]:
    """Without a text: noise in every weight costs the same, and the whole model as noise costs 1 nat."""
    total = sum(math.prod(info.shape) for info in checkpoint.infos.values())
    return {name: Sensitivity(math.prod(info.shape) / total) for name, info in checkpoint.infos.items()}


def _from_predictions(
    model: BlockModel,
    windows: Sequence[torch.Tensor],
    states: Sequence[torch.Tensor],
    squares: _Squares,
    names: Sequence[str],
    checkpoint: Checkpoint,
) -> tuple[list[torch.Tensor], dict[str, float]]:
    """Gradients at the last block's states for labels drawn from the predictions; error feedback of the head."""
    generator = torch.Generator().manual_seed(SEED)
    gradients = []
    with model.with_head(checkpoint.tensor), MomentCollector(_layers(model, names, model.count + 1)) as collector:
        # A tied head is the embedding itself.
        squares.watch(model.parameters(0) | model.parameters(model.count + 1))
        for window, each in zip(windows, states, strict=True):
            inputs = each.detach().requires_grad_()
            with torch.enable_grad():
                logits = model.predict(window, inputs).float()
                labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
                loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
                # So that square norms, added up over windows, are means over tokens, and halved.
                torch.autograd.backward(loss / math.sqrt(2 * len(window) * len(windows)))
            assert inputs.grad is not None
            gradients.append(inputs.grad)
            squares.take()
    return gradients, {name: found.feedback_gain for name, found in collector.statistics().items()}


def _layers(model: BlockModel, names: Sequence[str], stage: int) -> dict[str, nn.Module]:
    in_stage = (name for name in names if model.stage(name) == stage)
    return {name: layer for name in in_stage if (layer := model.layer(name)) is not None}


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
