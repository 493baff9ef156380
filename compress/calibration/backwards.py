"""One pass forwards and one backwards through a model, block by block: gradients of what it predicts.

The gradient is that of log p(y | text) for labels y that are drawn from the model's own predictions, so its second
moments are the Fisher information: a small change d of the weights moves the predictions by the KL divergence
1/2 d F d a token. Labels of many positions are independent of each other, so square norms and second moments add up
over the tokens of a window and one pass gives them all. No text is needed beyond what the model reads.

Source: Amari 1998, "Natural gradient works efficiently in learning"; the sampled form is that of Martens 2020, "New
insights and perspectives on the natural gradient method".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import nn

from tilepress.compress.calibration.blocks import BlockModel
from tilepress.formats.checkpoint import Checkpoint

SEED = 1
"""Of the labels that are drawn, so that the same command gives the same gradients."""

Show = Callable[[str, int, int], None]
"""Called after each step with what was done, steps done and all."""


class Watcher(Protocol):
    """What looks at gradients while they flow, stage by stage from the head to the embeddings."""

    def watching(self, stage: int) -> AbstractContextManager[None]:
        """Entered while gradients flow through a stage, which has its weights."""

    def take(self) -> None:
        """The gradients of one window have flowed through the stage."""


def walk_back(
    checkpoint: Checkpoint,
    model: BlockModel,
    windows: Sequence[torch.Tensor],
    watcher: Watcher,
    show: Show | None = None,
) -> None:
    """Let gradients flow through the model, with one block's weights in memory and the states in front of all.

    They are scaled so that the sum of their squares over all tokens is half the mean a token.

    Args:
        checkpoint: read tensor by tensor.
        model: of the checkpoint.
        windows: int64 vectors of tokens; the states in front of all blocks are kept in memory for all of them.
        watcher: looks at them.
        show: told of progress.

    Raises:
        RecipeError: a model that can't be run block by block.
    """
    read = checkpoint.tensor
    steps = 2 * model.count + 2
    done = 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        if show:
            show(what, done, steps)

    model.prepare(windows, read)
    states = [model.enter(windows, read)]
    for stage in range(1, model.count + 1):
        with model.loaded(stage, read):
            states.append([model.run(stage, each) for each in states[-1]])
        step(f"forwards, block {stage}")
    with model.with_head(read), watcher.watching(model.count + 1):
        gradients = _from_predictions(model, windows, states.pop(), watcher)
    step("head")
    for stage in range(model.count, 0, -1):
        inputs = states.pop()
        with model.loaded(stage, read), watcher.watching(stage):
            for number, each in enumerate(inputs):
                gradients[number] = model.differentiate(stage, each, gradients[number])
                watcher.take()
        step(f"backwards, block {stage}")
    with model.loaded(0, read), watcher.watching(0):
        for window, gradient in zip(windows, gradients, strict=True):
            model.differentiate_entry(window, gradient)
            watcher.take()
    step("embeddings")


def _from_predictions(
    model: BlockModel, windows: Sequence[torch.Tensor], states: Sequence[torch.Tensor], watcher: Watcher
) -> list[torch.Tensor]:
    """Gradients at the last block's states, for labels drawn from the predictions."""
    generator = torch.Generator().manual_seed(SEED)
    gradients = []
    for window, each in zip(windows, states, strict=True):
        inputs = each.detach().requires_grad_()
        with torch.enable_grad():
            logits = model.predict(window, inputs).float()
            labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
            loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
            # So that squares, added up over windows, are means over tokens, and halved.
            torch.autograd.backward(loss / math.sqrt(2 * len(window) * len(windows)))
        assert inputs.grad is not None
        gradients.append(inputs.grad)
        watcher.take()
    return gradients
