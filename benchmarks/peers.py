"""What other methods make of a checkpoint's matrices, decoded again, for `frontier.py`.

Each function gives all tensors of a checkpoint as its method leaves them, and its bits per weight with all scales. All
matrices are coded, embeddings and head too, although most peers would leave these in 16 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

from tilepress.compress.calibration.statistics import Statistics
from tilepress.compress.codecs import encode
from tilepress.formats.checkpoint import Checkpoint
from tilepress.kernels import decode

DAMPING = 0.01


@dataclass(frozen=True)
class Made:
    """A model after compression.

    Attributes:
        bits_per_weight: over all tensors of two or more dimensions.
        tensors: name and decoded values, one after the other.
    """

    bits_per_weight: float
    tensors: Iterable[tuple[str, torch.Tensor]]


def gptq(
    checkpoint: Checkpoint, statistics: Mapping[str, Statistics], bits: int, group: int, outside: str | None = None
) -> Made:
    """Frantar et al. 2022, algorithm 1, columns in order, groups symmetric: the largest magnitude is 2^(bits-1) - 1/2.

    What has no statistics, such as embeddings, is rounded to the same integers.

    Args:
        checkpoint: the source.
        statistics: tensor -> second moments of its inputs.
        bits: of a code.
        group: columns that share a scale in float16.
        outside: codec spec for embeddings and head instead.
    """
    rounded = outside or f"int:bits={bits},group={group}"

    def code(name: str, weight: torch.Tensor) -> torch.Tensor:
        is_block = ".layers." in name
        if name in statistics and (outside is None or is_block):
            return gptq_matrix(weight.float(), statistics[name].moments, bits, group)
        return decode(encode(weight, rounded)).float()

    def bits_of(name: str) -> float:
        return bits + 16 / group if outside is None or ".layers." in name else _spec_bits(checkpoint, name, rounded)

    return _made(checkpoint, code, bits_of)


def gptq_matrix(weight: torch.Tensor, moments: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """One matrix, column by column."""
    weight, columns = weight.clone(), weight.shape[1]
    damped = moments.double()
    damped = damped + DAMPING * damped.diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True).float()
    coded, half = torch.empty_like(weight), 2 ** (bits - 1)
    scale = torch.ones(len(weight))
    for first in range(0, columns, group):
        last = min(first + group, columns)
        errors = torch.empty(len(weight), last - first)
        scale = (weight[:, first:last].abs().amax(1) / (half - 0.5)).half().float().clamp_(min=1e-8)
        for j in range(first, last):
            coded[:, j] = scale * (weight[:, j] / scale).round().clamp(-half, half - 1)
            errors[:, j - first] = (weight[:, j] - coded[:, j]) / upper[j, j]
            weight[:, j + 1 : last] -= errors[:, j - first, None] * upper[j, j + 1 : last]
        weight[:, last:] -= errors @ upper[first:last, last:]
    return coded


def bitsandbytes_nf4(checkpoint: Checkpoint) -> Made:
    """NF4 of bitsandbytes, blocks of 64, scales in 8 bits again."""
    from bitsandbytes import functional

    def code(name: str, weight: torch.Tensor) -> torch.Tensor:
        packed, state = functional.quantize_4bit(
            weight.float(), blocksize=64, quant_type="nf4", compress_statistics=True
        )
        decoded: torch.Tensor = functional.dequantize_4bit(packed, state)
        return decoded

    return _made(checkpoint, code, lambda name: 4 + 8 / 64 + 32 / (64 * 256))


def hqq(checkpoint: Checkpoint, bits: int, group: int) -> Made:
    """HQQ, scale and zero point in float16."""
    from hqq.core.quantize import Quantizer

    def code(name: str, weight: torch.Tensor) -> torch.Tensor:
        packed, meta = Quantizer.quantize(
            weight.float(), nbits=bits, group_size=group, axis=1, device="cpu", compute_dtype=torch.float32
        )
        for name in ("scale", "zero"):
            meta[name] = meta[name].half().float()
        decoded: torch.Tensor = Quantizer.dequantize(packed, meta)
        return decoded.reshape(weight.shape)

    return _made(checkpoint, code, lambda name: bits + 32 / group)


def _made(
    checkpoint: Checkpoint, code: Callable[[str, torch.Tensor], torch.Tensor], bits_of: Callable[[str], float]
) -> Made:
    matrices = {name: math.prod(info.shape) for name, info in checkpoint.infos.items() if len(info.shape) >= 2}
    bits = sum(bits_of(name) * count for name, count in matrices.items()) / sum(matrices.values())

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for name in checkpoint.infos:
            value = checkpoint.tensor(name)
            yield name, code(name, value) if name in matrices else value

    return Made(bits, tensors())


def _spec_bits(checkpoint: Checkpoint, name: str, spec: str) -> float:
    sample = checkpoint.tensor(name)[:64]
    encoded = encode(sample, spec)
    return 8 * encoded.size_bytes / sample.numel()
