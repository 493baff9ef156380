"""Registers the container with Transformers, at no cost for whoever doesn't use Transformers.

Transformers lists the methods of quantization in the module `transformers.quantizers.auto`. If it is there, tilepress
adds its own; if not, as soon as it is imported, so that it matters not which of the two packages comes first.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

LIST = "transformers.quantizers.auto"
"""The module of Transformers that lists quantizers."""


def register() -> None:
    """Register now or when Transformers' list is imported; does nothing when called again."""
    if LIST in sys.modules:
        _add_to_list()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _add_to_list() -> None:
    importlib.import_module("tilepress.runtime.quantizer")


class _Finder(MetaPathFinder):
    """Finds the list as it would be found anyway, once, and has it completed after it has been executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != LIST:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _CompletingLoader(spec.loader)
        return spec


class _CompletingLoader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _add_to_list()
