"""Recipes: ordered rules that say which tensor gets which codec spec.

A recipe file is YAML. Each key is a pattern for whole tensor names (`*` any characters, `?` one, `[ab]` one of), each
value a codec spec. The first pattern that matches wins; what no pattern matches stays as it is:

    "*.down_proj.weight": int:bits=6
    "model.layers.*": int:bits=4,group=64
    "*embed*": int:bits=8
"""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from tilepress.kernels import CodecError, Params, RecipeError, parse_spec

SMALLEST = 4096
"""Tensors of fewer values stay as they are, and so do vectors: there is nothing to gain."""


@dataclass(frozen=True)
class Rule:
    """One line of a recipe."""

    pattern: str
    params: Params


@dataclass(frozen=True)
class Recipe:
    """Ordered rules; the first that matches a tensor's name wins."""

    rules: Sequence[Rule]

    @classmethod
    def of_names(cls, params: Mapping[str, Params]) -> Recipe:
        """One rule a tensor, for tensors of any names."""
        return cls([Rule(glob.escape(name), each) for name, each in params.items()])

    def text(self) -> str:
        """As a recipe file."""
        return "".join(f"{json.dumps(rule.pattern)}: {json.dumps(rule.params.spec())}\n" for rule in self.rules)

    @classmethod
    def read(cls, path: Path | str) -> Recipe:
        """Read a recipe file.

        Raises:
            RecipeError: a file that can't be read, isn't such a recipe, or holds a codec spec that makes no sense.
        """
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as problem:
            raise RecipeError(f"{path}: can't be read ({problem.strerror})") from None
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as problem:
            raise RecipeError(f"{path}: is not YAML ({' '.join(str(problem).split())})") from None
        lines = content if isinstance(content, list) else [content]
        if not all(isinstance(line, dict) for line in lines) or not any(lines):
            raise RecipeError(f"{path}: is no recipe; write one `pattern: codec spec` a line")
        rules = [cls._rule(path, pattern, spec) for line in lines for pattern, spec in line.items()]
        return cls(rules)

    @staticmethod
    def _rule(path: Path | str, pattern: object, spec: object) -> Rule:
        if not isinstance(pattern, str) or not isinstance(spec, str):
            raise RecipeError(f"{path}: {pattern!r}: {spec!r} is not a pattern and a codec spec")
        try:
            return Rule(pattern, parse_spec(spec))
        except CodecError as problem:
            raise RecipeError(f"{path}, pattern {pattern!r}: {problem}") from None

    def match(self, name: str) -> Params | None:
        """Parameters of the first rule whose pattern matches; nothing if none does."""
        for rule in self.rules:
            if fnmatchcase(name, rule.pattern):
                return rule.params
        return None

    def unused(self, names: Sequence[str]) -> list[str]:
        """Patterns that match none of `names`: most likely misspelt."""
        return [rule.pattern for rule in self.rules if not any(fnmatchcase(name, rule.pattern) for name in names)]
