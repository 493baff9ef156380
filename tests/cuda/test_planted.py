"""Mistakes planted in the kernels, which the tests of this folder have to find, some of them under sanitizers.

A mistake is a change of one piece of a source. The tests run in a process of their own, on the changed sources.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tilepress.kernels.cuda.source import FOLDER

from . import cases, emulation

ROOT = Path(__file__).parents[2]
SUPPRESSIONS = ROOT / "tests" / "sanitizers" / "thread.suppressions"
TILES, TRELLIS = "tests/cuda/test_tiles.py", "tests/cuda/test_trellis.py"
LOSSLESS, SZ, ZFP = (f"tests/cuda/test_{codec}.py" for codec in ("lossless", "sz", "zfp"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(emulation.why_not()), reason=emulation.why_not()),
]


@dataclass(frozen=True)
class Mistake:
    """`right` in `source` becomes `wrong`; the test `chosen` then says `finding`."""

    source: str
    right: str
    wrong: str
    finding: str
    chosen: str
    mode: str = ""
    settings: dict[str, str] = field(default_factory=dict)


KERNELS = "Integer<4>|Bits<4>|add_splits|walsh_hadamard|hartley|trellis_prepare"
"""Those that the chosen cases launch; all others need not be compiled."""

DECODE = f"{TILES}::test_decoding_is_bit_identical_with_the_reference[int:bits=4,group=64]"
PRODUCTS = f"{TILES}::test_products_are_those_of_the_reference[int:bits=4,group=64]"
TRELLIS_DECODE = f"{TRELLIS}::test_decoding_is_bit_identical_with_the_reference[{cases.TRELLIS_SPECS[6]}]"
TRELLIS_PRODUCTS = f"{TRELLIS}::test_products_are_those_of_the_reference[{cases.TRELLIS_SPECS[6]}]"
MANY = f"{TILES}::test_products_with_more_rows_than_a_block_takes"
ROWS = f"{TILES}::test_a_range_of_rows_gives_that_range_of_products"
LOSSLESS_DECODE = f"{LOSSLESS}::test_every_bit_comes_back[shape0]"
LOSSLESS_KERNELS = {"TILEPRESS_EMULATOR_KERNELS": "lossless_decode<Bfloat16"}
SZ_DECODE = f"{SZ}::test_decoding_is_bit_identical_with_the_reference[abs=1e-3,predictor=lorenzo1]"
SZ_KERNELS = {"TILEPRESS_EMULATOR_KERNELS": "sz_high_parts<Bfloat16>|sz_values<Bfloat16"}
ZFP_KERNELS = {"TILEPRESS_EMULATOR_KERNELS": "zfp_decode_fixed<Bfloat16"}
MISTAKES = {
    "no barrier between writing and reading": Mistake(
        "tiles_decode.cu", "copies_wait<0>();\n    __syncthreads();", "copies_wait<0>();", "AssertionError", DECODE
    ),
    "no barrier between reading and writing": Mistake(
        "rotation.cu",
        "        __syncthreads();\n        for (int i = threadIdx.x; i < count / 2",
        "        if (half < 2) __syncthreads();\n        for (int i = threadIdx.x; i < count / 2",
        "AssertionError",
        TRELLIS_DECODE,
    ),
    "no barrier before shared memory gets another use": Mistake(
        "product.cuh",
        "copies_wait<0>();\n    __syncthreads();",
        "copies_wait<0>();",
        "data race",
        PRODUCTS,
        mode="thread",
    ),
    "no wait for a copy": Mistake(
        "product.cuh", "copies_wait<kStages - 2>();", "copies_wait<kStages>();", "AssertionError", PRODUCTS
    ),
    "no barrier after the wait for a copy": Mistake(
        "product.cuh", "kStages - 2>();\n        __syncwarp();", "kStages - 2>();", "AssertionError", PRODUCTS
    ),
    "no barrier between the stages of a block": Mistake(
        "many.cuh",
        "copies_wait<kManyStages - 2>();\n        __syncthreads();",
        "copies_wait<kManyStages - 2>();",
        "AssertionError",
        MANY,
    ),
    "no wait for the copies of a stage": Mistake(
        "many.cuh", "copies_wait<kManyStages - 2>();", "copies_wait<kManyStages>();", "AssertionError", MANY
    ),
    "a stage is overwritten while it is read": Mistake(
        "many.cuh",
        "        fetch(number + kManyStages - 1);",
        "        fetch(number + kManyStages);",
        "AssertionError",
        MANY,
    ),
    "a row of x too many": Mistake(
        "many.cuh",
        "kRowsAtOnce, vectors - 1) *",
        "kRowsAtOnce, vectors) *",
        "heap-buffer-overflow",
        MANY,
        mode="address",
    ),
    "a barrier that not all reach": Mistake(
        "tiles_decode.cu",
        "    copies_wait<0>();\n    __syncthreads();",
        "    copies_wait<0>();\n    if (threadIdx.x < 200) __syncthreads();",
        "has returned",
        DECODE,
    ),
    "a copy to an address that is no multiple of 16": Mistake(
        "tiles_decode.cu", "kTileBytes + 16;", "kTileBytes + 8;", "multiple of 16", DECODE
    ),
    "a lane too few in a warp's exchange": Mistake(
        "scaled.cuh",
        "__shfl_xor_sync(0xffffffffu, largest",
        "__shfl_xor_sync(0x7fffffffu, largest",
        "mask",
        TRELLIS_PRODUCTS,
    ),
    "global memory is written past its end": Mistake(
        "tiles_multiply.cu", " || matrix_row >= row_last) return;", ") return;", "heap-buffer-overflow", PRODUCTS,
        mode="address",
    ),
    "two blocks write the same": Mistake(
        "tiles_multiply.cu",
        "y[place] = Dtype::store(total);\n",
        "y[place] = Dtype::store(total);\n        y[0] = Dtype::store(total);\n",
        "data race",
        ROWS,
        mode="thread",
        settings={"TILEPRESS_EMULATOR_BLOCKS": "concurrent"},
    ),
    "no barrier before a table in shared memory is read": Mistake(
        "lossless.cuh", "threadIdx.x);\n    __syncthreads();", "threadIdx.x);", "AssertionError", LOSSLESS_DECODE,
        settings=LOSSLESS_KERNELS,
    ),
    "a warp reads past the end of a payload": Mistake(
        "warp_bytes.cuh", "4 * number < end_ ? reinterpret", "true ? reinterpret",
        "heap-buffer-overflow", LOSSLESS_DECODE, mode="address", settings=LOSSLESS_KERNELS,
    ),
    "an offset of the file is trusted": Mistake(
        "lossless.cuh", "0 <= begin && ", "", "heap-buffer-overflow",
        f"{LOSSLESS}::test_a_block_that_is_damaged_is_nan_and_no_other_is", mode="address", settings=LOSSLESS_KERNELS,
    ),
    "what a warp's other lanes wrote is read without a barrier": Mistake(
        "sz_decode.cu", "    __syncwarp();\n", "", "data race", SZ_DECODE, mode="thread", settings=SZ_KERNELS
    ),
    "two rows share the sums of warps": Mistake(
        "sz_decode.cu", "totals[row % 2]", "totals[0]", "data race", SZ_DECODE, mode="thread", settings=SZ_KERNELS
    ),
    "a thread reads past the end of a payload": Mistake(
        "zfp.cuh", "filled_ < left_ ? words_[next_] : 0u", "words_[next_]", "heap-buffer-overflow",
        f"{ZFP}::test_any_values_and_any_bytes_are_decoded_as_by_the_reference[rate=32]", mode="address",
        settings=ZFP_KERNELS,
    ),
}  # fmt: skip


def library(name: str) -> str:
    command = ["g++", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def watched(mode: str, arguments: list[str], settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run tests of this folder, on kernels that were compiled in a mode."""
    environment = {**os.environ, **settings, "TILEPRESS_EMULATOR": mode}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--capture=sys", *arguments]
    if mode:
        name = {"address": "libasan.so", "thread": "libtsan.so"}[mode]
        if not Path(library(name)).is_absolute():
            pytest.skip(f"the compiler has no {name}")
        environment |= {
            "LD_PRELOAD": f"{library(name)} {library('libstdc++.so.6')}",
            "PYTHONMALLOC": "malloc",
            "ASAN_OPTIONS": "detect_leaks=0",
            "TSAN_OPTIONS": f"halt_on_error=1:report_thread_leaks=0:suppressions={SUPPRESSIONS}",
        }
    if mode == "thread":
        command = ["setarch", platform.machine(), "-R", *command]
    return subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_found(name: str, tmp_path: Path) -> None:
    mistake, folder = MISTAKES[name], tmp_path / "kernels"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    text = (folder / mistake.source).read_text()
    assert text.count(mistake.right) == 1
    (folder / mistake.source).write_text(text.replace(mistake.right, mistake.wrong))
    settings = {"TILEPRESS_EMULATOR_SOURCES": str(folder), "TILEPRESS_EMULATOR_KERNELS": KERNELS, **mistake.settings}
    done = watched(mistake.mode, [mistake.chosen], settings)
    assert done.returncode != 0, done.stdout[-5000:]
    assert mistake.finding in done.stdout, done.stdout[-5000:]


# zfpy brings an OpenMP of its own, which ThreadSanitizer's suppressions can't tell from PyTorch's.
@pytest.mark.parametrize(
    ("file", "mode"),
    ((LOSSLESS, "address"), (SZ, "address"), (ZFP, "address"), (LOSSLESS, "thread"), (SZ, "thread")),
)
def test_kernels_that_follow_any_bytes_touch_nothing_but_their_own(file: str, mode: str) -> None:
    done = watched(mode, ["-m", "not slow", file], {})
    assert done.returncode == 0, done.stdout[-5000:]
