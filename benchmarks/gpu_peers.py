"""What other packages make of a weight on a GPU, for `gpu.py`.

A peer takes the dense weight, [rows, columns], and where its codes shall lie, and raises ImportError where its package
is not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

GROUP = 64


@dataclass(frozen=True)
class Peer:
    """A weight in a package's form.

    Attributes:
        name: of the package and its format.
        weight_bytes: codes, scales and zero points.
        make: a new copy.
        multiply: x in bfloat16 and a copy -> the product.
    """

    name: str
    weight_bytes: int
    make: Callable[[], Any]
    multiply: Callable[[torch.Tensor, Any], torch.Tensor]


def bitsandbytes(weight: torch.Tensor, device: str = "cuda") -> Peer:
    """NF4 in blocks of 64, scales in float32."""
    import bitsandbytes as package
    from bitsandbytes import functional

    dense = weight.bfloat16().to(device)

    def make() -> Any:
        return functional.quantize_4bit(dense, blocksize=GROUP, quant_type="nf4")

    def multiply(x: torch.Tensor, made: Any) -> torch.Tensor:
        packed, state = made
        product: torch.Tensor = package.matmul_4bit(x, packed.t(), quant_state=state)
        return product

    return Peer("bitsandbytes nf4", weight.numel() // 2 + weight.numel() // GROUP * 4, make, multiply)


def torchao(weight: torch.Tensor, device: str = "cuda") -> Peer:
    """Integers of 4 bits in groups of 64, scales and zero points in bfloat16, for PyTorch's own kernel.

    Its default layout needs a third package.
    """
    from torchao.quantization import Int4WeightOnlyConfig, quantize_

    def make() -> Any:
        layer = _linear(weight, device)
        quantize_(layer, Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d"))
        return layer

    return Peer("torchao int4", weight.numel() // 2 + weight.numel() // GROUP * 4, make, _call)


def hqq(weight: torch.Tensor, device: str = "cuda") -> Peer:
    """Integers of 4 bits in groups of 64, scales and zero points in bfloat16; decoded, then multiplied by PyTorch."""
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    def make() -> Any:
        config = BaseQuantizeConfig(nbits=4, group_size=GROUP)
        return HQQLinear(_linear(weight, device), config, compute_dtype=torch.bfloat16, device=device)

    return Peer("hqq int4", weight.numel() // 2 + weight.numel() // GROUP * 4, make, _call)


PEERS: tuple[Callable[..., Peer], ...] = (bitsandbytes, torchao, hqq)


def _linear(weight: torch.Tensor, device: str) -> torch.nn.Linear:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=device, dtype=torch.bfloat16)
    layer.weight.copy_(weight)
    return layer


def _call(x: torch.Tensor, layer: Any) -> torch.Tensor:
    product: torch.Tensor = layer(x)
    return product
