"""tilepress makes Transformer checkpoints smaller and runs them while they stay small.

Importing it registers the container with Transformers, so that `from_pretrained` reads compressed checkpoints.
"""

from tilepress.compress.codecs import encode
from tilepress.compress.decompress import decompress
from tilepress.compress.pipeline import compress
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
from tilepress.runtime.loading import load

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "CodecError",
    "Encoded",
    "FormatError",
    "RecipeError",
    "TilepressError",
    "__version__",
    "compare",
    "compress",
    "decode",
    "decompress",
    "encode",
    "load",
    "matmul",
]
