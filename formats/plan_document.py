"""The files that say why a container is as it is: the plan that a budget led to, and the recipe that repeats it.

`tilepress-plan.json`:

    {"version": 1, "budget": "--bits 4.25", "key": "<digest of what the plan depends on>", "is_measured": true,
     "tensors": {<name>: {"spec": "int:bits=4", "predicted_kl": 0.0012}, ...}}

`tilepress-recipe.yaml` is a recipe of the same specs, which needs no measuring.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tilepress.kernels import FormatError

PLAN_NAME = "tilepress-plan.json"
RECIPE_NAME = "tilepress-recipe.yaml"
_VERSION = 1


@dataclass(frozen=True)
class PlanDocument:
    """What a budget led to.

    Attributes:
        budget: as the command line takes it.
        key: digest of everything that the plan depends on.
        specs: tensor -> codec spec.
        predicted_kl: tensor -> KL divergence that its codec is predicted to cost, nats a token.
        is_measured: whether the figures stand on a text; without one they only say how tensors compare.
    """

    budget: str
    key: str
    specs: Mapping[str, str]
    predicted_kl: Mapping[str, float]
    is_measured: bool

    def text(self) -> str:
        """As a file."""
        tensors = {name: {"spec": spec, "predicted_kl": self.predicted_kl[name]} for name, spec in self.specs.items()}
        fields = {
            "version": _VERSION,
            "budget": self.budget,
            "key": self.key,
            "is_measured": self.is_measured,
            "tensors": tensors,
        }
        return json.dumps(fields, indent=2) + "\n"


def read_plan_document(folder: Path) -> PlanDocument | None:
    """The plan in a folder; nothing where there is none.

    Raises:
        FormatError: a file that holds something else.
    """
    path = folder / PLAN_NAME
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        tensors = fields["tensors"]
        document = PlanDocument(
            str(fields["budget"]),
            str(fields["key"]),
            {str(name): str(tensor["spec"]) for name, tensor in tensors.items()},
            {str(name): float(tensor["predicted_kl"]) for name, tensor in tensors.items()},
            bool(fields["is_measured"]),
        )
        known = fields["version"] == _VERSION
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
        raise FormatError(f"{path}: is no plan of tilepress ({type(problem).__name__}); delete it") from None
    if not known:
        raise FormatError(f"{path}: was written by another version of tilepress; delete it, or use that version")
    return document
