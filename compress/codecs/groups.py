"""What the fixed-rate encoders share: padding to whole tiles, groups of columns, and scales.

Most scales are stored in bfloat16, which has float32's range: no weight is too large or too small for it. They are
rounded away from zero, so that the largest value of the group never falls outside the codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from tilepress.compress.codecs.panels import as_matrix, require_finite, runs
from tilepress.kernels import CodecError, Encoded, Params
from tilepress.kernels.layout.tiles import TILE, groups
from tilepress.kernels.packing import pack_tiles

LARGEST = 2.0**126
"""Largest magnitude that can be encoded, a quarter of float32's."""


def padded_runs(matrix: torch.Tensor, codec: str) -> Iterator[torch.Tensor]:
    """Runs of panels in float32, filled up with zeros to whole tiles: [rows, columns], multiples of 16.

    Raises:
        CodecError: NaN or infinite values, or such that a rounded scale times a code could become infinite.
    """
    for run in runs(matrix):
        require_finite(run, codec)
        if not run.numel():
            continue
        if run.abs().max() > LARGEST:
            raise CodecError(f"codec {codec} has no code for values beyond {LARGEST:g}; give this tensor another codec")
        rows, columns = run.shape
        yield torch.nn.functional.pad(run.float(), (0, -columns % TILE, 0, -rows % TILE))


def largest_magnitude(weight: torch.Tensor) -> torch.Tensor:
    """Largest magnitude of a tensor, in its dtype; 0 of an empty one."""
    magnitudes = [run.abs().amax() for run in runs(as_matrix(weight)) if run.numel()]
    return torch.stack(magnitudes).amax() if magnitudes else weight.new_zeros(())


def reduce_groups(values: torch.Tensor, group: int, reduce: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Apply `reduce` (over the last dimension) to each row's groups: [rows, columns] -> [rows, groups].

    The columns that a short last group lacks count as zeros.
    """
    columns = values.shape[1]
    width = group or columns
    count = groups(columns, group)
    if columns != count * width:
        values = torch.nn.functional.pad(values, (0, count * width - columns))
    return reduce(values.view(values.shape[0], count, width))


def spread_groups(of_groups: torch.Tensor, group: int, columns: int) -> torch.Tensor:
    """A value a group -> the same value for each of its columns: [rows, groups] -> [rows, columns]."""
    if not group:
        return of_groups.expand(-1, columns)
    return of_groups.repeat_interleave(group, dim=1)[:, :columns]


def round_scale(scale: torch.Tensor) -> torch.Tensor:
    """float32 scales -> bfloat16, rounded away from zero."""
    rounded = scale.bfloat16()
    short = rounded.float().abs() < scale.abs()
    bits = rounded.view(torch.int16)
    return torch.where(short, bits + 1, bits).view(torch.bfloat16)


def by_panel(of_groups: torch.Tensor) -> torch.Tensor:
    """[rows, groups] -> [panels, groups, 16], the order in which scales are stored."""
    rows, count = of_groups.shape
    return of_groups.view(rows // TILE, TILE, count).permute(0, 2, 1).contiguous()


def divide(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """values / scale, and 0 where the scale is 0."""
    return torch.where(scale == 0, torch.zeros((), dtype=values.dtype), values / scale)


def encode_tiles(
    weight: torch.Tensor,
    params: Params,
    bits: int,
    encode_run: Callable[[torch.Tensor], tuple[torch.Tensor, Mapping[str, torch.Tensor]]],
    of_tensor: Mapping[str, torch.Tensor] | None = None,
) -> Encoded:
    """Encode run by run and put the parts together; of an empty tensor, the parts are zeros.

    Args:
        weight: the tensor.
        params: of the codec, whose parts are laid out as `layout.tiles` says.
        bits: of a code.
        encode_run: values [rows, columns] -> codes of the same shape, uint8, and the other parts [rows, groups].
        of_tensor: parts that there is one of for the whole tensor.

    Raises:
        CodecError: NaN or infinite values, or a dtype that can't be compressed.
    """
    shape, dtype = tuple(weight.shape), weight.dtype
    specs = params.part_specs(shape, dtype)
    pieces: dict[str, list[torch.Tensor]] = {name: [] for name in specs}
    for values in padded_runs(as_matrix(weight), params.codec):
        codes, of_groups = encode_run(values)
        pieces["codes"].append(pack_tiles(codes, bits))
        for name, part in of_groups.items():
            pieces[name].append(by_panel(part))
    parts = {
        name: torch.cat(pieces[name]) if pieces[name] else torch.zeros(spec.shape, dtype=spec.dtype)
        for name, spec in specs.items()
    }
    parts.update(of_tensor or {})
    return Encoded(params, shape, dtype, parts)
