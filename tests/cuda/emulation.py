"""Builds kernels for the emulator of this folder, and launches them on tensors in main memory."""

from __future__ import annotations

import ctypes
import enum
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tilepress.kernels.cuda.launch import Argument
from tilepress.kernels.cuda.registry import Kernel
from tilepress.kernels.cuda.source import FOLDER as SOURCES

FOLDER = Path(__file__).parent / "emulator"
BUILD = Path(__file__).parents[2] / "build" / "cuda"

# As few roundings as the kernels write, and no vector instruction that the machine may lack.
FLAGS = ("-std=c++17", "-fPIC", "-mf16c", "-mfma", "-ffp-contract=off", "-fno-strict-aliasing", "-Wall", "-Wextra")


class Order(enum.IntEnum):
    """In which order the threads of a block run; see scheduler.hpp."""

    ASCENDING = 0
    DESCENDING = 1
    SHUFFLED = 2
    GREEDY = 3


@dataclass(frozen=True)
class Mode:
    """How kernels, and the scheduler, are compiled."""

    kernels: tuple[str, ...]
    scheduler: tuple[str, ...]


FAST = Mode(("-O1",), ("-O2",))
_ADDRESS = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
ADDRESS = Mode(_ADDRESS, _ADDRESS)
THREAD = Mode(("-O1", "-g1", "-fsanitize=thread"), ("-O2", "-g1", "-DEMULATOR_TSAN=1"))


def why_not() -> str:
    """What this machine lacks for the emulator; empty when it has everything."""
    if platform.machine() not in ("x86_64", "AMD64") or os.name != "posix":
        return "the emulator of CUDA threads is written for x86-64 and POSIX"
    return "" if shutil.which("g++") else "the emulator of CUDA threads needs g++"


MODES = {"": FAST, "address": ADDRESS, "thread": THREAD}


class LaunchError(Exception):
    """What the emulator found: a barrier that not all reach, a misaligned copy, ..."""


@dataclass
class Emulator:
    """Kernels that run on the CPU, launched as `kernels.cuda.launch` launches them on a GPU.

    Attributes:
        kernels: those that can be launched, of which the environment may choose some.
        mode: how they are compiled; as the environment says.
        sources: the folder that they are in; as the environment says, where mistakes have been planted.
        order, seed: of the threads; the order as the environment says.
        orders_blocks: False makes the blocks of a grid concurrent for ThreadSanitizer; as the environment says.
        multiprocessors: how many the emulated GPU has.
        launched: kernels that have been launched.
    """

    kernels: Sequence[Kernel]
    mode: Mode = MODES[os.environ.get("TILEPRESS_EMULATOR", "")]
    sources: Path = Path(os.environ.get("TILEPRESS_EMULATOR_SOURCES", SOURCES))
    order: Order = Order[os.environ.get("TILEPRESS_EMULATOR_ORDER", "SHUFFLED")]
    seed: int = 0
    orders_blocks: bool = os.environ.get("TILEPRESS_EMULATOR_BLOCKS") != "concurrent"
    multiprocessors: int = 4
    launched: set[Kernel] = field(default_factory=set)

    def __post_init__(self) -> None:
        chosen = re.compile(os.environ.get("TILEPRESS_EMULATOR_KERNELS", ""))
        self.kernels = [kernel for kernel in self.kernels if chosen.search(kernel.label)]
        self._library = ctypes.CDLL(str(build(self.kernels, self.mode, self.sources)))
        self._library.emulator_launch.restype = ctypes.c_char_p
        self._index = {kernel: index for index, kernel in enumerate(self.kernels)}

    def launch(self, kernel: Kernel, grid: tuple[int, int], arguments: Sequence[Argument]) -> None:
        """Run a kernel to its end.

        Raises:
            LaunchError: the emulator found a mistake.
        """
        entry = ctypes.c_void_p.in_dll(self._library, f"emulator_entry_{self._index[kernel]}")
        values = [argument.as_c() for argument in arguments]
        addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        error = self._library.emulator_launch(
            entry,
            (ctypes.c_uint * 3)(*grid, 1),
            (ctypes.c_uint * 3)(kernel.threads, 1, 1),
            ctypes.c_size_t(kernel.shared_bytes),
            addresses,
            ctypes.c_uint(self.seed),
            ctypes.c_int(self.order),
            ctypes.c_int(self.orders_blocks),
        )
        if error:
            raise LaunchError(f"{kernel.label}: {error.decode()}")
        self.launched.add(kernel)


def build(kernels: Sequence[Kernel], mode: Mode, sources: Path = SOURCES) -> Path:
    """A library with these kernels; one that was built before from the same sources is used again.

    Raises:
        RuntimeError: they do not compile; the message holds the compiler's output.
    """
    unit = "".join(f'#include "{name}"\n' for name in sorted({kernel.source for kernel in kernels}))
    unit += '#include "entries.hpp"\n'
    for index, kernel in enumerate(kernels):
        unit += (
            f'extern "C" void (*const emulator_entry_{index})(void**) = &emulator::Entry<&{kernel.expression}>::run;\n'
        )
    include = (f"-I{sources}", f"-I{FOLDER}")
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        scheduler = _made("scheduler.o", _texts(FOLDER), (*mode.scheduler, *include, "-c", f"{FOLDER}/scheduler.cpp"))
        unit_file = BUILD / f"{_key(unit)}.cpp"
        unit_file.write_text(unit)
        command = (*mode.kernels, *include, "-shared", "-Wno-unknown-pragmas", str(unit_file), str(scheduler))
        own = "".join((sources / name).read_text() for name in sorted({kernel.source for kernel in kernels}))
        return _made("kernels.so", _texts(sources) + _texts(FOLDER) + own + unit, command)


def _texts(folder: Path) -> str:
    files = sorted(folder.glob("*.*"))
    return "".join(file.read_text() for file in files if file.suffix in (".cu", ".cuh", ".cpp", ".hpp"))


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _made(name: str, text: str, command: tuple[str, ...]) -> Path:
    """What g++ makes of `command`, whose files hold `text`."""
    made = BUILD / f"{_key(text + repr((FLAGS, command)))}.{name}"
    if not made.exists():
        new = made.with_suffix(f".{os.getpid()}.new")
        _run("g++", *FLAGS, *command, "-o", str(new))
        os.replace(new, made)
    return made


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-10_000:]}")
