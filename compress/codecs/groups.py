"""What the fixed-rate encoders share: padding to whole tiles, groups of columns, and scales.

Most scales are stored in bfloat16, which has float32's range: no weight is too large or too small for it. They are
rounded away from zero, so that the largest value of the group never falls outside the codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from tilepress.compress.codecs.panels import as_matrix, require_finite, runs
from tilepress.kernels import CodecError, Encoded, Params, backend_of
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
        if not run.numel():
            continue
        require_in_range(run.abs().amax(), codec)
        rows, columns = run.shape
        yield torch.nn.functional.pad(run.float(), (0, -columns % TILE, 0, -rows % TILE))


def require_in_range(largest: torch.Tensor, codec: str) -> None:
    """Check a tensor by its largest magnitude.

    Raises:
        CodecError: NaN or infinite values, or such that a rounded scale times a code could become infinite.
    """
    require_finite(largest, codec)
    if largest > LARGEST:
        raise CodecError(f"codec {codec} has no code for values beyond {LARGEST:g}; give this tensor another codec")


def largest_magnitude(weight: torch.Tensor) -> torch.Tensor:
    """Largest magnitude of a tensor, in its dtype; NaN where there is one, 0 of an empty one."""
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
    """Encode on native kernels where there are any, else run by run; of an empty tensor, the parts are zeros.

    `encode_run` is the definition: native kernels give the same parts, bit for bit.

    Args:
        weight: the tensor.
        params: of the codec, whose parts are laid out as `layout.tiles` says.
        bits: of a code.
        encode_run: values [rows, columns] -> codes of the same shape, uint8, and the other parts [rows, groups].
        of_tensor: parts that there is one of for the whole tensor.

    Raises:
        CodecError: NaN or infinite values, or a dtype that can't be compressed.
    """
    matrix, given = as_matrix(weight), of_tensor or {}
    native = backend_of(params.codec, weight.device.type).encode
    if native is None:
        parts = encode_runs(matrix, params, bits, encode_run, given)
    else:
        matrix = matrix.contiguous()
        require_in_range(largest_magnitude(matrix), params.codec)
        parts = native(matrix, params, given)
    return Encoded(params, tuple(weight.shape), weight.dtype, parts)


def encode_with_feedback(
    weight: torch.Tensor,
    params: Params,
    bits: int,
    encode_run: Callable[[torch.Tensor], tuple[torch.Tensor, Mapping[str, torch.Tensor]]],
    of_tensor: Mapping[str, torch.Tensor] | None = None,
) -> Encoded:
    """As `encode_tiles`, with an `encode_run` of `columns.feedback_run`, for which there are no native kernels."""
    parts = encode_runs(as_matrix(weight), params, bits, encode_run, of_tensor or {})
    return Encoded(params, tuple(weight.shape), weight.dtype, parts)


def encode_runs(
    matrix: torch.Tensor,
    params: Params,
    bits: int,
    encode_run: Callable[[torch.Tensor], tuple[torch.Tensor, Mapping[str, torch.Tensor]]],
    of_tensor: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The parts of a matrix, run by run in PyTorch; arguments and errors as for `encode_tiles`."""
    specs = params.part_specs(tuple(matrix.shape), matrix.dtype)
    pieces: dict[str, list[torch.Tensor]] = {name: [] for name in specs}
    for values in padded_runs(matrix, params.codec):
        codes, of_groups = encode_run(values)
        pieces["codes"].append(pack_tiles(codes, bits))
        for name, part in of_groups.items():
            pieces[name].append(by_panel(part))
    parts = {
        name: torch.cat(pieces[name]) if pieces[name] else torch.zeros(spec.shape, dtype=spec.dtype)
        for name, spec in specs.items()
    }
    return {**parts, **of_tensor}
