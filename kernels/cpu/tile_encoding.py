"""Native encoding into fixed-rate tiles: the same parts, bit for bit, as the definitions in compress/codecs give."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from tilepress.kernels import _native
from tilepress.kernels.cpu.buffers import DTYPE_NAMES, buffer
from tilepress.kernels.cpu.instruction_set import instruction_set
from tilepress.kernels.cpu.tiles import Parts, TileCode, native_parts
from tilepress.kernels.params import Params


def largest_magnitude(matrix: torch.Tensor) -> float:
    """Largest magnitude in a contiguous float32, float16 or bfloat16 tensor; NaN where there is one, 0 of nothing."""
    return _native.tile_encoders_largest(
        instruction_set(), buffer(matrix), DTYPE_NAMES[matrix.dtype], torch.get_num_threads()
    )


def encode(
    matrix: torch.Tensor, params: Params, code: TileCode, of_tensor: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Parts of a matrix.

    Args:
        matrix: contiguous, float32, float16 or bfloat16; finite, magnitudes of at most 2^126.
        params: of the codec.
        code: what the tiles shall hold.
        of_tensor: parts that are given: the global scale of `nvfp4`.
    """
    parts = {
        name: of_tensor[name] if name in of_tensor else torch.zeros(spec.shape, dtype=spec.dtype)
        for name, spec in params.part_specs(tuple(matrix.shape), matrix.dtype).items()
    }
    target = Parts(parts["codes"], parts["scales"], parts.get("zero_points"), parts.get("global_scale"))
    _native.tile_encoders_encode(
        instruction_set(),
        native_parts(target, code, matrix.shape[1]),
        buffer(matrix),
        matrix.shape[0],
        DTYPE_NAMES[matrix.dtype],
        torch.get_num_threads(),
    )
    return parts
