"""What kernels are tried on, wherever they run, and what they have to give."""

from __future__ import annotations

import importlib

import numpy as np
import torch

from tilepress.compress.codecs import encode
from tilepress.kernels import DTYPES, Encoded
from tilepress.kernels.cpu.tiles import TileCode
from tilepress.kernels.cuda.registry import Kernel

DTYPE_LIST = tuple(DTYPES.values())

TILE_SPECS = (
    *(f"int:bits={bits},group=64" for bits in range(2, 9)),
    *(f"int:bits={bits},group=16,symmetric=false" for bits in (3, 4, 8)),
    "int:bits=5,group=48",
    "int:bits=4,group=0",
    "nf4",
    "nf4:group=16",
    "fp8",
    "fp8:format=e5m2,group=32",
    "mxfp4",
    "nvfp4",
)
"""Every code of tiles, with groups of one tile, of several, and of a whole row."""

TRELLIS_SPECS = (
    *(f"trellis:bits={bits},window=12,effort=fast" for bits in (1, 2, 3, 4, 6, 8)),
    "trellis:bits=4,window=16,rotate=columns,effort=fast",
    "trellis:bits=3,window=14,rotate=none,effort=fast",
)

SHAPES = ((1, 1), (16, 16), (17, 33), (40, 576), (31, 101))
MORE_SHAPES = ((1, 40), (40, 1), (3, 5, 24), (50,), (16, 1536), (130, 255), (67, 1000))


def values(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Numbers like those of weights, always the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul_(0.05).to(dtype)


def tiny_values(shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers whose products with a code are mostly subnormal in float32."""
    return values(shape) * 2.0**-124


def code_of(encoded: Encoded) -> TileCode:
    """What the tiles of a tensor hold."""
    code: TileCode = importlib.import_module(f"tilepress.kernels.cpu.{encoded.codec}").CODEC.code_of(encoded.params)
    return code


def with_random_parts(encoded: Encoded, seed: int) -> Encoded:
    """The same tensor with any bytes in its parts: NaN, infinities, subnormal scales, zero points out of range."""
    generator = torch.Generator().manual_seed(seed)
    parts = {
        name: torch.randint(0, 256, (part.nbytes,), dtype=torch.uint8, generator=generator)
        .view(part.dtype)
        .view(part.shape)
        for name, part in encoded.parts.items()
    }
    return Encoded(encoded.params, encoded.shape, encoded.dtype, parts)


def any_bits(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Values of any bits: NaN, infinities, subnormal numbers."""
    words = np.random.default_rng(0).integers(0, 2 ** (8 * dtype.itemsize), shape, f"u{dtype.itemsize}")
    return torch.from_numpy(words.view(f"i{dtype.itemsize}")).view(dtype)


def with_parts(encoded: Encoded, **parts: torch.Tensor) -> Encoded:
    """The same tensor with some of its parts replaced."""
    return Encoded(encoded.params, encoded.shape, encoded.dtype, {**encoded.parts, **parts})


def spoilt_parts(part: torch.Tensor) -> list[torch.Tensor]:
    """A part of any length that is too short, of another dtype or rank, or with gaps."""
    return [part[:-9], part.to(torch.int16), part[None], torch.stack([part, part], -1)[:, 0]]


def with_some_bytes_changed(encoded: Encoded, names: tuple[str, ...], most: int, seed: int) -> Encoded:
    """The same tensor with a few of the first `most` bytes of some parts changed."""
    generator, spoilt = torch.Generator().manual_seed(seed), {}
    for name in names:
        spoilt[name] = encoded.parts[name].clone()
        places = torch.randint(0, min(most, len(spoilt[name])), (4,), generator=generator)
        spoilt[name][places] = torch.randint(0, 256, (4,), generator=generator).to(torch.uint8)
    return with_parts(encoded, **spoilt)


def reference(
    encoded: Encoded, dtype: torch.dtype, rows: range | None = None, columns: range | None = None
) -> torch.Tensor:
    """What the reference decodes, as a matrix."""
    rows = range(encoded.rows) if rows is None else rows
    columns = range(encoded.columns) if columns is None else columns
    module = importlib.import_module(f"tilepress.kernels.reference.{encoded.codec}")
    dense: torch.Tensor = module.decode(encoded, rows, columns)
    return dense.to(dtype)


def are_same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Equal bit for bit, where any NaN is as good as another."""
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return False
    integers = torch.int32 if wanted.dtype == torch.float32 else torch.int16
    same = found.contiguous().view(integers) == wanted.contiguous().view(integers)
    return bool((same | (found.isnan() & wanted.isnan())).all())


def excess(
    found: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, before: float
) -> float:
    """By how much the worst value misses x @ weight.T + bias, beyond one rounding and `before` of the terms' sum."""
    wanted = x.double() @ weight.double().T
    terms = x.double().abs() @ weight.double().abs().T
    if bias is not None:
        wanted, terms = wanted + bias.double(), terms + bias.double().abs()
    allowed = torch.finfo(x.dtype).eps * wanted.abs() + before * terms + torch.finfo(x.dtype).tiny
    return float(((found.double() - wanted).abs() - allowed).max())


def some_of(kernels: list[Kernel]) -> list[Kernel]:
    """A third of the kernels: each template with each of its codes, and all dtypes in turns."""
    groups: dict[tuple[str, ...], list[Kernel]] = {}
    for kernel in kernels:
        groups.setdefault((kernel.template, *kernel.arguments[:-1]), []).append(kernel)
    return [group[number % len(group)] for number, group in enumerate(groups.values())]


def encoded_values(spec: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Encoded:
    """`values`, encoded."""
    return encode(values(shape, dtype), spec)
