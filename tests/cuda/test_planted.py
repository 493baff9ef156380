"""Mistakes planted in the kernels, which the tests of this folder have to find, some of them under sanitizers.

A mistake is a change of one piece of a source. The tests run in a process of their own, on the changed sources.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tilepress.kernels.cuda.source import FOLDER

from . import cases, emulation

ROOT = Path(__file__).parents[2]
SUPPRESSIONS = ROOT / "tests" / "sanitizers" / "thread.suppressions"
TILES, TRELLIS = "tests/cuda/test_tiles.py", "tests/cuda/test_trellis.py"
LOSSLESS, SZ, ZFP, ATTENTION = (f"tests/cuda/test_{name}.py" for name in ("lossless", "sz", "zfp", "attention"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(emulation.why_not()), reason=emulation.why_not()),
]


@dataclass(frozen=True)
class Watch:
    """How tests are run on a mistake, and what they then say."""

    finding: str
    name: str = "shuffled order"
    mode: str = ""
    settings: dict[str, str] = field(default_factory=dict)


FAIR, GREEDY = (
    Watch("AssertionError", name, settings={"TILEPRESS_EMULATOR_ORDER": order})
    for name, order in (("fair order", "ASCENDING"), ("greedy order", "GREEDY"))
)
WRONG = Watch("AssertionError")
OVERFLOW = Watch("heap-buffer-overflow", "address", "address")
RACE = Watch("data race", "thread", "thread")
RACE_OF_BLOCKS = Watch("data race", "thread, blocks", "thread", {"TILEPRESS_EMULATOR_BLOCKS": "concurrent"})


@dataclass(frozen=True)
class Mistake:
    """`right` in `source` becomes `wrong`; each watch finds it, by the test `chosen`, which launches `kernels`."""

    source: str
    right: str
    wrong: str
    chosen: str
    kernels: str
    watches: tuple[Watch, ...]


DECODE = f"{TILES}::test_decoding_is_bit_identical_with_the_reference[int:bits=4,group=64]"
PRODUCTS = f"{TILES}::test_products_are_those_of_the_reference[int:bits=4,group=64]"
MANY = f"{TILES}::test_products_with_more_rows_than_a_block_takes"
ROWS = f"{TILES}::test_a_range_of_rows_gives_that_range_of_products"
TRELLIS_DECODE = f"{TRELLIS}::test_decoding_is_bit_identical_with_the_reference[{cases.TRELLIS_SPECS[6]}]"
TRELLIS_PRODUCTS = f"{TRELLIS}::test_products_are_those_of_the_reference[{cases.TRELLIS_SPECS[6]}]"
LOSSLESS_DECODE = f"{LOSSLESS}::test_every_bit_comes_back[shape0]"
SZ_DECODE = f"{SZ}::test_decoding_is_bit_identical_with_the_reference[abs=1e-3,predictor=lorenzo1]"
ZFP_DECODE = f"{ZFP}::test_any_values_and_any_bytes_are_decoded_as_by_the_reference"
OF_TILES, OF_TRELLIS = "Integer<4>|add_splits", "Bits<4>|walsh_hadamard|hartley|trellis_prepare|add_splits"
OF_LOSSLESS, OF_SZ = "lossless_decode<Bfloat16", "sz_high_parts<Bfloat16|sz_values<Bfloat16"
ATTEND, OF_ATTENTION = f"{ATTENTION}::test_attention_is_that_of_the_reference[fp8]", "_few<E4m3|_merge<Float16"
ATTEND_MANY = f"{ATTENTION}::test_attention_of_many_queries_is_that_of_the_reference[fp8]"
OF_ATTENTION_MANY = "attention_many<E4m3|_merge<Float16"

MISTAKES = {
    "no barrier between writing and reading": Mistake(
        "tiles_decode.cu", "copies_wait<0>();\n    __syncthreads();", "copies_wait<0>();",
        DECODE, OF_TILES, (FAIR, GREEDY, RACE),
    ),
    "no barrier between reading and writing, at the end of a loop": Mistake(
        "many.cuh",
        "        __syncthreads();\n        fetch(number + kManyStages - 1);",
        "        fetch(number + kManyStages - 1);\n        __syncthreads();",
        MANY, OF_TILES, (GREEDY, RACE),
    ),
    "no wait for a copy": Mistake(
        "product.cuh", "copies_wait<kStages - 2>();", "copies_wait<kStages>();", PRODUCTS, OF_TILES, (FAIR, GREEDY)
    ),
    "shared memory is written past its end": Mistake(
        "lossless.cuh", "+ threadIdx.x] =", "+ threadIdx.x + 1] =", LOSSLESS_DECODE, OF_LOSSLESS, (OVERFLOW,)
    ),
    "global memory is written past its end": Mistake(
        "tiles_multiply.cu", " || matrix_row >= row_last) return;", ") return;", PRODUCTS, OF_TILES, (OVERFLOW,)
    ),
    "a copy to an address that is no multiple of 16": Mistake(
        "tiles_decode.cu", "kTileBytes + 16;", "kTileBytes + 8;", DECODE, OF_TILES,
        (replace(FAIR, finding="multiple of 16"), replace(OVERFLOW, finding="multiple of 16")),
    ),
    "a barrier that not all reach": Mistake(
        "tiles_decode.cu",
        "    copies_wait<0>();\n    __syncthreads();",
        "    copies_wait<0>();\n    if (threadIdx.x < 200) __syncthreads();",
        DECODE, OF_TILES, tuple(replace(watch, finding="has returned") for watch in (FAIR, GREEDY)),
    ),
    "two blocks write the same": Mistake(
        "tiles_multiply.cu",
        "y[place] = Dtype::store(total);\n",
        "y[place] = Dtype::store(total);\n        y[0] = Dtype::store(total);\n",
        ROWS, OF_TILES, (RACE_OF_BLOCKS,),
    ),
    "no barrier between rounds of a transform": Mistake(
        "rotation.cu",
        "        __syncthreads();\n        for (int i = threadIdx.x; i < count / 2",
        "        if (half < 2) __syncthreads();\n        for (int i = threadIdx.x; i < count / 2",
        TRELLIS_DECODE, OF_TRELLIS, (WRONG,),
    ),
    "no barrier before shared memory gets another use": Mistake(
        "product.cuh", "copies_wait<0>();\n    __syncthreads();", "copies_wait<0>();", PRODUCTS, OF_TILES, (RACE,)
    ),
    "no barrier before the stages of a block get another use": Mistake(
        "many.cuh", "copies_wait<0>();\n    __syncthreads();", "copies_wait<0>();", MANY, OF_TILES, (GREEDY, RACE)
    ),
    "a ring goes round too late": Mistake(
        "product.cuh", "slot_ == (kStages - 1) * kStageBytes", "slot_ == kStages * kStageBytes",
        f"{TILES}::test_warps_whose_run_of_tiles_goes_round_their_ring", OF_TILES, (WRONG,),
    ),
    "no barrier after the wait for a copy": Mistake(
        "product.cuh", "kStages - 2>();\n        __syncwarp();", "kStages - 2>();", PRODUCTS, OF_TILES, (WRONG,)
    ),
    "no barrier between the stages of a block": Mistake(
        "many.cuh",
        "copies_wait<kManyStages - 2>();\n        __syncthreads();",
        "copies_wait<kManyStages - 2>();",
        MANY, OF_TILES, (WRONG,),
    ),
    "no wait for the copies of a stage": Mistake(
        "many.cuh", "copies_wait<kManyStages - 2>();", "copies_wait<kManyStages>();", MANY, OF_TILES, (WRONG,)
    ),
    "a stage is overwritten while it is read": Mistake(
        "many.cuh",
        "        fetch(number + kManyStages - 1);",
        "        fetch(number + kManyStages);",
        MANY, OF_TILES, (WRONG,),
    ),
    "a row of x too many": Mistake(
        "many.cuh", "kRowsAtOnce, vectors - 1) *", "kRowsAtOnce, vectors) *", MANY, OF_TILES, (OVERFLOW,)
    ),
    "a lane too few in a warp's exchange": Mistake(
        "scaled.cuh",
        "__shfl_xor_sync(0xffffffffu, largest",
        "__shfl_xor_sync(0x7fffffffu, largest",
        TRELLIS_PRODUCTS, OF_TRELLIS, (Watch("mask"),),
    ),
    "no barrier before a table in shared memory is read": Mistake(
        "lossless.cuh", "threadIdx.x);\n    __syncthreads();", "threadIdx.x);",
        LOSSLESS_DECODE, OF_LOSSLESS, (WRONG,),
    ),
    "a warp reads past the end of a payload": Mistake(
        "warp_bytes.cuh", "4 * number < end_ ? reinterpret", "true ? reinterpret",
        LOSSLESS_DECODE, OF_LOSSLESS, (OVERFLOW,),
    ),
    "an offset of a block is trusted": Mistake(
        "lossless.cuh", "0 <= begin && ", "",
        f"{LOSSLESS}::test_a_block_that_is_damaged_is_nan_and_no_other_is", OF_LOSSLESS, (OVERFLOW,),
    ),
    "a lane leaves out an exchange of its warp": Mistake(
        "lossless_multiply.cu", "(vector >= count) break;", "(vector >= count || lane_number() == 31) break;",
        f"{LOSSLESS}::test_products_are_those_of_the_reference[shape0]", "lossless_multiply|add_splits",
        (Watch("in a warp"),),
    ),
    "an offset of a tile is trusted": Mistake(
        "sz.cuh", "0 <= begin && ", "", f"{SZ}::test_a_tile_that_is_damaged_is_nan_and_no_other_is", OF_SZ, (OVERFLOW,)
    ),
    "a stream is as long as it says": Mistake(
        "sz.cuh", " && bytes <= end - begin;", ";",
        f"{SZ}::test_any_bytes_give_some_values_and_sound_tiles_those_of_the_reference", OF_SZ, (OVERFLOW,),
    ),
    "what a warp's other lanes wrote is read without a barrier": Mistake(
        "sz_decode.cu", "    __syncwarp();\n", "", SZ_DECODE, OF_SZ, (RACE,)
    ),
    "two rows share the sums of warps": Mistake(
        "sz_decode.cu", "totals[row % 2]", "totals[0]", SZ_DECODE, OF_SZ, (RACE,)
    ),
    "an offset of a panel is trusted": Mistake(
        "zfp.cuh", "0 <= first && ", "",
        f"{ZFP}::test_a_panel_whose_offsets_are_damaged_is_nan_and_no_other_is[reversible=true]",
        "zfp_decode_variable", (OVERFLOW,),
    ),
    "a thread reads past the end of a payload": Mistake(
        "zfp.cuh", "filled_ < left_ ? words_[next_] : 0u", "words_[next_]",
        f"{ZFP_DECODE}[rate=32]", "zfp_decode_fixed", (OVERFLOW,),
    ),
    "a lane too few in the exchange of a transform": Mistake(
        "zfp_decode.cu", "constexpr u32 all = 0xffffffffu;", "constexpr u32 all = 0xfffffffeu;",
        f"{ZFP_DECODE}[precision=12]", "zfp_decode_variable", (Watch("mask"),),
    ),
    "no barrier before the sums of warps are read": Mistake(
        "zfp_multiply.cu", "    __syncthreads();\n", "", f"{ZFP}::test_products_are_those_of_the_reference",
        "zfp_multiply|add_splits", (FAIR, GREEDY, RACE),
    ),
    "no wait for a copy of a tile": Mistake(
        "attention_stages.cuh", "copies_wait<kStages - 2>();", "copies_wait<kStages>();", ATTEND, OF_ATTENTION,
        (FAIR, GREEDY),
    ),
    "a tile's stage is overwritten while it is read": Mistake(
        "attention_stages.cuh", "kStages - 2>();\n        __syncwarp();", "kStages - 2>();", ATTEND, OF_ATTENTION,
        (WRONG,),
    ),
    "weights of other lanes are read without a barrier": Mistake(
        "attention_few.cu", "        __syncwarp();\n#pragma", "#pragma", ATTEND, OF_ATTENTION, (FAIR, RACE)
    ),
    "a token past the end of the window is read": Mistake(
        "attention.cuh", "min(token, tokens - 1)", "token",
        f"{ATTENTION}::test_a_full_window_that_is_no_multiple_of_anything[fp8]", OF_ATTENTION, (OVERFLOW,),
    ),
    "warps add to the same sums at once": Mistake(
        "attention_few.cu",
        "sums_[block][i];\n                    }\n                }\n            __syncthreads();",
        "sums_[block][i];\n                    }\n                }",
        ATTEND, OF_ATTENTION, (RACE,),
    ),
    "no barrier between decoding tokens and multiplying them": Mistake(
        "attention_many.cu",
        "__syncthreads();\n                mine.template multiply_keys<true>",
        "mine.template multiply_keys<true>",
        ATTEND_MANY, OF_ATTENTION_MANY, (FAIR, RACE),
    ),
    "tokens are decoded over those that are multiplied": Mistake(
        "attention_many.cu", "__syncthreads();\n                decoder.keys", "decoder.keys",
        ATTEND_MANY, OF_ATTENTION_MANY, (GREEDY, RACE),
    ),
}  # fmt: skip
"""The first eight are those of the table of what each way of watching finds, in docs/cuda.md."""


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


@pytest.mark.parametrize(
    ("name", "watch"),
    [pytest.param(name, watch, id=f"{name}, {watch.name}") for name in MISTAKES for watch in MISTAKES[name].watches],
)
def test_a_planted_mistake_is_found(name: str, watch: Watch, tmp_path: Path) -> None:
    mistake, folder = MISTAKES[name], tmp_path / "kernels"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    text = (folder / mistake.source).read_text()
    assert text.count(mistake.right) == 1
    (folder / mistake.source).write_text(text.replace(mistake.right, mistake.wrong))
    settings = {"TILEPRESS_EMULATOR_SOURCES": str(folder), "TILEPRESS_EMULATOR_KERNELS": mistake.kernels}
    done = watched(watch.mode, [mistake.chosen], {**settings, **watch.settings})
    assert done.returncode != 0, done.stdout[-5000:]
    assert watch.finding in done.stdout, done.stdout[-5000:]


@pytest.mark.parametrize("mode", ("address", "thread"))
@pytest.mark.parametrize("file", (TILES, TRELLIS, LOSSLESS, SZ, ZFP, ATTENTION))
def test_the_quick_pass_is_clean_under_sanitizers(file: str, mode: str) -> None:
    """Of ThreadSanitizer, with blocks that nothing orders."""
    done = watched(mode, ["-m", "not slow", file], RACE_OF_BLOCKS.settings if mode == "thread" else {})
    assert done.returncode == 0, done.stdout[-5000:]
