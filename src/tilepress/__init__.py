"""tilepress makes Transformer checkpoints smaller and runs them while they stay small.

Importing it registers the container with Transformers, so that `from_pretrained` reads compressed checkpoints. Public
names are imported when they are first asked for, since PyTorch and Transformers take seconds.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tilepress.runtime.registration import register

if TYPE_CHECKING:
    from tilepress.compress.codecs import encode
    from tilepress.compress.decompress import decompress
    from tilepress.conversion import compress
    from tilepress.kernels import (
        BackendError,
        CodecError,
        Encoded,
        FormatError,
        RecipeError,
        TilepressError,
        decode,
        matmul,
    )
    from tilepress.runtime.comparison import compare
    from tilepress.runtime.kv_cache import TilepressCache
    from tilepress.runtime.kv_generation import use_kv
    from tilepress.runtime.loading import load

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "CodecError",
    "Encoded",
    "FormatError",
    "RecipeError",
    "TilepressCache",
    "TilepressError",
    "__version__",
    "compare",
    "compress",
    "decode",
    "decompress",
    "encode",
    "load",
    "matmul",
    "use_kv",
]

_HOMES = {
    "TilepressCache": "tilepress.runtime.kv_cache",
    "compare": "tilepress.runtime.comparison",
    "compress": "tilepress.conversion",
    "decompress": "tilepress.compress.decompress",
    "encode": "tilepress.compress.codecs",
    "load": "tilepress.runtime.loading",
    "use_kv": "tilepress.runtime.kv_generation",
}
"""Modules of the names that are not in `tilepress.kernels`."""


class _Package(ModuleType):
    """This package. `compress` is a function of it and also a room, which importing would put in the function's place."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name == "compress" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOMES.get(name, "tilepress.kernels")), name)
        super().__setattr__(name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
register()
