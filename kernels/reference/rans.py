"""The entropy coder of `lossless`: 32 interleaved range coders (rANS) over at most 32 symbols.

A model has 32 entries, each a symbol and a frequency; the frequencies add up to 256. Entry e owns the slots from
start[e], the sum of the frequencies before it. Symbol i of a stream belongs to lane i % 32, and a lane's state is a
number 256 <= x < 65536. To decode the next 32 symbols, each lane

    finds the entry that owns slot x % 256, and gives its symbol
    x = frequency * (x // 256) + x % 256 - start
    where x < 256, the lanes in order: x = 256 x + the next byte of the stream

A stream is the 32 states' low bytes, their high bytes, and then those bytes; past its end, bytes are 0. The low bytes
of the last states are the cargo: 32 bytes that the encoder chose, and that cost next to nothing.

Sources: Duda 2013, "Asymmetric numeral systems"; Giesen 2014, "Interleaved entropy coders".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Bytes: TypeAlias = npt.NDArray[np.uint8]

LANES = 32


def decode(stream: Bytes, count: int, symbols: Sequence[int], frequencies: Sequence[int]) -> tuple[Bytes, Bytes]:
    """The `count` symbols of a stream of at least 64 bytes, and its cargo of 32 bytes."""
    entry_of_slot = np.repeat(np.arange(len(frequencies)), frequencies)
    starts = np.cumsum(frequencies) - frequencies
    states = stream[:LANES].astype(np.int64) + 256 * stream[LANES : 2 * LANES].astype(np.int64)
    following = np.concatenate([stream[2 * LANES :], np.zeros(LANES, np.uint8)])
    place = 0
    decoded = np.empty(count, np.uint8)
    for first in range(0, count, LANES):
        lanes = slice(0, min(LANES, count - first))
        slots = states[lanes] % 256
        entries = entry_of_slot[slots]
        decoded[first : first + LANES] = np.take(symbols, entries)
        x = np.take(frequencies, entries) * (states[lanes] // 256) + slots - starts[entries]
        hungry = np.flatnonzero(x < 256)
        taken = np.minimum(place + np.arange(len(hungry)), len(following) - 1)
        x[hungry] = 256 * x[hungry] + following[taken]
        place += len(hungry)
        states[lanes] = x
    return decoded, (states % 256).astype(np.uint8)
