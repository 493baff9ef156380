"""Native kernels for tensors in main memory (built from kernels/cpu). Buffers are (address, bytes)."""

from typing import TypeAlias

Buffer: TypeAlias = tuple[int, int]

MOST_VECTORS: int

class Weight:
    """A weight of any codec, as a decoder multiplies by it. It holds addresses."""

    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def decodes_rows(self) -> bool:
        """Whether a row can be decoded alone."""

Projection: TypeAlias = tuple[Weight, Buffer]

class DecoderLayer:
    """A layer of a decoder; projections are (weight, bias)."""

    def __init__(
        self,
        input_norm: Buffer,
        query: Projection,
        key: Projection,
        value: Projection,
        query_norm: Buffer,
        key_norm: Buffer,
        output: Projection,
        middle_norm: Buffer,
        gate: Projection,
        up: Projection,
        down: Projection,
    ) -> None: ...

class DecoderCache:
    """Keys and values of all layers; there must be room in their windows, which a decoder writes to."""

    def __init__(self, layers: list[KvCache]) -> None: ...

class Decoder:
    """A pre-norm decoder."""

    def __init__(
        self,
        instruction_set: str,
        dtype: str,
        embedding: Weight | None,
        layers: list[DecoderLayer],
        norm: Buffer,
        head: Projection,
        epsilon: float,
        activation: str,
        scaling: float,
        heads: int,
        key_heads: int,
        head_size: int,
    ) -> None: ...
    def step(
        self,
        cache: DecoderCache,
        tokens: list[int],
        embedded: Buffer,
        cached: int,
        cosines: Buffer,
        sines: Buffer,
        logits: Buffer,
        threads: int,
    ) -> None:
        """Add a token to each sequence of the cache, and write the logits of what follows it.

        Raises ValueError when a length doesn't fit or a weight is damaged.
        """

def dense_weight(instruction_set: str, values: Buffer, dtype: str, rows: int, columns: int) -> Weight: ...
def lossless_weight(instruction_set: str, parts: LosslessParts) -> Weight: ...
def sz_weight(instruction_set: str, parts: SzParts) -> Weight: ...
def tiles_weight(instruction_set: str, parts: Parts, rows: int) -> Weight: ...
def trellis_weight(
    instruction_set: str,
    codes: Buffer,
    scales: Buffer,
    bits: int,
    window: int,
    panels: int,
    tiles: int,
    rows: int,
    columns: int,
    columns_side: tuple[Buffer, Buffer, int, int] | None,
    rows_side: tuple[Buffer, Buffer, int, int] | None,
) -> Weight: ...
def zfp_weight(instruction_set: str, parts: ZfpParts) -> Weight: ...

class KvCache:
    """A compressed KV cache."""

    def __init__(
        self,
        code: str,
        bits: int,
        group: int,
        sequences: int,
        heads: int,
        key_size: int,
        value_size: int,
        blocks: list[Buffer],
        window_keys: Buffer,
        window_values: Buffer,
        room: int,
        window_tokens: int,
        dtype: str,
    ) -> None: ...

def attention_attend(
    instruction_set: str,
    cache: KvCache,
    query: Buffer,
    result: Buffer,
    dtype: str,
    heads: int,
    queries: int,
    scaling: float,
    softcap: float,
    is_causal: bool,
    window: int,
    slopes: Buffer,
    sinks: Buffer,
    bias: Buffer,
    bias_steps: tuple[int, int, int],
    threads: int,
) -> None:
    """Attend to the cache; write to `result`. Raises ValueError when a length doesn't fit."""

def difference(truth: Buffer, found: Buffer, dtype: str) -> tuple[float, float, float]:
    """Largest magnitude and sum of squares of the differences, and sum of squares of the true values, in float64.

    Raises ValueError when the sizes differ.
    """

class LosslessParts:
    """A lossless weight, version 2."""

    def __init__(
        self, payload: Buffer, offsets: Buffer, table: Buffer, dtype: str, rows: int, columns: int
    ) -> None: ...

