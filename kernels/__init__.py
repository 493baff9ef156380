"""The arithmetic: what parts mean, and decoding and multiplication from them. Knows arrays, never files or models."""

# Where the repository's root is on the path, Transformers takes this folder for the package `kernels` that it can use,
# and imports it to ask for a version. It must find nothing then, least of all an import of Transformers itself.
if __name__ == "tilepress.kernels":
    from tilepress.kernels.dispatch import backend_of, decode, matmul, require_gpu, table
    from tilepress.kernels.encoded import DTYPES, PANEL_ROWS, Encoded, dtype_name, matrix_shape
    from tilepress.kernels.errors import BackendError, CodecError, FormatError, RecipeError, TilepressError
    from tilepress.kernels.params import Params, PartSpec
    from tilepress.kernels.registry import CODECS, params_type, parse_spec

__all__ = [
    "CODECS",
    "DTYPES",
    "PANEL_ROWS",
    "BackendError",
    "CodecError",
    "Encoded",
    "FormatError",
    "Params",
    "PartSpec",
    "RecipeError",
    "TilepressError",
    "backend_of",
    "decode",
    "dtype_name",
    "matmul",
    "matrix_shape",
    "params_type",
    "parse_spec",
    "require_gpu",
    "table",
]
