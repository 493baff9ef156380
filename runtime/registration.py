"""Registers tilepress with Transformers, at no cost for whoever doesn't use Transformers.

Transformers lists methods of quantization in the module `transformers.quantizers.auto`, and kinds of attention in
`transformers.modeling_utils`, where BLOOM does not look. Where such a module is there, tilepress adds its own; where it
is not, as soon as it is imported, so that it matters not which of the two packages comes first.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

ADDITIONS: Mapping[str, str] = {
    "transformers.quantizers.auto": "tilepress.runtime.quantizer",
    "transformers.modeling_utils": "tilepress.runtime.attention",
    "transformers.models.bloom.modeling_bloom": "tilepress.runtime.bloom_attention",
}
"""Modules of Transformers, and those of tilepress that add to them when they are imported."""


def register() -> None:
    """Register now or when Transformers' lists are imported; does nothing when called again."""
    for listing, addition in ADDITIONS.items():
        if listing in sys.modules:
            importlib.import_module(addition)
        elif not any(isinstance(finder, _Finder) and finder.listing == listing for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder(listing))


class _Finder(MetaPathFinder):
    """Finds one list as it would be found anyway, once, and has it completed after it has been executed."""

    def __init__(self, listing: str) -> None:
        self.listing = listing

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.listing:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _CompletingLoader(spec.loader, ADDITIONS[fullname])
        return spec


class _CompletingLoader(Loader):
    def __init__(self, loader: Loader, addition: str) -> None:
        self._loader = loader
        self._addition = addition

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        importlib.import_module(self._addition)