def lossless_decode(
    instruction_set: str,
    parts: LosslessParts,
    rows: tuple[int, int],
    columns: tuple[int, int],
    dtype: str,
    values: Buffer,
    threads: int,
) -> None:
    """Decode a range into `values`. Raises ValueError when a length doesn't fit or a block is damaged."""

def lossless_multiply(
    instruction_set: str,
    parts: LosslessParts,
    rows: tuple[int, int],
    x: Buffer,
    bias: Buffer,
    y: Buffer,
    dtype: str,
    count: int,
    threads: int,
) -> None:
    """Write x @ weight[rows].T + bias to `y`. Raises ValueError when a length doesn't fit or a block is damaged."""

def lossless_count(values: Buffer, dtype: str, counts: Buffer, threads: int) -> None:
    """Add how often each plane of `values` has each byte to `counts`, int64 [planes, 256]."""

def lossless_table(counts: Buffer, dtype: str, table: Buffer) -> None:
    """Write the table that suits these counts."""

def lossless_encode(
    instruction_set: str,
    values: Buffer,
    dtype: str,
    rows: int,
    columns: int,
    table: Buffer,
    payload: Buffer,
    sizes: Buffer,
    threads: int,
) -> int:
    """Encode values [rows, columns] into consecutive blocks, whose bytes go to `sizes`, int64 [panels, blocks].

    Returns the bytes written to `payload`. Raises ValueError when a length doesn't fit.
    """

class Parts:
    """A weight in fixed-rate tiles."""

    def __init__(
        self,
        codes: Buffer,
        scales: Buffer,
        zero_points: Buffer,
        global_scale: Buffer,
        code: str,
        bits: int,
        group: int,
        scale_format: str,
        panels: int,
        columns: int,
    ) -> None: ...

def instruction_sets() -> list[str]:
    """Instruction sets that this machine can run, the slowest first: portable, avx2, avx512."""

def tiles_decode(
    instruction_set: str,
    parts: Parts,
    rows: tuple[int, int],
    columns: tuple[int, int],
    dtype: str,
    values: Buffer,
    threads: int,
) -> None:
    """Decode a range into `values`. Raises ValueError when a length doesn't fit."""

def tiles_multiply(
    instruction_set: str,
    parts: Parts,
    rows: tuple[int, int],
    x: Buffer,
    bias: Buffer,
    y: Buffer,
    dtype: str,
    count: int,
    threads: int,
) -> None:
    """Write x @ weight[rows].T + bias to `y`. Raises ValueError when a length doesn't fit."""

def trellis_encode(
    instruction_set: str,
    bits: int,
    window: int,
    survivors: int,
    panels: int,
    tiles: int,
    wanted: Buffer,
    found: Buffer,
    codes: Buffer,
    threads: int,
) -> None:
    """Search codes of a float32 matrix. Raises ValueError when a length doesn't fit."""

def trellis_decode(
    instruction_set: str,
    codes: Buffer,
    scales: Buffer,
    bits: int,
    window: int,
    panels: int,
    tiles: int,
    range: tuple[int, int],
    dtype: str,
    values: Buffer,
    threads: int,
) -> None:
    """Decode a range of panels in the rotated basis. Raises ValueError when a length doesn't fit."""

def trellis_multiply(
    instruction_set: str,
    codes: Buffer,
    scales: Buffer,
    bits: int,
    window: int,
    panels: int,
    tiles: int,
    range: tuple[int, int],
    x: Buffer,
    count: int,
    is_float32: bool,
    y: Buffer,
    threads: int,
) -> None:
    """Multiply x by a range of panels in the rotated basis; x as 16 bits or as float32. Raises ValueError."""

def trellis_rotate(
    instruction_set: str,
    values: Buffer,
    rows: int,
    columns: int,
    over_rows: bool,
    signs: Buffer,
    table: Buffer,
    odd: int,
    power: int,
    back: bool,
    threads: int,
) -> None:
    """Rotate a side of a float32 matrix, or back, in place. Raises ValueError when a length doesn't fit."""

