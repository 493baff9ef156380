"""Launching kernels: on the current GPU through CuPy, on PyTorch's current stream, without copies.

Kernels are compiled by NVRTC for the GPU at hand when they are first used, and kept in CuPy's cache on disk. Nothing is
imported from CuPy before that, so that this module can be imported where there is none.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, cast

import numpy as np
import torch

from tilepress.kernels.cuda.registry import ARCHITECTURES, OPTIONS, Kernel
from tilepress.kernels.cuda.source import source_text
from tilepress.kernels.errors import BackendError


@dataclass(frozen=True)
class Pointer:
    """Where a tensor's values begin, on the device; null of None. The tensor must outlive the launch."""

    tensor: torch.Tensor | None

    def address(self) -> int:
        """The address as a number."""
        return 0 if self.tensor is None else self.tensor.data_ptr()

    def as_c(self) -> ctypes.c_void_p:
        """As C passes it."""
        return ctypes.c_void_p(self.address())

    def as_numpy(self) -> np.generic:
        """As CuPy passes it."""
        return cast(np.generic, np.uintp(self.address()))


@dataclass(frozen=True)
class Int:
    """A 32-bit integer."""

    value: int

    def as_c(self) -> ctypes.c_int:
        """As C passes it."""
        return ctypes.c_int(self.value)

    def as_numpy(self) -> np.generic:
        """As CuPy passes it."""
        return cast(np.generic, np.int32(self.value))


@dataclass(frozen=True)
class Long:
    """A 64-bit integer."""

    value: int

    def as_c(self) -> ctypes.c_longlong:
        """As C passes it."""
        return ctypes.c_longlong(self.value)

    def as_numpy(self) -> np.generic:
        """As CuPy passes it."""
        return cast(np.generic, np.int64(self.value))


@dataclass(frozen=True)
class Float:
    """A float32."""

    value: float

    def as_c(self) -> ctypes.c_float:
        """As C passes it."""
        return ctypes.c_float(self.value)

    def as_numpy(self) -> np.generic:
        """As CuPy passes it."""
        return cast(np.generic, np.float32(self.value))


Argument = Pointer | Int | Long | Float


class Launcher(Protocol):
    """Something that runs kernels."""

    @property
    def multiprocessors(self) -> int:
        """How many multiprocessors share the blocks of a grid."""

    def launch(self, kernel: Kernel, grid: tuple[int, int], arguments: Sequence[Argument]) -> None:
        """Run `kernel` on `grid` blocks; what it writes is there for all later work on the same stream."""


def is_installed() -> bool:
    """Whether there is a CuPy to import."""
    return importlib.util.find_spec("cupy") is not None


def launcher(device: torch.device) -> Launcher:
    """What runs kernels on a device.

    Raises:
        BackendError: CuPy or a driver is missing.
    """
    return _cupy_launcher(device.index if device.index is not None else torch.cuda.current_device())


@cache
def _cupy_launcher(device: int) -> CupyLauncher:
    return CupyLauncher(device)


def state() -> str:
    """What stands in the way of the kernels on the first GPU, or how they come to it, in one sentence."""
    try:
        CupyLauncher(0)
    except BackendError as error:
        return str(error)
    architecture = "sm_{}{}".format(*torch.cuda.get_device_capability(0))
    tested = "which the tests compile for too" if architecture in ARCHITECTURES else "which no test compiles for"
    return f"compiled when first used, for {architecture}, {tested}"


class CupyLauncher:
    """Kernels of one GPU.

    Raises:
        BackendError: CuPy or a driver is missing.
    """

    def __init__(self, device: int) -> None:
        self._cupy = _cupy()
        self._device = device
        self._functions: dict[Kernel, Any] = {}
        self._multiprocessors: int = self._cupy.cuda.Device(device).attributes["MultiProcessorCount"]

    @property
    def multiprocessors(self) -> int:
        """Of this GPU."""
        return self._multiprocessors

    def launch(self, kernel: Kernel, grid: tuple[int, int], arguments: Sequence[Argument]) -> None:
        """See `Launcher`."""
        values = tuple(argument.as_numpy() for argument in arguments)
        stream = torch.cuda.current_stream(self._device)
        with self._cupy.cuda.Device(self._device), self._cupy.cuda.Stream.from_external(stream):
            self._function(kernel)(grid, (kernel.threads,), values, shared_mem=kernel.shared_bytes)

    def _function(self, kernel: Kernel) -> Any:
        found = self._functions.get(kernel)
        if found is None:
            module = self._cupy.RawModule(
                code=source_text(kernel.source),
                options=OPTIONS,
                backend="nvrtc",
                name_expressions=(kernel.expression,),
            )
            found = module.get_function(kernel.expression)
            if kernel.shared_bytes > _PLAIN_SHARED_BYTES:
                found.max_dynamic_shared_size_bytes = kernel.shared_bytes
            self._functions[kernel] = found
        return found


_PLAIN_SHARED_BYTES = 48 * 1024
"""More than that has to be asked for."""


def _cupy() -> Any:
    """CuPy, where it finds a driver and a GPU.

    Raises:
        BackendError: otherwise.
    """
    if not is_installed():
        raise BackendError("the cuda backend needs CuPy: pip install tilepress[cuda12], or [cuda13]")
    cupy = importlib.import_module("cupy")
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendError(f"the cuda backend can't use the GPU: CuPy says {error}") from None
    if not count:
        raise BackendError("the cuda backend needs a GPU, and CuPy finds none")
    return cupy
