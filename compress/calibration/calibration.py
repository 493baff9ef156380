"""Calibration of a conversion: stage by stage, each with the statistics of inputs that compressed weights have made.

    stage 0: embeddings are coded  ->  the text's states in front of the first block
    stage s: block s runs on them with its own weights, statistics are gathered, its tensors are coded,
             it runs again with what they decode to  ->  the states in front of the next block
    last:    the head, with statistics of what the last block gives

With gradients, one pass through the uncompressed model comes before all that, and what it tells of a layer is joined
with the statistics of its inputs.

The states in front of the current block are kept beside the unfinished container, so an interrupted conversion goes
on at the block where it stopped. On one machine with one number of threads it then writes the same bytes.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import xxhash
from safetensors.torch import save_file

from tilepress.compress.calibration.backwards import Show
from tilepress.compress.calibration.blocks import BlockModel, Read
from tilepress.compress.calibration.gradients import (
    MOST_OUTPUTS,
    GradientCollector,
    gather_with_gradients,
    most_windows,
)
from tilepress.compress.calibration.moments import MomentCollector
from tilepress.compress.calibration.statistics import Origin, Statistics, load_statistics, save_statistics
from tilepress.formats.checkpoint import Checkpoint
from tilepress.formats.safetensors_header import map_tensor, read_header
from tilepress.formats.text import (
    DEFAULT_TOKENS,
    DEFAULT_WINDOW,
    context_length,
    cut_windows,
    load_tokenizer,
    read_text,
    total_tokens,
)

DEFAULT_CALIBRATION_TOKENS = 32 * DEFAULT_WINDOW
"""Tokens of the text that are used unless asked otherwise."""

FOLDER = "calibration"
"""Where states are kept, in the folder of an unfinished container."""

_STATES = "states.safetensors"
_STAGE = "stage"


@dataclass(frozen=True)
class Calibration:
    """A model and a text, ready to be run block by block.

    Attributes:
        checkpoint: the source.
        model: of the checkpoint.
        windows: int64 vectors of tokens.
        origin: what tells its statistics from others.
        statistics: folder in which statistics are looked for and kept; None to forget them.
    """

    checkpoint: Checkpoint
    model: BlockModel
    windows: Sequence[torch.Tensor]
    origin: Origin
    statistics: Path | None = None

    @classmethod
    def prepare(
        cls,
        checkpoint: Checkpoint,
        text: str | Path,
        tokens: int = DEFAULT_CALIBRATION_TOKENS,
        statistics: Path | None = None,
        gradients: bool = False,
    ) -> Calibration:
        """Cut a text into windows for a checkpoint.

        Args:
            checkpoint: of a model that predicts tokens, with its tokenizer beside it.
            text: a file in UTF-8.
            tokens: most tokens to use.
            statistics: folder of statistics to use where they are there, and to keep them in.
            gradients: whether statistics shall know what errors cost (see `gradients`).

        Raises:
            RecipeError: no such text, no tokenizer, or a model that can't be run block by block.
        """
        model = BlockModel(checkpoint)
        window = min(DEFAULT_WINDOW, context_length(model.config) or DEFAULT_WINDOW)
        windows = cut_windows(load_tokenizer(checkpoint.path, checkpoint.path), read_text(text), tokens, window)
        digest = xxhash.xxh3_128()
        for one in windows:
            digest.update(len(one).to_bytes(8, "little") + one.numpy().tobytes())
        origin = Origin(checkpoint.identity(), digest.hexdigest(), total_tokens(windows), gradients)
        return cls(checkpoint, model, windows, origin, statistics)

    def stage(self, name: str) -> int:
        """When a tensor of the checkpoint is coded; see `blocks`."""
        return self.model.stage(name)

    def held_out(self, text: str | Path, tokens: int = DEFAULT_TOKENS) -> list[torch.Tensor]:
        """Windows of the text behind those that are used here; the last of these where it has no more."""
        path = self.checkpoint.path
        tokenizer, length = load_tokenizer(path, path), len(self.windows[0])
        windows = cut_windows(tokenizer, read_text(text), self.origin.tokens + tokens, length)
        return windows[len(self.windows) :] or list(self.windows[-max(1, tokens // length) :])

    def begin(self, folder: Path, original: Read, written: Read, show: Show | None = None) -> CalibrationRun:
        """Begin, or go on with, the calibration of one conversion.

        Args:
            folder: of the unfinished container.
            original: gives a tensor as the checkpoint has it.
            written: gives a tensor of a finished stage as it decodes.
            show: told of a pass through the model before anything is coded.
        """
        return CalibrationRun(self, folder / FOLDER, original, written, show)

    def has_statistics(self, name: str) -> bool:
        """Whether the text tells something of a tensor.

        Without gradients it tells nothing of tables and heads that are tied to one.
        """
        if self.model.layer(name) is not None or self.model.experts([name]):
            return True
        return self.origin.gradients and bool(self.model.tables([name]))

    def has_outputs(self, name: str, rows: int) -> bool:
        """Whether statistics of a matrix of so many rows say what errors in these cost together."""
        return self.origin.gradients and self.model.layer(name) is not None and rows <= MOST_OUTPUTS

    def windows_to_run(self) -> int:
        """Windows that will go through the model: none where statistics are kept for all of its stages."""
        kept = self.statistics
        stages = range(1, self.model.count + 1)
        if kept is not None and all(_statistics_file(kept, stage).exists() for stage in stages):
            return 0
        return len(self.windows)

    def windows_to_differentiate(self) -> int:
        """Windows that will go through the model with gradients."""
        if not self.origin.gradients or (self.statistics is not None and self._has_gradients(self.statistics)):
            return 0
        return most_windows(self.windows)

    def gather_with_gradients(self, folder: Path, show: Show | None = None) -> dict[str, Statistics]:
        """Statistics with gradients of all stages, which are gathered unless a folder has them."""

        def save(stage: int, found: Mapping[str, Statistics]) -> None:
            save_statistics(_gradients_file(folder, stage), found, self.origin)

        if not self._has_gradients(folder):
            gather_with_gradients(self.checkpoint, self.model, self.windows, save, show)
        found: dict[str, Statistics] = {}
        for stage in range(self.model.count + 2):
            found |= load_statistics(_gradients_file(folder, stage), self.origin)
        return found

    def _has_gradients(self, folder: Path) -> bool:
        return all(_gradients_file(folder, stage).exists() for stage in range(self.model.count + 2))

    def try_block(self) -> tuple[float, float]:
        """Seconds that the first window takes through the first block, with moments gathered and without."""
        return self._try_block(differentiates=False)

    def try_gradients(self) -> tuple[float, float]:
        """Seconds that it takes backwards through the first block, with gradients gathered, and forwards."""
        return self._try_block(differentiates=True)

    def _try_block(self, differentiates: bool) -> tuple[float, float]:
        model, read = self.model, self.checkpoint.tensor
        layers = model.layers(1, self.checkpoint.infos)
        model.prepare(self.windows[:1], read)
        states = model.enter(self.windows[:1], read)[0]
        with model.loaded(1, read):
            model.run(1, states)  # The first time, libraries set themselves up.
            times = [time.perf_counter()]
            if differentiates:
                with GradientCollector(layers).entered():
                    model.differentiate(1, states, torch.ones_like(states))
            else:
                with MomentCollector(layers):
                    model.run(1, states)
            times.append(time.perf_counter())
            model.run(1, states)
            times.append(time.perf_counter())
        return times[1] - times[0], times[2] - times[1]

    def clean(self, folder: Path) -> None:
        """Remove what `begin` has kept in the folder of a container that is whole now."""
        shutil.rmtree(folder / FOLDER, ignore_errors=True)


class CalibrationRun:
    """The calibration of one conversion, which asks for stages in rising order."""

    def __init__(
        self, calibration: Calibration, folder: Path, original: Read, written: Read, show: Show | None
    ) -> None:
        """Keep the states in `folder`, and with gradients the statistics where no place is named for them."""
        self._show = show
        self._weighted: dict[str, Statistics] | None = None
        self._calibration = calibration
        self._model = calibration.model
        self._folder = folder
        self._original = original
        self._written = written
        self._reached = 0
        self._states: list[torch.Tensor] = []

    def statistics(self, stage: int, names: Collection[str]) -> dict[str, Statistics]:
        """Statistics of the layers whose weights are the tensors `names`, all of one stage, whose turn it is.

        Tensors that are no linear layer's weight, or whose layer is never called, are left out.
        """
        if not self._calibration.origin.gradients:
            return self._of_inputs(stage, names)
        weighted = self._with_gradients(names)
        of_inputs = self._of_inputs(stage, names)
        joined = {name: one.joined(weighted[name]) for name, one in of_inputs.items() if name in weighted}
        return of_inputs | weighted | joined

    def _of_inputs(self, stage: int, names: Collection[str]) -> dict[str, Statistics]:
        layers = self._model.layers(stage, names)
        experts = self._model.experts(names)
        if not layers and not experts:
            return {}
        kept = self._calibration.statistics
        origin = replace(self._calibration.origin, gradients=False)
        path = _statistics_file(kept, stage) if kept is not None else None
        if path is not None and path.exists():
            found = load_statistics(path, origin)
            if layers.keys() <= found.keys():
                return {name: found[name] for name in (*layers, *experts) if name in found}
        self._advance(stage)
        with MomentCollector(layers, experts) as collector:
            if stage <= self._model.count:
                with self._model.loaded(stage, self._original):
                    self._each(lambda states: self._model.run(stage, states))
            else:
                self._model.leave(self._calibration.windows, self._states, self._outside)
        gathered = collector.statistics()
        if path is not None:
            save_statistics(path, gathered, origin)
        return gathered

    def _with_gradients(self, names: Collection[str]) -> dict[str, Statistics]:
        if self._weighted is None:
            folder = self._calibration.statistics or self._folder
            self._weighted = self._calibration.gather_with_gradients(folder, self._show)
        # As new ones, so that what is computed from them is not kept beyond their stage.
        return {name: replace(self._weighted[name]) for name in names if name in self._weighted}

    def _advance(self, stage: int) -> None:
        """Bring the states in front of a stage, through the blocks before it as they are coded."""
        if not self._reached:
            self._model.prepare(self._calibration.windows, self._outside)
            self._resume(stage)
        if not self._reached:
            self._states = self._model.enter(self._calibration.windows, self._outside)
            self._reached = 1
        if self._reached == stage:
            return
        while self._reached < stage:
            with self._model.loaded(self._reached, self._written):
                self._states = self._each(lambda states: self._model.run(self._reached, states))
            self._reached += 1
        self._keep()

    def _outside(self, name: str) -> torch.Tensor:
        """A tensor outside of the blocks: those of the last stage count as not coded yet, even if some are."""
        return self._written(name) if self._calibration.stage(name) == 0 else self._original(name)

    def _each(self, run: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        return [run(states) for states in self._states]

    def _keep(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._folder / (_STATES + ".partial")
        tensors = {str(number): states.contiguous() for number, states in enumerate(self._states)}
        save_file(tensors, unfinished, {_STAGE: str(self._reached)})
        os.replace(unfinished, self._folder / _STATES)

    def _resume(self, stage: int) -> None:
        """Take up states that an earlier run has kept, if they are not beyond `stage`."""
        path = self._folder / _STATES
        if not path.exists():
            return
        header = read_header(path)
        kept = int(header.metadata[_STAGE])
        if kept <= stage and len(header.entries) == len(self._calibration.windows):
            entries = (header.entries[str(number)] for number in range(len(header.entries)))
            self._states = [map_tensor(path, entry).clone() for entry in entries]
            self._reached = kept


def _gradients_file(folder: Path, stage: int) -> Path:
    return folder / f"gradients-{stage:04d}.safetensors"


def _statistics_file(folder: Path, stage: int) -> Path:
    return folder / f"stage-{stage:04d}.safetensors"
