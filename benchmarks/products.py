"""What `kernels.py` compares: a weight as one library stores it, and its product with rows of x.

Every function takes a float32 weight [rows, columns], whose columns are a multiple of 64 and rows of 16.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch

from tilepress.compress.codecs import encode
from tilepress.kernels import matmul
from tilepress.kernels.cpu.tiles import decode_into

GROUP = 64


class Stored(NamedTuple):
    """A weight in one format.

    Attributes:
        name: codec spec, or library and format.
        code_bytes: of the codes, without scales.
        multiply: x, bfloat16 [vectors, columns] -> bfloat16 [vectors, rows].
        decode: writes the weight to a bfloat16 tensor that is there already; None where the library doesn't.
    """

    name: str
    code_bytes: int
    multiply: Callable[[torch.Tensor], torch.Tensor]
    decode: Callable[[torch.Tensor], None] | None = None


Store = Callable[[torch.Tensor], Stored]


def dense(weight: torch.Tensor) -> Stored:
    """The weight in bfloat16, for PyTorch's `F.linear`."""
    values = weight.bfloat16()
    return Stored("dense bfloat16", values.nbytes, lambda x: torch.nn.functional.linear(x, values))


def tiles(spec: str, weight: torch.Tensor) -> Stored:
    """Fixed-rate tiles of a codec spec."""
    encoded = encode(weight, spec)
    code = importlib.import_module(f"tilepress.kernels.cpu.{encoded.codec}").CODEC.code_of(encoded.params)
    rows, columns = range(encoded.rows), range(encoded.columns)
    return Stored(
        spec,
        encoded.parts["codes"].nbytes,
        lambda x: matmul(x, encoded),
        lambda target: decode_into(target, encoded, code, rows, columns),
    )


def pytorch_int4(weight: torch.Tensor) -> Stored:
    """PyTorch's own operator behind torchao's weight-only int4: unsigned codes, scale and zero in bfloat16."""
    rows, columns = weight.shape
    groups = weight.view(rows, columns // GROUP, GROUP)
    low = groups.amin(-1)
    scale = ((groups.amax(-1) - low) / 15).clamp_(min=1e-8)
    codes = ((groups - low[..., None]) / scale[..., None]).round_().clamp_(0, 15).to(torch.int32)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.view(rows, columns), 1)
    # A code stands for (code - 8) * scale + zero.
    scales = torch.stack([scale, low + 8 * scale], -1).transpose(0, 1).contiguous().bfloat16()
    return Stored(
        f"PyTorch int4, group {GROUP}",
        packed.nbytes,
        lambda x: torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, GROUP, scales),
    )


def pytorch_int8(weight: torch.Tensor) -> Stored:
    """PyTorch's own operator behind torchao's weight-only int8: one scale a row."""
    scale = (weight.abs().amax(1) / 127).clamp_(min=1e-8)
    codes, scales = (weight / scale[:, None]).round_().to(torch.int8), scale.bfloat16()
    return Stored("PyTorch int8", codes.nbytes, lambda x: torch.ops.aten._weight_int8pack_mm(x, codes, scales))


def bitsandbytes_nf4(weight: torch.Tensor) -> Stored:
    """NF4 of bitsandbytes, blocks of 64."""
    import bitsandbytes

    packed, state = bitsandbytes.functional.quantize_4bit(weight.bfloat16(), blocksize=GROUP, quant_type="nf4")
    return Stored(
        f"bitsandbytes {bitsandbytes.__version__} nf4",
        packed.nbytes,
        lambda x: bitsandbytes.matmul_4bit(x, packed.t(), state),
    )


def contenders(specs: Iterable[str]) -> list[Store]:
    """The dense weight, codec specs, and peers that are installed."""
    stores: list[Store] = [dense, *(partial(tiles, spec) for spec in specs), pytorch_int4, pytorch_int8]
    if importlib.util.find_spec("bitsandbytes") is not None:
        stores.append(bitsandbytes_nf4)
    return stores
