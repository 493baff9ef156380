"""Second moments of a linear layer's inputs, H = mean over tokens of x x^T, and the file that keeps them.

A change D of the layer's weight moves its outputs by trace(D H D^T) a token on average. Encoders that see H can let
the columns still to be coded make up for the error of those that are (see `error_feedback`).

A statistics file is a safetensors file: a float32 matrix [columns, columns] a layer, and in `__metadata__` under
`tilepress_statistics` the JSON

    {"version": 1, "source": <identity of the checkpoint>, "text": <xxh3-128 of the tokens>, "tokens": 16384,
     "gradients": false,
     "layers": {<tensor of the checkpoint>: <name of its matrix in this file>, ...},
     "outputs": {<tensor of the checkpoint>: <name of another matrix in this file>, ...}}

since layers with the same input (the projections of an attention) share one matrix. `outputs` are [rows, rows], of
gradients, where there are any (see `gradients`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tilepress.formats.safetensors_header import map_tensor, read_header
from tilepress.kernels import FormatError, RecipeError

DAMPING = 0.03
"""Share of the mean diagonal that is added to it, so that a matrix of few tokens can be inverted."""

OUTPUT_DAMPING = 0.3
"""The same for outputs, whose gradients are of fewer tokens and vary more."""

_TINY = 1e-30

_KEY = "tilepress_statistics"
_VERSION = 1


@dataclass(frozen=True)
class Statistics:
    """What is known of the inputs of one layer, or of several that share their input.

    Attributes:
        moments: float32 [columns, columns], mean of x x^T over all tokens, or in proportion to it.
        outputs: float32 [rows, rows], likewise of the gradient at the outputs, where it is known: what errors in two
            rows cost together.
    """

    moments: torch.Tensor
    outputs: torch.Tensor | None = None

    @property
    def columns(self) -> int:
        """Length of an input."""
        return self.moments.shape[0]

    def joined(self, weighted: Statistics) -> Statistics:
        """The sum of moments and weighted moments of the same inputs, in equal shares, with the others' outputs.

        What weights say of errors that matter is true of fewer tokens, which by themselves would be too few.
        """
        shares = (one.moments / one.moments.diagonal().mean().clamp_(min=_TINY) for one in (self, weighted))
        return Statistics(sum(shares, torch.zeros(())), weighted.outputs)

    @cached_property
    def factor(self) -> torch.Tensor:
        """Upper triangular U with H^-1 = U^T U, H damped; float32, computed in float64."""
        return factor_of(self.moments, DAMPING)

    @property
    def feedback_gain(self) -> float:
        """Share of white noise's output error that is left when the noise is fed back along columns, at most 1."""
        return _gain(self.moments, DAMPING)

    @property
    def output_gain(self) -> float:
        """Share of that which is left when it is fed back along rows, too."""
        return 1.0 if self.outputs is None else _gain(self.outputs, OUTPUT_DAMPING)


def factor_of(moments: torch.Tensor, damping: float) -> torch.Tensor:
    """Upper triangular U with H^-1 = U^T U, H damped; float32, computed in float64."""
    identity = torch.eye(len(moments), dtype=torch.float64)
    factor: torch.Tensor = torch.linalg.solve_triangular(_root(moments, damping), identity, upper=True).float()
    return factor


def _root(moments: torch.Tensor, damping: float) -> torch.Tensor:
    """Upper triangular V with H = V V^T, H damped; float64.

    With J the matrix that reverses an order and L the Cholesky factor of J H J, it is J L J.
    """
    damped = moments.double()
    mean = damped.diagonal().mean()
    damped.diagonal().add_(damping * mean if mean > 0 else 1.0)
    reversed_lower: torch.Tensor = torch.linalg.cholesky(damped.flip(0, 1))
    return reversed_lower.flip(0, 1)


def _gain(moments: torch.Tensor, damping: float) -> float:
    """The error of column j that no later column can make up for is e_j^2 V_jj^2, without feedback e_j^2 H_jj."""
    mean = float(moments.double().diagonal().mean())
    if mean <= 0:
        return 1.0
    left = float(_root(moments, damping).diagonal().square().mean())
    return left / (mean * (1 + damping))


@dataclass(frozen=True)
class Origin:
    """What statistics were gathered from.

    Attributes:
        source: identity of the checkpoint.
        text: digest of the tokens.
        tokens: their number.
        gradients: whether tokens are weighted by what errors in them cost (see `gradients`).
    """

    source: str
    text: str
    tokens: int
    gradients: bool = False

    @property
    def key(self) -> str:
        """What tells a conversion with these statistics from others of the same checkpoint."""
        return f"{self.text} and its gradients" if self.gradients else self.text


def save_statistics(path: Path, statistics: Mapping[str, Statistics], origin: Origin) -> None:
    """Write a statistics file so that it is whole or not there."""
    owners: dict[int, str] = {}
    layers = {name: owners.setdefault(id(one.moments), name) for name, one in statistics.items()}
    tensors = {owner: statistics[owner].moments.contiguous() for owner in owners.values()}
    outputs = {name: f"outputs of {name}" for name, one in statistics.items() if one.outputs is not None}
    tensors |= {place: one.outputs for name, place in outputs.items() if (one := statistics[name]).outputs is not None}
    fields = {"version": _VERSION, **asdict(origin), "layers": layers, "outputs": outputs}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".partial")
    save_file(tensors, unfinished, {_KEY: json.dumps(fields)})
    os.replace(unfinished, path)


def load_statistics(path: Path, origin: Origin) -> dict[str, Statistics]:
    """Read a statistics file back: tensor of the checkpoint -> statistics.

    Raises:
        FormatError: the file is damaged or holds something else.
        RecipeError: the statistics come from another checkpoint or text.
    """
    header = read_header(path)
    fields = _fields(header.metadata.get(_KEY), path)
    found = Origin(fields["source"], fields["text"], fields["tokens"], fields.get("gradients", False))
    if found != origin:
        what = "checkpoint" if found.source != origin.source else "text"
        raise RecipeError(f"{path}: holds statistics of another {what}; name another place, or delete the file")
    matrices: dict[str, torch.Tensor] = {}
    for name, entry in header.entries.items():
        if entry.dtype != torch.float32 or len(entry.shape) != 2 or entry.shape[0] != entry.shape[1]:
            raise FormatError(f"{path}, tensor {name}: is no square matrix in float32; gather the statistics again")
        matrices[name] = map_tensor(path, entry)
    outputs = fields.get("outputs", {})
    shared = {owner: Statistics(matrices[owner]) for owner in matrices}
    try:
        return {
            name: replace(shared[owner], outputs=matrices[outputs[name]]) if name in outputs else shared[owner]
            for name, owner in fields["layers"].items()
        }
    except KeyError as missing:
        raise FormatError(f"{path}: has no tensor {missing}; gather the statistics again") from None


def _fields(text: str | None, path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(text or "")
        layers = fields["layers"]
        whole = (
            fields["version"] == _VERSION
            and type(fields["tokens"]) is int
            and all(isinstance(fields[key], str) for key in ("source", "text"))
            and type(fields.get("gradients", False)) is bool
            and all(isinstance(owner, str) for owner in [*layers.values(), *fields.get("outputs", {}).values()])
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise FormatError(f"{path}: holds no statistics that this version can read; gather them again")
    return dict(fields)
