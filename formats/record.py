"""What a container says of one tensor: codec, parameters, shape, dtype, checksum and measured error.

A shard's `__metadata__` has one entry a tensor, key `tilepress:<tensor name>`, whose value is JSON:

    {"codec": "int", "params": {"bits": 4, ...}, "shape": [576, 1536], "dtype": "bfloat16", "transposed": false,
     "error": {"max_abs": 0.0123, "relative_rms": 0.0871}, "xxh3": "<32 hex digits>"}

The checksum is xxh3-128 over the tensor's name, a zero byte, the JSON without `xxh3` (keys sorted, no spaces), and the
bytes of the parts in their order: damage to any of them is found, and found to be this tensor's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
import xxhash

from tilepress.formats.safetensors_header import DTYPES
from tilepress.kernels import CodecError, Encoded, FormatError, Params, PartSpec, dtype_name, params_type
from tilepress.kernels.encoded import bytes_of
from tilepress.kernels.params import Shape

FORMAT_VERSION = 1
METADATA_KEY = "tilepress"
METADATA_PREFIX = METADATA_KEY + ":"
_NAMED_DTYPES: Mapping[str, torch.dtype] = {dtype_name(dtype): dtype for dtype in DTYPES.values()}
_FIELDS = {"codec", "params", "shape", "dtype", "transposed", "error", "xxh3"}


@dataclass(frozen=True)
class Error:
    """Distance between a tensor and what its parts decode to, measured when it was encoded.

    Attributes:
        max_abs: largest absolute difference.
        relative_rms: root of the mean squared difference, divided by that of the tensor's values.
    """

    max_abs: float
    relative_rms: float


@dataclass(frozen=True)
class Record:
    """One tensor of a container; see the module.

    Attributes:
        name: of the tensor in the checkpoint.
        params: codec and options.
        shape: of the tensor in the checkpoint.
        dtype: of the tensor in the checkpoint.
        transposed: the matrix was transposed before encoding, so that its rows are the output channels.
        error: measured when it was encoded.
        checksum: 32 hexadecimal digits; empty while the record isn't sealed.
    """

    name: str
    params: Params
    shape: Shape
    dtype: torch.dtype
    transposed: bool
    error: Error
    checksum: str = ""

    @property
    def encoded_shape(self) -> Shape:
        """Shape of the `Encoded`: that of the tensor, or turned round if it was transposed."""
        return self.shape[::-1] if self.transposed else self.shape

    def part_name(self, part: str) -> str:
        """Name of a part in the file: the tensor's own for the unnamed part of `none`."""
        return f"{self.name}.{part}" if part else self.name

    def part_specs(self) -> Mapping[str, PartSpec]:
        """Part -> dtype and shape, in the order in which they are written."""
        return self.params.part_specs(self.encoded_shape, self.dtype)

    def seal(self, parts: Mapping[str, torch.Tensor]) -> Record:
        """This record with the checksum of itself and `parts`."""
        return replace(self, checksum=self.compute_checksum(parts))

    def compute_checksum(self, parts: Mapping[str, torch.Tensor]) -> str:
        """Checksum of the record (whatever checksum it holds left aside) and `parts`."""
        digest = xxhash.xxh3_128()
        digest.update(self.name.encode() + b"\0" + _canonical(self._fields()).encode())
        for part in self.part_specs():
            digest.update(bytes_of(parts[part]))
        return digest.hexdigest()

    def to_json(self) -> str:
        """The value in `__metadata__`."""
        return _canonical({**self._fields(), "xxh3": self.checksum})

    def _fields(self) -> dict[str, object]:
        return {
            "codec": self.params.codec,
            "params": self.params.as_dict(),
            "shape": list(self.shape),
            "dtype": dtype_name(self.dtype),
            "transposed": self.transposed,
            "error": {"max_abs": self.error.max_abs, "relative_rms": self.error.relative_rms},
        }

    @classmethod
    def from_json(cls, name: str, text: str, where: str) -> Record:
        """Read a record; nothing in it is trusted.

        Args:
            name: of the tensor.
            text: the value in `__metadata__`.
            where: the file, for error messages.

        Raises:
            FormatError: anything but a record that this version can read.
        """

        def refuse(what: str) -> FormatError:
            return FormatError(f"{where}, tensor {name}: {what}; the file is damaged, copy or convert it again")

        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            raise refuse("its record is not JSON") from None
        if not isinstance(fields, dict) or set(fields) != _FIELDS:
            raise refuse("its record does not have the fields of a record")
        shape, params, error = fields["shape"], fields["params"], fields["error"]
        if not isinstance(shape, list) or not all(type(side) is int and 0 <= side < 1 << 48 for side in shape):
            raise refuse(f"shape {shape!r} is not a list of sizes")
        if not isinstance(fields["dtype"], str) or fields["dtype"] not in _NAMED_DTYPES:
            raise refuse(f"unknown dtype {fields['dtype']!r}")
        if not isinstance(fields["codec"], str) or not isinstance(params, dict):
            raise refuse("its record has no codec and params")
        if not isinstance(error, dict) or set(error) != {"max_abs", "relative_rms"}:
            raise refuse("its record has no error figures")
        if not all(type(figure) in (int, float) for figure in error.values()):
            raise refuse("its error figures are not numbers")
        if not isinstance(fields["transposed"], bool) or (fields["transposed"] and len(shape) != 2):
            raise refuse("only a matrix can be transposed")
        if not isinstance(fields["xxh3"], str):
            raise refuse("its record has no checksum")
        try:
            parsed = params_type(fields["codec"]).from_dict(params)
        except CodecError as problem:
            raise refuse(str(problem)) from None
        figures = Error(float(error["max_abs"]), float(error["relative_rms"]))
        dtype = _NAMED_DTYPES[fields["dtype"]]
        return cls(name, parsed, tuple(shape), dtype, fields["transposed"], figures, fields["xxh3"])


def container_metadata(records: Iterable[Record]) -> dict[str, str]:
    """What a shard's `__metadata__` holds for these tensors, beside `format: pt`, which Transformers asks for."""
    version = {METADATA_KEY: _canonical({"format_version": FORMAT_VERSION}), "format": "pt"}
    return version | {METADATA_PREFIX + record.name: record.to_json() for record in records}


def check_encoded(record: Record, parts: Mapping[str, torch.Tensor], where: str) -> Encoded:
    """Parts from a file -> `Encoded`, once dtypes, shapes and offsets have been checked.

    Raises:
        FormatError: parts that the codec could not decode safely.
    """
    for part, spec in record.part_specs().items():
        tensor = parts[part]
        if not part_fits(spec, tensor.dtype, tuple(tensor.shape)):
            raise FormatError(
                f"{where}, tensor {record.name}: part {part or 'itself'} is {dtype_name(tensor.dtype)} "
                f"{list(tensor.shape)}, but {record.params.spec()} needs {dtype_name(spec.dtype)} {list(spec.shape)}; "
                "the file is damaged, copy or convert it again"
            )
    try:
        record.params.check_parts(record.encoded_shape, record.dtype, parts)
    except CodecError as problem:
        raise FormatError(f"{where}, tensor {record.name}: {problem}; the file is damaged, copy it again") from None
    return Encoded(record.params, record.encoded_shape, record.dtype, parts)


def part_fits(spec: PartSpec, dtype: torch.dtype, shape: Shape) -> bool:
    """Whether a part of this dtype and shape is what `spec` asks for."""
    if dtype != spec.dtype or len(shape) != len(spec.shape):
        return False
    return shape == spec.shape if spec.exact else shape[0] <= spec.shape[0]


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
