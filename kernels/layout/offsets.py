"""Payloads of pieces that have different lengths, and the index that finds them.

Both are filled up to a multiple of 16 bytes, so that whatever follows them in a file stays aligned:

    payload   uint8  [bytes]     the pieces one after the other, then zeros
    offsets   int64  [count]     where each piece begins, where the last one ends, and maybe that end once more
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tilepress.kernels.errors import CodecError

ALIGNMENT = 16
_OFFSETS_A_UNIT = ALIGNMENT // torch.int64.itemsize


def aligned(size: int) -> int:
    """`size` bytes, filled up."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def offsets_length(pieces: int) -> int:
    """Number of offsets of a payload of so many pieces."""
    return -(-(pieces + 1) // _OFFSETS_A_UNIT) * _OFFSETS_A_UNIT


def payload_parts(pieces: Sequence[bytes]) -> dict[str, torch.Tensor]:
    """The two parts of a payload made of `pieces`."""
    offsets = [0]
    for piece in pieces:
        offsets.append(offsets[-1] + len(piece))
    offsets += [offsets[-1]] * (offsets_length(len(pieces)) - len(offsets))
    payload = bytearray(b"".join(pieces).ljust(aligned(offsets[-1]), b"\0"))
    return {
        "payload": torch.frombuffer(payload, dtype=torch.uint8) if payload else torch.empty(0, dtype=torch.uint8),
        "offsets": torch.tensor(offsets, dtype=torch.int64),
    }


def check_offsets(codec: str, offsets: torch.Tensor, payload: torch.Tensor) -> None:
    """Check that the offsets begin at 0, never fall, and end where the payload does.

    Raises:
        CodecError: otherwise.
    """
    falls = bool((offsets[1:] < offsets[:-1]).any())
    if offsets[0] != 0 or falls or aligned(int(offsets[-1])) != payload.numel():
        raise CodecError(f"codec {codec}: the offsets do not run from 0 to the end of the payload")
