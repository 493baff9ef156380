"""Decoding and multiplication: one table that says which backend runs a codec on a device.

A tensor in main memory runs `cpu` where that backend has the codec, else `reference`; one on a GPU runs `cuda`, else
`reference` there. Nothing moves between devices by itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tilepress.kernels.encoded import DTYPES, PANEL_ROWS, Encoded
from tilepress.kernels.errors import BackendError, CodecError
from tilepress.kernels.registry import CODECS

BLOCK_VALUES = 1 << 20
"""Values that `matmul` decodes at a time: 4 MiB in float32, so that they stay in a core's cache."""

_FLOATS = tuple(DTYPES.values())


@dataclass(frozen=True)
class Backend:
    """Kernels of one codec on one kind of device.

    Attributes:
        name: "reference", "cpu" or "cuda".
        decode: (encoded, rows, columns, dtype) -> [len(rows), len(columns)] of that dtype.
        matmul: (x, encoded, bias, rows) -> [..., len(rows)] in the dtype of x, without gradients; None where blocks of
            decoded rows are multiplied instead.
        encode: (contiguous matrix, params, parts that are given) -> all parts, for matrices of values that the codec
            takes; None where compress/codecs does it.
        weight: encoded -> what a native decoder (kernels/cpu/decoder.py) multiplies by, or None; None where there are
            no such weights.
    """

    name: str
    decode: Callable[[Encoded, range, range, torch.dtype], torch.Tensor]
    matmul: Callable[[torch.Tensor, Encoded, torch.Tensor | None, range], torch.Tensor] | None = None
    encode: Callable[[torch.Tensor, Any, Mapping[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None
    weight: Callable[[Encoded], Any] | None = None


def backend_of(codec: str, device_type: str) -> Backend:
    """The backend that runs `codec` on devices of this type ("cpu", "cuda")."""
    if device_type == "cpu" and codec in _NATIVE:
        return _NATIVE[codec]
    if device_type == "cuda" and codec in _CUDA:
        return _CUDA[codec]
    return _REFERENCE[codec]


def _reference(codec: str) -> Backend:
    def decode(encoded: Encoded, rows: range, columns: range, dtype: torch.dtype) -> torch.Tensor:
        module = importlib.import_module(f"tilepress.kernels.reference.{codec}")
        values: torch.Tensor = module.decode(encoded, rows, columns)
        return values.to(dtype)

    return Backend("reference", decode)


def _native(codec: str) -> Backend:
    module = importlib.import_module(f"tilepress.kernels.cpu.{codec}")
    optional = (getattr(module, name, None) for name in ("matmul", "encode", "weight"))
    return Backend("cpu", module.decode, *optional)


def _cuda(codec: str) -> Backend:
    module = importlib.import_module(f"tilepress.kernels.cuda.{codec}")
    return Backend("cuda", module.decode, getattr(module, "matmul", None))


def _exists(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


# Tables, and no look-up by name at the first call, because torch.compile can follow them.
_REFERENCE: Mapping[str, Backend] = {codec: _reference(codec) for codec in CODECS}
_NATIVE: Mapping[str, Backend] = {
    codec: _native(codec)
    for codec in CODECS
    if _exists("tilepress.kernels._native") and _exists(f"tilepress.kernels.cpu.{codec}")
}
# The operators are defined beside the native kernels. Without CuPy, tensors on a GPU run the reference.
_CUDA: Mapping[str, Backend] = {
    codec: _cuda(codec) for codec in _NATIVE if _exists("cupy") and _exists(f"tilepress.kernels.cuda.{codec}")
}


def require_gpu() -> None:
    """Check, before weights are moved to a GPU, that they can be used there; without CuPy there is a warning.

    Raises:
        BackendError: PyTorch finds no GPU, or CuPy can't use it.
    """
    if not torch.cuda.is_available():
        raise BackendError("the device cuda is asked for, but PyTorch finds no GPU: it needs a driver and a CUDA build")
    if _CUDA:
        importlib.import_module("tilepress.kernels.cuda.launch").launcher(torch.device("cuda"))
    else:
        warnings.warn(
            "the cuda backend needs CuPy: pip install tilepress[cuda12], or [cuda13]; "
            "until then a GPU runs the reference, which is slow",
            stacklevel=2,
        )


def table() -> list[tuple[str, str, str]]:
    """(codec, device type, backend) for every codec, as `tilepress doctor` prints it."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return [(codec, device, backend_of(codec, device).name) for codec in CODECS for device in devices]


def decode(
    encoded: Encoded,
    rows: slice | None = None,
    columns: slice | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Dense values of an encoded tensor, or of a range of it; only the panels and tiles of the range are decoded.

    Args:
        encoded: the tensor.
        rows: a slice (step 1) of the matrix's rows; of a stack of matrices, rows of the tall matrix.
        columns: a slice (step 1) of its columns.
        dtype: of the result; the dtype of the tensor that was encoded when left out.

    Returns:
        The tensor in its own shape, or a matrix [rows, columns] when a range was asked for.

    Raises:
        CodecError: a slice with a step, or parts that are damaged.
    """
    row_range, column_range = _range(rows, encoded.rows), _range(columns, encoded.columns)
    dtype = dtype or encoded.dtype
    if len(row_range) and len(column_range):
        values = backend_of(encoded.codec, encoded.device.type).decode(encoded, row_range, column_range, dtype)
    else:
        values = torch.empty(len(row_range), len(column_range), dtype=dtype, device=encoded.device)
    return values.reshape(encoded.shape) if rows is None and columns is None else values


def matmul(
    x: torch.Tensor, encoded: Encoded, bias: torch.Tensor | None = None, rows: slice | None = None
) -> torch.Tensor:
    """`x @ weight.T + bias`, where at most a block of rows of the weight is dense at any time.

    Args:
        x: [..., columns], float32, float16 or bfloat16, on the device of the parts.
        encoded: the weight, [rows, columns].
        bias: [rows], added to the result.
        rows: multiply by these rows of the weight only (step 1).

    Returns:
        [..., rows] in the dtype of `x`.

    Raises:
        CodecError: shapes that don't match, or parts that are damaged.
    """
    if x.shape[-1] != encoded.columns:
        raise CodecError(f"x has {x.shape[-1]} columns, the weight {encoded.columns}")
    row_range = _range(rows, encoded.rows)
    kernel = backend_of(encoded.codec, x.device.type).matmul
    needs_gradient = torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))
    if kernel is not None and x.dtype in _FLOATS and not needs_gradient:
        return kernel(x, encoded, bias, row_range)
    y = x.new_empty(*x.shape[:-1], len(row_range))
    together = max(PANEL_ROWS, encoded.params.rows_together(encoded.shape))
    step = max(1, BLOCK_VALUES // max(1, encoded.columns) // together) * together
    for first in range(row_range.start, row_range.stop, step):
        block = slice(first, min(first + step, row_range.stop))
        weight = decode(encoded, block, dtype=x.dtype)
        y[..., block.start - row_range.start : block.stop - row_range.start] = x @ weight.T
    return y if bias is None else y + bias


def _range(piece: slice | None, length: int) -> range:
    if piece is None:
        return range(length)
    wanted = range(length)[piece]
    if wanted.step != 1:
        raise CodecError(f"only slices of step 1 can be decoded, not {piece}")
    return wanted
