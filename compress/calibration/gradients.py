"""Statistics that know what errors cost: second moments weighted by gradients, from one pass backwards.

The KL divergence that a change D of a layer's weight makes is about the mean of (g^T D x)^2 / 2 over tokens, with x
the layer's input and g the gradient at its output (see `backwards`). Of that fourth moment two matrices are kept,

    moments = sum of |g|^2 x x^T        outputs = sum of g g^T

so tokens whose outputs do not matter, as those that attention parks itself on, count less for error feedback along
columns, and rows that matter together take part in it, too. The first is joined with unweighted moments before it is
used. An embedding's rows are looked up instead of multiplied: its moments are g g^T of what it gives; to those of a
table that is a tied head as well, the head's are added.

Source: the factors are those of Martens and Grosse 2015, "Optimizing neural networks with Kronecker-factored
approximate curvature", with the weights that Tseng et al. 2025, "Model-preserving adaptive rounding", find for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from tilepress.compress.calibration.backwards import Show, walk_back
from tilepress.compress.calibration.blocks import BlockModel
from tilepress.compress.calibration.experts import Expert, ExpertProducts
from tilepress.compress.calibration.moments import has_seen_enough
from tilepress.compress.calibration.statistics import Statistics
from tilepress.formats.checkpoint import Checkpoint

MOST_GRADIENT_TOKENS = 8192
"""Tokens that the pass is made with: their states lie in memory for all blocks."""

MOST_OUTPUTS = 8192
"""Rows of a layer beyond which its outputs are not looked at: a head of a whole vocabulary."""

Save = Callable[[int, Mapping[str, Statistics]], None]
"""Takes the statistics of a stage."""


class GradientCollector:
    """While it is entered, inputs and gradients of layers, experts and tables are added up."""

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        experts: Mapping[str, Expert] = MappingProxyType({}),
        tables: Mapping[str, nn.Module] = MappingProxyType({}),
    ) -> None:
        """Watch layers, experts and tables, each called by the name of its weight in the checkpoint."""
        self._layers, self._experts, self._tables = layers, experts, tables
        self._tokens: dict[str, int] = {}
        self.moments: dict[str, torch.Tensor] = {}
        self.outputs: dict[str, torch.Tensor] = {}

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Keep hooks on the modules for a while."""
        hooks = [layer.register_forward_hook(self._of_layer(name)) for name, layer in self._layers.items()]
        hooks += [table.register_forward_hook(self._of_table(name)) for name, table in self._tables.items()]
        try:
            with ExpertProducts(self._experts, self._of_expert) if self._experts else nullcontext():
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def statistics(self) -> dict[str, Statistics]:
        """Name -> statistics, without layers that were never called, and experts that have seen too little."""
        return {
            name: Statistics(moments, self.outputs.get(name))
            for name, moments in self.moments.items()
            if name not in self._experts or has_seen_enough(self._tokens[name], len(moments))
        }

    def _of_layer(self, name: str) -> Any:
        def watch(_: nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> None:
            self._watch(name, arguments[0], output, lambda gradient: gradient)

        return watch

    def _of_expert(self, names: list[str], inputs: torch.Tensor, output: torch.Tensor) -> None:
        for name in names:
            self._tokens[name] = self._tokens.get(name, 0) + len(inputs)
            self._watch(name, inputs, output, self._experts[name].of_output)

    def _watch(
        self, name: str, inputs: torch.Tensor, output: torch.Tensor, select: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        rows = _rows(inputs)

        def add(gradient: torch.Tensor) -> None:
            gradients = _rows(select(gradient))
            _add(self.moments, name, rows * torch.linalg.vector_norm(gradients, dim=1, keepdim=True))
            if gradients.shape[1] <= MOST_OUTPUTS:
                _add(self.outputs, name, gradients)

        if output.requires_grad:
            _on_gradient(output, add)

    def _of_table(self, name: str) -> Any:
        def watch(_: nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> None:
            if torch.is_grad_enabled():
                output.requires_grad_()
                _on_gradient(output, lambda gradient: _add(self.moments, name, _rows(gradient)))

        return watch


def gather_with_gradients(
    checkpoint: Checkpoint,
    model: BlockModel,
    windows: Sequence[torch.Tensor],
    save: Save,
    show: Show | None = None,
) -> None:
    """Gather statistics of all linear layers and tables of the uncompressed model.

    Args:
        checkpoint: as for `walk_back`, which tells of errors, too.
        model: likewise.
        windows: likewise; those beyond `MOST_GRADIENT_TOKENS` are left out.
        save: takes the statistics of each stage, from the last one to the embeddings.
        show: as for `walk_back`.
    """
    used = windows[: most_windows(windows)]
    walk_back(checkpoint, model, used, _Gatherer(model, list(checkpoint.infos), save), show)


def most_windows(windows: Sequence[torch.Tensor]) -> int:
    """How many of these windows the pass is made with."""
    return min(len(windows), max(1, MOST_GRADIENT_TOKENS // len(windows[0])))


class _Gatherer:
    """Collects stage by stage."""

    def __init__(self, model: BlockModel, names: Sequence[str], save: Save) -> None:
        self._model, self._names, self._save = model, names, save
        self._tied: dict[str, torch.Tensor] = {}

    @contextmanager
    def watching(self, stage: int) -> Iterator[None]:
        """Collect from a stage, and save what has been found."""
        model, names = self._model, self._names
        tied = model.tied_heads(names) if stage > model.count else {}
        layers = model.layers(stage, names) | tied
        experts = model.experts(name for name in names if model.stage(name) == stage)
        collector = GradientCollector(layers, experts, model.tables(names) if stage == 0 else {})
        with collector.entered():
            yield
        self._tied |= {name: collector.moments.pop(name) for name in tied}
        if stage == 0:
            for name, moments in self._tied.items():
                collector.moments[name] += moments
        self._save(stage, collector.statistics())

    def take(self) -> None:
        """Hooks have added up everything."""


def _on_gradient(output: Any, add: Callable[[torch.Tensor], None]) -> None:
    output.register_hook(add)


def _rows(values: torch.Tensor) -> torch.Tensor:
    return values.detach().reshape(-1, values.shape[-1]).float()


def _add(sums: dict[str, torch.Tensor], name: str, rows: torch.Tensor) -> None:
    total = sums.setdefault(name, torch.zeros(rows.shape[1], rows.shape[1]))
    total.addmm_(rows.T, rows)
