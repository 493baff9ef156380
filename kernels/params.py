"""Codec parameters and their text form, the codec spec: `int:bits=4,group=64`.

spec   = name [ ":" option { "," option } ]
option = key "=" value
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, TypeAlias

import torch
from typing_extensions import Self

from tilepress.kernels.errors import CodecError

Scalar: TypeAlias = int | float | bool | str | None
Shape: TypeAlias = tuple[int, ...]


ALWAYS_SHOWN: Mapping[str, object] = MappingProxyType({"always shown": True})
"""Metadata of a field that codec specs print even where it has its default."""


@dataclass(frozen=True)
class PartSpec:
    """Dtype and shape of one part.

    `exact` is False where the length depends on the data: the part is then a vector of any length, and `shape` is
    the most that it can have.
    """

    dtype: torch.dtype
    shape: Shape
    exact: bool = True


@dataclass(frozen=True)
class Params:
    """Parameters of one codec. A subclass has one field an option, with its default, and validates itself.

    A field that is `None` is an option that isn't given; it appears neither in specs nor in files. The subclass also
    lays down the parts that the codec writes, since readers must check them before anything is decoded.
    """

    codec: ClassVar[str]
    summary: ClassVar[str]
    guarantee: ClassVar[str] = "-"

    def part_specs(self, shape: Shape, dtype: torch.dtype) -> Mapping[str, PartSpec]:
        """The parts of a tensor of `shape` and `dtype`, in the order in which they are written."""
        raise NotImplementedError

    def check_parts(self, shape: Shape, dtype: torch.dtype, parts: Mapping[str, torch.Tensor]) -> None:
        """Check what shapes can't say (offsets, ranges) in parts that already have the right dtypes and shapes.

        Raises:
            CodecError: contents that decoding can't follow safely.
        """

    def rows_together(self, shape: Shape) -> int:
        """Rows that can only be decoded together: a range of them costs as much as the blocks that it touches."""
        return 1

    @property
    def is_bit_identical(self) -> bool:
        """True when every tensor comes back bit for bit."""
        return False

    @property
    def keeps_a_promise(self) -> bool:
        """True when the codec guarantees something about each value: bit-identical, or within a bound."""
        return self.is_bit_identical

    def as_dict(self) -> dict[str, Scalar]:
        """Field -> value, without options that aren't given. `from_dict` reads it back."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Build from untrusted values.

        Raises:
            CodecError: an unknown option, a value of the wrong type, or one that the codec refuses.
        """
        hints = _hints(cls)
        known = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
        for key, value in values.items():
            if key not in known:
                options = ", ".join(known) or "none"
                raise CodecError(f"codec {cls.codec} has no option {key!r}; its options: {options}")
            if not _fits(value, known[key]):
                raise CodecError(f"codec {cls.codec}: {key}={value!r} is not {_type_names(known[key])}")
        numbers = {
            key: float(value) if isinstance(value, int) and _alternatives(known[key]) == (float,) else value
            for key, value in values.items()
        }
        return cls(**typing.cast(dict[str, typing.Any], numbers))

    @classmethod
    def parse(cls, options: str) -> Self:
        """Build from the options of a codec spec, as in `bits=4,group=64`.

        Raises:
            CodecError: as `from_dict`, or text that isn't a list of options.
        """
        hints = _hints(cls)
        values: dict[str, object] = {}
        for option in filter(None, options.split(",")):
            key, equals, text = (piece.strip() for piece in option.partition("="))
            if not equals:
                raise CodecError(f"codec {cls.codec}: {option!r} is not of the form option=value")
            if key in values:
                raise CodecError(f"codec {cls.codec}: option {key!r} is given twice")
            values[key] = _read_scalar(text, hints.get(key, str))
        return cls.from_dict(values)

    def spec(self) -> str:
        """The codec spec with every option that differs from its default, or that is always shown."""
        options = [
            f"{f.name}={_write_scalar(getattr(self, f.name))}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default or ALWAYS_SHOWN.items() <= f.metadata.items()
        ]
        return f"{self.codec}:{','.join(options)}" if options else self.codec

    def require(self, condition: bool, sentence: str) -> None:
        """Raise `CodecError` with the codec's name and `sentence` unless `condition` holds."""
        if not condition:
            raise CodecError(f"codec {self.codec}: {sentence}")


def _alternatives(hint: object) -> tuple[type, ...]:
    options = typing.get_args(hint) or (hint,)
    return tuple(option for option in options if isinstance(option, type) and option is not type(None))


def _type_names(hint: object) -> str:
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a word"}
    return " or ".join(names.get(option, str(option)) for option in _alternatives(hint))


_HINTS: dict[type[Params], dict[str, object]] = {}
"""Types of the options, which take longer to look up than a small tensor takes to encode."""


def _hints(params: type[Params]) -> dict[str, object]:
    if params not in _HINTS:
        _HINTS[params] = typing.get_type_hints(params)
    return _HINTS[params]


def _fits(value: object, hint: object) -> bool:
    allowed = _alternatives(hint)
    if isinstance(value, bool):
        return bool in allowed
    if isinstance(value, int):
        return int in allowed or float in allowed
    return isinstance(value, allowed)


def _read_scalar(text: str, hint: object) -> object:
    allowed = _alternatives(hint)
    if bool in allowed and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        if number in allowed:
            try:
                return number(text)
            except ValueError:
                pass
    return text


def _write_scalar(value: Scalar) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)