class ZfpMode:
    """A mode of zfp: "rate", "precision", "tolerance" with their value, or "reversible"."""

    def __init__(self, name: str, value: float) -> None: ...

class ZfpParts:
    """A float32 weight as panels of zfp."""

    def __init__(self, payload: Buffer, offsets: Buffer, mode: ZfpMode, rows: int, columns: int) -> None: ...

def zfp_decode(
    instruction_set: str,
    parts: ZfpParts,
    rows: tuple[int, int],
    columns: tuple[int, int],
    dtype: str,
    values: Buffer,
    threads: int,
) -> None:
    """Decode a range into `values`. Raises ValueError when a length or an offset doesn't fit."""

def zfp_multiply(
    instruction_set: str,
    parts: ZfpParts,
    rows: tuple[int, int],
    x: Buffer,
    bias: Buffer,
    y: Buffer,
    dtype: str,
    count: int,
    threads: int,
) -> None:
    """Write x @ weight[rows].T + bias to `y`. Raises ValueError when a length or an offset doesn't fit."""

def zfp_encode(
    instruction_set: str,
    mode: ZfpMode,
    values: Buffer,
    rows: int,
    columns: int,
    payload: Buffer,
    sizes: Buffer,
    threads: int,
) -> int:
    """Encode panels of float32 one after the other; returns the bytes written. `sizes` is int64 [panels]."""

def zfp_stream_bytes(mode: ZfpMode, shape: list[int], dtype: str) -> int:
    """Bytes that the stream of an array takes at most. Raises ValueError when zfp has no such stream."""

def zfp_encode_stream(
    instruction_set: str, mode: ZfpMode, shape: list[int], dtype: str, values: Buffer, stream: Buffer
) -> int:
    """Encode an array of 1 to 3 dimensions of float32 or float64; returns the bytes written to `stream`."""

def zfp_decode_stream(
    instruction_set: str, mode: ZfpMode, shape: list[int], dtype: str, stream: Buffer, values: Buffer
) -> None:
    """Decode an array of 1 to 3 dimensions of float32 or float64; the stream goes on with zeros."""

class SzParts:
    """An `sz` weight."""

    def __init__(
        self, payload: Buffer, offsets: Buffer, table: Buffer, predictor: str, dtype: str, rows: int, columns: int
    ) -> None: ...

def sz_decode(
    instruction_set: str,
    parts: SzParts,
    rows: tuple[int, int],
    columns: tuple[int, int],
    dtype: str,
    values: Buffer,
    threads: int,
) -> None:
    """Decode a range into `values`. Raises ValueError when a length doesn't fit or a tile is damaged."""

def sz_multiply(
    instruction_set: str,
    parts: SzParts,
    rows: tuple[int, int],
    x: Buffer,
    bias: Buffer,
    y: Buffer,
    dtype: str,
    count: int,
    threads: int,
) -> None:
    """Write x @ weight[rows].T + bias to `y`. Raises ValueError when a length doesn't fit or a tile is damaged."""

def sz_fit(values: Buffer, dtype: str, rows: int, columns: int, bound: float, predictor: str, table: Buffer) -> None:
    """Write the table that suits values [rows, columns]."""

def sz_encode(
    instruction_set: str,
    values: Buffer,
    dtype: str,
    rows: int,
    columns: int,
    bound: float,
    predictor: str,
    table: Buffer,
    payload: Buffer,
    sizes: Buffer,
    threads: int,
) -> int:
    """Encode values [rows, columns] into consecutive tiles, whose bytes go to `sizes`, int64 [panels, tiles].

    Returns the bytes written to `payload`. Raises ValueError when a length doesn't fit.
    """

def tile_encoders_encode(
    instruction_set: str, parts: Parts, values: Buffer, rows: int, dtype: str, threads: int
) -> None:
    """Encode a matrix of finite values into the parts. Raises ValueError when a length doesn't fit."""

def tile_encoders_largest(instruction_set: str, values: Buffer, dtype: str, threads: int) -> float:
    """The largest magnitude of all values, or NaN."""
