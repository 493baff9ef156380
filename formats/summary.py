"""What a container holds, counted from its headers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tilepress.formats.container import Container
from tilepress.formats.plan_document import PlanDocument, read_plan_document

SUMMARY_HEADINGS = ("weights", "bytes", "bits/weight", "max error", "relative rms")
"""Of the figures in `Line.cells`, behind the name and the detail."""


@dataclass(frozen=True)
class Line:
    """One tensor, or all tensors of one codec spec.

    Attributes:
        name: of the tensor or the spec.
        detail: spec of the tensor, or number of tensors of the spec.
        weights: number of values.
        stored_bytes: bytes of the parts.
        max_abs: largest absolute error.
        relative_rms: relative root-mean-square error; of several tensors the largest.
    """

    name: str
    detail: str
    weights: int
    stored_bytes: int
    max_abs: float
    relative_rms: float

    @property
    def bits_per_weight(self) -> float:
        """Bits of the parts a value."""
        return 8 * self.stored_bytes / self.weights if self.weights else 0.0

    def cells(self) -> tuple[str, ...]:
        """For a table."""
        figures = f"{self.bits_per_weight:.3f}", f"{self.max_abs:.3g}", f"{self.relative_rms:.3g}"
        return self.name, self.detail, f"{self.weights:,}", f"{self.stored_bytes:,}", *figures


@dataclass(frozen=True)
class Summary:
    """A container in figures.

    Attributes:
        size_bytes: of all weight files, headers included.
        source_bytes: of the tensors before compression.
        bits_per_weight: over all tensors with two or more dimensions, compressed or not.
        specs: a line a codec spec, most weights first.
        tensors: a line a tensor.
        plan: of the budget that it was made for, if it was.
    """

    size_bytes: int
    source_bytes: int
    bits_per_weight: float
    specs: Sequence[Line]
    tensors: Sequence[Line]
    plan: PlanDocument | None = None

    @property
    def ratio(self) -> float:
        """How many times smaller than the source."""
        return self.source_bytes / self.size_bytes if self.size_bytes else 0.0

    def as_dict(self, tensors: bool) -> dict[str, object]:
        """For JSON; with the tensors or without."""
        fields: dict[str, object] = {
            "size_bytes": self.size_bytes,
            "source_bytes": self.source_bytes,
            "bits_per_weight": self.bits_per_weight,
            "specs": [{**vars(line), "bits_per_weight": line.bits_per_weight} for line in self.specs],
        }
        predicted = self.plan.predicted_kl if self.plan is not None else {}
        if self.plan is not None:
            fields["budget"] = self.plan.budget
            fields["predicted_kl"] = sum(predicted.values())
        if tensors:
            fields["tensors"] = [
                {
                    **vars(line),
                    "bits_per_weight": line.bits_per_weight,
                    **({"predicted_kl": predicted.get(line.name, 0.0)} if self.plan is not None else {}),
                }
                for line in self.tensors
            ]
        return fields


def summarise(container: Container | Path | str) -> Summary:
    """Count what a container holds.

    Raises:
        FormatError: a folder that is no container.
    """
    opened = container if isinstance(container, Container) else Container.open(container)
    tensors = []
    matrix_bits = matrix_weights = source_bytes = 0
    for name, record in opened.records.items():
        weights, stored = math.prod(record.shape), opened.stored_bytes(name)
        spec, error = record.params.spec(), record.error
        tensors.append(Line(name, spec, weights, stored, error.max_abs, error.relative_rms))
        source_bytes += weights * record.dtype.itemsize
        if len(record.shape) >= 2:
            matrix_bits += 8 * stored
            matrix_weights += weights
    bits_per_weight = matrix_bits / matrix_weights if matrix_weights else 0.0
    plan = read_plan_document(opened.path)
    return Summary(opened.size_bytes, source_bytes, bits_per_weight, _by_spec(tensors), tensors, plan)


def _by_spec(tensors: Sequence[Line]) -> list[Line]:
    specs: dict[str, list[Line]] = {}
    for line in tensors:
        specs.setdefault(line.detail, []).append(line)
    lines = [
        Line(
            spec,
            str(len(group)),
            sum(line.weights for line in group),
            sum(line.stored_bytes for line in group),
            max(line.max_abs for line in group),
            max(line.relative_rms for line in group),
        )
        for spec, group in specs.items()
    ]
    return sorted(lines, key=lambda line: -line.weights)
