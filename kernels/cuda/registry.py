"""Every kernel that there is, with what its launch needs: for CuPy, and for the tests that compile and emulate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch

from tilepress.kernels.cpu.tiles import TileCode
from tilepress.kernels.errors import CodecError
from tilepress.kernels.layout.kv import MOST_CHANNELS
from tilepress.kernels.layout.lossless import PLANE_WIDTHS
from tilepress.kernels.layout.rotation import MOST_POWER
from tilepress.kernels.layout.zfp import BLOCK

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
"""GPUs for which every kernel is compiled in the tests. Others compile for themselves when a kernel is first used."""

OPTIONS = ("-std=c++17",)
"""What NVRTC takes beside the architecture. CuPy adds those of `CUPY_OPTIONS`."""

CUPY_OPTIONS = ("-ftz=true", "--device-as-default-execution-space")

THREADS = 256
STRIP_TILES = 16
"""Tiles that a block of `tiles_decode` decodes."""

MOST_GRID_Y = 65535
"""Blocks of a grid in its second dimension."""

MOST_VECTORS = 8
"""Rows of x that `tiles_multiply` and `trellis_multiply` take."""

MOST_PAIRED = 4
"""Rows of x of which `trellis_multiply` takes both parts at once."""

TRELLIS_BITS = range(1, 9)
FULL_WINDOW = 16
"""Bits of the longest window, which has kernels of its own."""

HALF_DTYPES = (torch.float16, torch.bfloat16)
"""Of x, with which `tiles_multiply_many` and `trellis_multiply_many` multiply more rows than that."""

BLOCK_PANELS = 8
"""Panels of a block of these two."""

TILES_BLOCK_VECTORS, TRELLIS_BLOCK_VECTORS = 64, 128
"""Rows of x of a block of each."""

WARPS = THREADS // 32
STAGES, STAGE_TILES = 4, 4
"""Stages of a ring of codes in shared memory, and tiles of a stage where the kernel does not say otherwise."""

RANS_BYTES = 4 * 256
"""Shared memory of a rANS model: a word for each of its slots."""

SIDE_LINES = {"Columns": 1, "Rows": 8}
"""Sides of a matrix that are rotated, and lines of each that a block of the rotation has side by side."""

_SHARED_VALUES = {"Columns": MOST_POWER, "Rows": 4 * MOST_POWER}

KV_CODES = {("int", 8): "Integer<8>", ("int", 4): "Integer<4>", ("int", 2): "Integer<2>", ("fp8", 8): "E4m3"}
"""Codecs of KV caches and their bits, and the codes of their tiles."""

KV_SLICE_CHANNELS = 128
"""Channels of values that a block of attention has."""

KV_FEW_ROWS, KV_MANY_ROWS = 8, 64
"""Rows of queries that share the codes of a block of `attention_few` and of `attention_many`."""

KV_PASS_TOKENS = 64
"""Tokens that are attended to at a time, by a warp or by a block."""

KV_WARPS = 4
"""Of a block of attention."""

DTYPE_TYPES = {torch.float32: "Float32", torch.float16: "Float16", torch.bfloat16: "Bfloat16"}
_SCALE_TYPES = {"bfloat16": "Bfloat16Scale", "e8m0": "E8m0Scale", "e4m3": "E4m3Scale"}
_CODE_TYPES = {"nf4": "Nf4", "e4m3": "E4m3", "e5m2": "E5m2", "e2m1": "E2m1"}

TILE_CODES = (
    *(TileCode("int", bits, 0) for bits in range(2, 9)),
    TileCode("nf4", 4, 0),
    TileCode("e4m3", 8, 0),
    TileCode("e5m2", 8, 0),
    TileCode("e2m1", 4, 0, "e8m0"),
    TileCode("e2m1", 4, 0, "e4m3"),
)
"""The codes of tiles. Kernels do not depend on the group."""


@dataclass(frozen=True)
class Kernel:
    """One instantiation of a template.

    Attributes:
        source: file in kernels/cuda.
        template: its name there.
        arguments: its template arguments.
        threads: of a block.
        shared_bytes: shared memory of a block; all of it is dynamic.
        registers: the most that a thread may take on any architecture.
    """

    source: str
    template: str
    arguments: tuple[str, ...]
    threads: int
    shared_bytes: int
    registers: int

    @property
    def label(self) -> str:
        """The name without namespaces, as documents write it."""
        return f"{self.template}<{', '.join(self.arguments)}>"

    @property
    def expression(self) -> str:
        """The name as C++ has it."""
        return f"tilepress::{self.template}<{', '.join(f'tilepress::{argument}' for argument in self.arguments)}>"


def tiles_decode(code: TileCode, dtype: torch.dtype) -> Kernel:
    """Dense values of `dtype`."""
    arguments = (*_types_of(code), DTYPE_TYPES[dtype])
    shared_bytes = STRIP_TILES * (32 * code.bits + 16) + 64
    return Kernel("tiles_decode.cu", "tiles_decode", arguments, THREADS, shared_bytes, 64)


def tiles_multiply(code: TileCode, dtype: torch.dtype) -> Kernel:
    """Products with x of `dtype`."""
    shared_bytes = WARPS * STAGES * STAGE_TILES * 32 * code.bits + 128
    arguments = (*_types_of(code), DTYPE_TYPES[dtype])
    return Kernel("tiles_multiply.cu", "tiles_multiply", arguments, THREADS, shared_bytes, 64)


def tiles_multiply_many(code: TileCode, dtype: torch.dtype) -> Kernel:
    """Products with many rows of x of `dtype`."""
    shared_bytes = _many_bytes(code.bits, TILES_BLOCK_VECTORS) + 64
    arguments = (*_types_of(code), DTYPE_TYPES[dtype])
    return Kernel("tiles_multiply_many.cu", "tiles_multiply_many", arguments, THREADS, shared_bytes, 128)


def add_splits(dtype: torch.dtype) -> Kernel:
    """Sums of the splits of a product, in `dtype`."""
    return Kernel("add_splits.cu", "add_splits", (DTYPE_TYPES[dtype],), THREADS, 0, 64)


def trellis_decode(bits: int, dtype: torch.dtype) -> Kernel:
    """Rotated values of `dtype`."""
    return Kernel("trellis_decode.cu", "trellis_decode", (f"Bits<{bits}>", DTYPE_TYPES[dtype]), THREADS, 0, 64)


def trellis_prepare() -> Kernel:
    """Rotated x as the products take it."""
    return Kernel("trellis_multiply.cu", "trellis_prepare", ("Float32",), THREADS, 4 * WARPS, 64)


def trellis_multiply(bits: int, window: int, count: int) -> Kernel:
    """Products with `count` rows of x in the rotated basis."""
    shared_bytes = WARPS * STAGES * trellis_stage_tiles(bits) * 32 * bits
    arguments = (f"Bits<{bits}>", _window_type(window), f"Sets<{1 if count <= MOST_PAIRED else 2}>")
    return Kernel("trellis_multiply.cu", "trellis_multiply", arguments, THREADS, shared_bytes, 64)


def trellis_stage_tiles(bits: int) -> int:
    """Tiles of a stage of `trellis_multiply`."""
    return 8 if bits <= 4 else 4


def trellis_prepare_many() -> Kernel:
    """Many rows of rotated x as the products take them."""
    return Kernel("trellis_multiply_many.cu", "trellis_prepare_many", ("Float32",), THREADS, 4 * WARPS, 64)


def trellis_multiply_many(bits: int, window: int) -> Kernel:
    """Products with many rows of x in the rotated basis."""
    shared_bytes = _many_bytes(bits, TRELLIS_BLOCK_VECTORS)
    arguments = (f"Bits<{bits}>", _window_type(window))
    return Kernel("trellis_multiply_many.cu", "trellis_multiply_many", arguments, THREADS, shared_bytes, 128)


def walsh_hadamard(side: str, dtype: torch.dtype) -> Kernel:
    """The power of two of a rotation, and its signs, of values of `dtype`."""
    arguments = side, DTYPE_TYPES[dtype]
    return Kernel("rotation.cu", "walsh_hadamard", arguments, THREADS, 4 * _SHARED_VALUES[side], 64)


def hartley(side: str) -> Kernel:
    """The odd factor of a rotation."""
    return Kernel("rotation.cu", "hartley", (side,), THREADS, 0, 64)


def lines_together(side: str, power: int) -> int:
    """Lines that a block of `walsh_hadamard` takes."""
    return min(SIDE_LINES[side], _SHARED_VALUES[side] // power)


def lossless_decode(source: torch.dtype, dtype: torch.dtype) -> Kernel:
    """Dense values of `dtype` of a tensor of the dtype `source`."""
    arguments = f"{DTYPE_TYPES[source]}Planes", DTYPE_TYPES[dtype]
    shared_bytes = RANS_BYTES * len(PLANE_WIDTHS[source])
    return Kernel("lossless_decode.cu", "lossless_decode", arguments, THREADS, shared_bytes, 128)


def lossless_multiply(source: torch.dtype, dtype: torch.dtype) -> Kernel:
    """Products of x of `dtype` with a weight of the dtype `source`."""
    arguments = f"{DTYPE_TYPES[source]}Planes", DTYPE_TYPES[dtype]
    shared_bytes = RANS_BYTES * len(PLANE_WIDTHS[source])
    return Kernel("lossless_multiply.cu", "lossless_multiply", arguments, THREADS, shared_bytes, 128)


def sz_high_parts(source: torch.dtype) -> Kernel:
    """The high parts of residuals of a tensor of the dtype `source`."""
    return Kernel("sz_decode.cu", "sz_high_parts", (DTYPE_TYPES[source],), THREADS, RANS_BYTES, 64)


def sz_values(source: torch.dtype, dtype: torch.dtype) -> Kernel:
    """Dense values of `dtype` from the high parts of a tensor of the dtype `source`."""
    arguments = DTYPE_TYPES[source], DTYPE_TYPES[dtype]
    return Kernel("sz_decode.cu", "sz_values", arguments, THREADS, 2 * 4 * WARPS, 96)


def zfp_decode_fixed(dtype: torch.dtype) -> Kernel:
    """Dense values of `dtype` of panels at fixed rate."""
    return Kernel("zfp_decode.cu", "zfp_decode_fixed", (DTYPE_TYPES[dtype],), THREADS, 0, 96)


def zfp_decode_variable(dtype: torch.dtype) -> Kernel:
    """Dense values of `dtype` of panels in the other modes."""
    return Kernel("zfp_decode.cu", "zfp_decode_variable", (DTYPE_TYPES[dtype],), THREADS, 0, 96)


def zfp_multiply(dtype: torch.dtype) -> Kernel:
    """Products of x of `dtype` with panels at fixed rate."""
    shared_bytes = 4 * WARPS * MOST_VECTORS * BLOCK
    return Kernel("zfp_multiply.cu", "zfp_multiply", (DTYPE_TYPES[dtype],), THREADS, shared_bytes, 128)


def attention_few(codec: str, bits: int, dtype: torch.dtype) -> Kernel:
    """Attention of a few queries of `dtype` over a cache of this codec."""
    fields, slice_blocks = 8 // bits, KV_SLICE_CHANNELS // 16
    stages, blocks = (4, 4) if bits == 8 else (8, 2)
    ring = stages * (256 * blocks + 64 * max(4 if bits == 8 else 1, fields))
    weights, queries = 4 * KV_FEW_ROWS * (KV_PASS_TOKENS + 8), 4 * KV_FEW_ROWS * (MOST_CHANNELS + 8)
    minima = 4 * 32 * slice_blocks // fields if codec == "int" else 0
    arguments = KV_CODES[codec, bits], DTYPE_TYPES[dtype]
    shared_bytes = KV_WARPS * (ring + weights + minima) + queries
    return Kernel("attention_few.cu", "attention_few", arguments, 32 * KV_WARPS, shared_bytes, 168)


def attention_many(codec: str, bits: int, dtype: torch.dtype) -> Kernel:
    """Attention of many queries of `dtype`, of 16 bits, over a cache of this codec."""
    keys, values = KV_SLICE_CHANNELS * (KV_PASS_TOKENS + 8), KV_PASS_TOKENS * (KV_SLICE_CHANNELS + 8)
    arguments = KV_CODES[codec, bits], DTYPE_TYPES[dtype]
    return Kernel("attention_many.cu", "attention_many", arguments, 32 * KV_WARPS, 2 * (keys + values), 255)


def attention_merge(dtype: torch.dtype) -> Kernel:
    """The end of attention whose tokens were split, in `dtype`."""
    return Kernel("attention_merge.cu", "attention_merge", (DTYPE_TYPES[dtype],), 32 * KV_WARPS, 0, 64)


def kernels() -> Iterator[Kernel]:
    """All of them."""
    for code, dtype in product(TILE_CODES, DTYPE_TYPES):
        yield tiles_decode(code, dtype)
        yield tiles_multiply(code, dtype)
    for code, dtype in product(TILE_CODES, HALF_DTYPES):
        yield tiles_multiply_many(code, dtype)
    yield from map(add_splits, DTYPE_TYPES)
    for bits in TRELLIS_BITS:
        yield from (trellis_decode(bits, dtype) for dtype in DTYPE_TYPES)
        for window in (12, FULL_WINDOW):
            yield from (trellis_multiply(bits, window, count) for count in (1, MOST_VECTORS))
            yield trellis_multiply_many(bits, window)
    yield from (trellis_prepare(), trellis_prepare_many())
    yield from (walsh_hadamard("Columns", dtype) for dtype in DTYPE_TYPES)
    yield from (walsh_hadamard("Rows", torch.float32), *map(hartley, SIDE_LINES))
    for source, dtype in product(DTYPE_TYPES, DTYPE_TYPES):
        yield lossless_decode(source, dtype)
        yield lossless_multiply(source, dtype)
        yield sz_values(source, dtype)
    yield from map(sz_high_parts, DTYPE_TYPES)
    for dtype in DTYPE_TYPES:
        yield from (zfp_decode_fixed(dtype), zfp_decode_variable(dtype), zfp_multiply(dtype))
    for (codec, bits), dtype in product(KV_CODES, DTYPE_TYPES):
        yield attention_few(codec, bits, dtype)
        if dtype in HALF_DTYPES:
            yield attention_many(codec, bits, dtype)
    yield from map(attention_merge, DTYPE_TYPES)


def _window_type(window: int) -> str:
    """C++'s type of a window; shorter ones than the full one share theirs."""
    return f"Window<{window if window == FULL_WINDOW else 0}>"


def _many_bytes(bits: int, block_vectors: int) -> int:
    """Shared memory for the stages of a product with many rows of x."""
    return STAGES * STAGE_TILES * (BLOCK_PANELS * 32 * bits + block_vectors * 32)


def _types_of(code: TileCode) -> tuple[str, str]:
    """C++'s types of a code and its scales."""
    known = any(code._replace(group=0) == one for one in TILE_CODES)
    if not known:
        raise CodecError(f"there are no {code.name} codes of {code.bits} bits with {code.scale_format} scales")
    return _CODE_TYPES.get(code.name, f"Integer<{code.bits}>"), _SCALE_TYPES[code.scale_format]
