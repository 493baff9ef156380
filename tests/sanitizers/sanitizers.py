"""Builds the extension with a sanitizer in it, and runs Python with that extension in place of the installed one.

    python tests/sanitizers/sanitizers.py address -m pytest tests/kernels

Each sanitizer has its own folder of build/, where a second build only compiles what has changed.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Sanitizer:
    """What the compiler takes, the library that has to be loaded before all others, and what that reads."""

    name: str
    flags: str
    library: str
    environment: Mapping[str, str]
    launcher: tuple[str, ...] = ()
    compiler: str = "g++"
    # What the kernels are built for.
    instruction_sets: str = "native"
    optimization: str = "-O1"


ADDRESS = Sanitizer(
    "address",
    "address,undefined",
    "libasan.so",
    # Python's own allocator would hide where an object ends; what Python and PyTorch leave behind is not ours. More
    # than a gigabyte at once is nothing that a test asks for.
    {
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=0:max_allocation_size_mb=1024",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    },
)
THREAD = Sanitizer(
    "thread",
    "thread",
    "libtsan.so",
    {"TSAN_OPTIONS": f"halt_on_error=1:suppressions={Path(__file__).with_name('thread.suppressions')}"},
    # Without a fixed layout of the address space, its shadow memory has no place.
    ("setarch", platform.machine(), "-R"),
)
SANITIZERS = {sanitizer.name: sanitizer for sanitizer in (ADDRESS, THREAD)}


def why_not(sanitizer: Sanitizer) -> str:
    """What this machine lacks to run the sanitizer; empty when it has everything."""
    if sys.platform != "linux":
        return "sanitizers are run on Linux only"
    if not Path(_library(sanitizer.library)).is_absolute():
        return f"the compiler has no {sanitizer.library}; install the one of your GCC"
    return ""


def build(sanitizer: Sanitizer) -> Path:
    """Build the instrumented extension where it is out of date, and return its folder.

    Raises:
        subprocess.CalledProcessError: it doesn't compile; the message holds the compiler's output.
    """
    folder = ROOT / "build" / f"sanitize-{sanitizer.name}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Without a build type: nanobind's own sources, which are not watched, compile fastest so.
        _run([
            *(_program("cmake"), "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=None"),
            *(f"-DCMAKE_MAKE_PROGRAM={_program('ninja')}", f"-DCMAKE_CXX_COMPILER={sanitizer.compiler}"),
            *(f"-DPython_EXECUTABLE={sys.executable}", f"-DTILEPRESS_SANITIZE={sanitizer.flags}"),
            f"-DTILEPRESS_OPTIMIZATION={sanitizer.optimization}",
            f"-DTILEPRESS_INSTRUCTION_SETS={sanitizer.instruction_sets}",
        ])  # fmt: skip
        _run([_program("cmake"), "--build", str(folder)])
    return folder


def run(sanitizer: Sanitizer, arguments: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
    """Run Python with `arguments` under the sanitizer; its first finding ends the process with a code other than 0."""
    folder = build(sanitizer)
    environment = {
        **os.environ,
        **sanitizer.environment,
        # The sanitizer wraps what the C++ library throws with, and looks for it when it starts.
        "LD_PRELOAD": f"{_library(sanitizer.library)} {_library('libstdc++.so.6')}",
        "PYTHONPATH": str(Path(__file__).parent),
        "TILEPRESS_INSTRUMENTED": str(folder / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"),
    }
    command = [*sanitizer.launcher, sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


def _library(name: str) -> str:
    """Path of a library of the compiler; its bare name where it has none, empty where there is no compiler."""
    command = ["g++", f"-print-file-name={name}"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except FileNotFoundError:
        return ""


def _program(package: str) -> str:
    """The program that the Python package of the same name brings along."""
    files = importlib.metadata.files(package) or []
    return str(next(file for file in files if file.name == package and file.parent.name == "bin").locate())


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}")


if __name__ == "__main__":
    if sys.argv[1:2] == [] or sys.argv[1] not in SANITIZERS:
        raise SystemExit(f"usage: {sys.argv[0]} {'|'.join(SANITIZERS)} PYTHON ARGUMENTS...")
    chosen = SANITIZERS[sys.argv[1]]
    if reason := why_not(chosen):
        raise SystemExit(reason)
    raise SystemExit(run(chosen, sys.argv[2:]).returncode)
