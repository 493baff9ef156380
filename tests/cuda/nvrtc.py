"""NVRTC without a driver: compiles kernels for any GPU, and says what each takes.

The wheel nvidia-cuda-nvrtc-cu12 is enough; no header of the CUDA toolkit is included.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_USAGE = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for .*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
_SHARED = re.compile(r"(\d+) bytes smem")


class CompileError(Exception):
    """What the compiler says."""


@dataclass(frozen=True)
class Usage:
    """What one kernel takes on one architecture, as ptxas reports it."""

    registers: int
    static_shared_bytes: int
    stack_bytes: int
    spill_bytes: int


@dataclass(frozen=True)
class Compiled:
    """A cubin, and of each kernel, by the expression that was asked for, its usage and its name there."""

    cubin: bytes
    usage: dict[str, Usage]
    names: dict[str, str]


@cache
def library() -> ctypes.CDLL | None:
    """NVRTC of the wheel, or None where it is not installed."""
    package = importlib.util.find_spec("nvidia")
    for folder in package.submodule_search_locations or () if package else ():
        for file in sorted(Path(folder).glob("cuda_nvrtc/lib/libnvrtc.so.*")):
            return ctypes.CDLL(str(file))
    return None


def version() -> str:
    """Version of NVRTC, as in "12.9"."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(_library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return f"{major.value}.{minor.value}"


def compile_kernels(text: str, expressions: Sequence[str], architecture: str, options: Sequence[str]) -> Compiled:
    """Compile the instantiations `expressions` of a source.

    Raises:
        CompileError: it does not compile, or a kernel is missing from the result.
    """
    nvrtc, program = _library(), ctypes.c_void_p()
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None))
    try:
        for expression in expressions:
            _check(nvrtc.nvrtcAddNameExpression(program, expression.encode()))
        all_options = [f"-arch={architecture}", "--ptxas-options=-v", *options]
        array = (ctypes.c_char_p * len(all_options))(*(option.encode() for option in all_options))
        code = nvrtc.nvrtcCompileProgram(program, len(array), array)
        log = _buffer(program, "ProgramLog").decode()
        if code:
            raise CompileError(log)
        usage = {found["name"]: _usage(found) for found in _USAGE.finditer(log)}
        names = {expression: _lowered_name(program, expression) for expression in expressions}
        missing = [expression for expression, name in names.items() if name not in usage]
        if missing:
            raise CompileError(f"nothing was compiled of {', '.join(missing)}\n{log}")
        of_each = {expression: usage[name] for expression, name in names.items()}
        return Compiled(_buffer(program, "CUBIN"), of_each, names)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _usage(found: re.Match[str]) -> Usage:
    shared = _SHARED.search(found["rest"])
    spills = int(found["stores"]) + int(found["loads"])
    return Usage(int(found["registers"]), int(shared[1]) if shared else 0, int(found["stack"]), spills)


def _lowered_name(program: ctypes.c_void_p, expression: str) -> str:
    name = ctypes.c_char_p()
    _check(_library().nvrtcGetLoweredName(program, expression.encode(), ctypes.byref(name)))
    return (name.value or b"").decode()


def _buffer(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(_library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(_library(), f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def _library() -> ctypes.CDLL:
    found = library()
    assert found is not None, "NVRTC is not installed"
    return found


def _check(code: int) -> None:
    if code:
        raise CompileError(f"NVRTC failed with code {code}")
