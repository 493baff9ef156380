"""Cutting a tensor into runs of whole panels, so that encoders need little memory beside their input."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from tilepress.kernels import PANEL_ROWS, CodecError, matrix_shape
from tilepress.kernels.encoded import bytes_of, require_codable
from tilepress.kernels.layout.offsets import aligned, offsets_length

RUN_VALUES = 1 << 21
"""Values that an encoder works on at a time (8 MiB in float32)."""


def as_matrix(weight: torch.Tensor) -> torch.Tensor:
    """The matrix under which `weight` is coded.

    Raises:
        CodecError: a dtype that can't be compressed.
    """
    require_codable(weight)
    return weight.reshape(matrix_shape(tuple(weight.shape)))


def runs(matrix: torch.Tensor) -> Iterator[torch.Tensor]:
    """Consecutive runs of whole panels (the last panel may be short), each of about `RUN_VALUES` values."""
    rows, columns = matrix.shape
    step = max(1, RUN_VALUES // max(1, columns) // PANEL_ROWS) * PANEL_ROWS
    for first in range(0, rows, step):
        yield matrix[first : first + step]


def sample(matrix: torch.Tensor, values: int) -> torch.Tensor:
    """Whole panels, evenly spread over the matrix: about so many values, or all there are."""
    rows, columns = matrix.shape
    panels = -(-rows // PANEL_ROWS)
    wanted = min(panels, -(-values // max(1, PANEL_ROWS * columns)))
    if wanted == panels:
        return matrix.contiguous()
    firsts = [panel * panels // wanted * PANEL_ROWS for panel in range(wanted)]
    return torch.cat([matrix[first : first + PANEL_ROWS] for first in firsts])


def encode_runs(
    matrix: torch.Tensor,
    across: int,
    most_bytes: int,
    encode: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], int],
) -> dict[str, torch.Tensor]:
    """The parts `payload` and `offsets` of a matrix whose panels are cut into `across` pieces, each coded alone.

    Args:
        most_bytes: of a piece.
        encode: writes the pieces of a contiguous run to a room, uint8, one after the other, and their bytes to sizes,
            int64 [pieces]; returns the bytes of all.
    """
    payload = bytearray()
    rows_left = matrix.shape[0]
    ends = [torch.zeros(1, dtype=torch.int64)]
    room = torch.empty(0, dtype=torch.uint8)
    for run in runs(matrix):
        sizes = torch.empty(-(-run.shape[0] // PANEL_ROWS) * across, dtype=torch.int64)
        if room.numel() < len(sizes) * most_bytes:
            room = torch.empty(aligned(len(sizes) * most_bytes), dtype=torch.uint8)
        end = written = encode(run.contiguous(), room, sizes)
        rows_left -= run.shape[0]
        if rows_left == 0:  # now, since to grow the payload may be to copy it
            end = aligned(len(payload) + written) - len(payload)
            room[written:end] = 0
        payload += bytes_of(room[:end])
        ends.append(ends[-1][-1] + sizes.cumsum(0))
    offsets = torch.cat(ends)
    return {
        "payload": torch.frombuffer(payload, dtype=torch.uint8) if payload else torch.empty(0, dtype=torch.uint8),
        "offsets": torch.cat([offsets, offsets[-1:].expand(offsets_length(len(offsets) - 1) - len(offsets))]),
    }


def require_finite(values: torch.Tensor, codec: str) -> None:
    """Raise `CodecError` if `values` holds a NaN or an infinity."""
    if not bool(torch.isfinite(values).all()):
        raise CodecError(
            f"codec {codec} has no code for the NaN or infinite values of this tensor; "
            "give it the codec lossless or none"
        )
