"""Every kernel compiles for every GPU that docs/cuda.md lists, and takes what its table says; no GPU is needed."""

from __future__ import annotations

import re
from itertools import groupby

import pytest
import torch

from tilepress.kernels.cuda import registry
from tilepress.kernels.cuda.registry import ARCHITECTURES, CUPY_OPTIONS, OPTIONS, Kernel
from tilepress.kernels.cuda.source import FOLDER, source_text

from . import cases, nvrtc, sass, usage

needs_nvrtc = pytest.mark.skipif(
    nvrtc.library() is None, reason="NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12"
)
ALL = list(registry.kernels())
SOME = [
    next(kernel for kernel in ALL if kernel.label == label)
    for label in (
        "tiles_decode<Integer<3>, Bfloat16Scale, Float16>",
        "tiles_decode<E2m1, E4m3Scale, Float32>",
        "tiles_multiply<Integer<4>, Bfloat16Scale, Bfloat16>",
        "tiles_multiply<Nf4, Bfloat16Scale, Float32>",
        "trellis_multiply<Bits<3>, Window<0>, Sets<2>>",
        "tiles_multiply_many<Integer<3>, Bfloat16Scale, Float16>",
        "walsh_hadamard<Rows, Float32>",
        "lossless_decode<Bfloat16Planes, Bfloat16>",
        "lossless_multiply<Bfloat16Planes, Bfloat16>",
        "sz_values<Bfloat16, Float32>",
        "zfp_multiply<Bfloat16>",
    )
]


def compiled(kernels: list[Kernel], architecture: str) -> dict[Kernel, tuple[nvrtc.Usage, bytes]]:
    found = {}
    for source, group in groupby(sorted(kernels, key=lambda kernel: kernel.source), lambda kernel: kernel.source):
        members = list(group)
        expressions = [kernel.expression for kernel in members]
        result = nvrtc.compile_kernels(source_text(source), expressions, architecture, (*OPTIONS, *CUPY_OPTIONS))
        found |= {kernel: (result.usage[kernel.expression], result.cubin) for kernel in members}
    return found


def check(kernels: list[Kernel], architecture: str) -> None:
    found = compiled(kernels, architecture)
    assert len(found) == len(kernels)
    documented = usage.documented()
    for kernel, (taken, _) in found.items():
        assert (taken.spill_bytes, taken.stack_bytes, taken.static_shared_bytes) == (0, 0, 0), kernel.label
        assert taken.registers <= kernel.registers, kernel.label
        shared, registers = documented[kernel.label]
        assert shared == kernel.shared_bytes, kernel.label
        assert registers[ARCHITECTURES.index(architecture)] == taken.registers, kernel.label


def test_every_kernel_has_a_name_of_its_own_and_a_line_in_the_table() -> None:
    assert len({kernel.expression for kernel in ALL}) == len(ALL)
    assert set(usage.documented()) == {kernel.label for kernel in ALL}


def test_sources_include_no_header_but_their_own() -> None:
    for kernel in cases.some_of(ALL):
        text = source_text(kernel.source)
        assert re.findall(r"#include.*", text) == ['#include "emulator.hpp"'], "which NVRTC skips"
        assert text.count('#line 1 "device.cuh"') == 1


def test_the_sources_lines_keep_their_numbers() -> None:
    for source in sorted({kernel.source for kernel in ALL}):
        file, number, lines = "", 0, {}
        for line in source_text(source).split("\n"):
            if named := re.fullmatch(r'#line (\d+) "(.+)"', line):
                number, file = int(named[1]), named[2]
                continue
            lines[file, number] = line
            number += 1
        for (file, number), line in lines.items():
            there = (FOLDER / file).read_text().split("\n")[number - 1] if file else line
            assert line in (there, ""), (file, number)


@needs_nvrtc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_some_kernels_compile_without_spills(architecture: str) -> None:
    turn = ARCHITECTURES.index(architecture)
    check(SOME[turn % 2 :: 2], architecture)


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles_without_spills(architecture: str) -> None:
    check(ALL, architecture)


@needs_nvrtc
@pytest.mark.skipif(bool(sass.why_not()), reason=sass.why_not())
def test_products_use_tensor_cores_and_copies_of_128_bits() -> None:
    code = registry.TILE_CODES[2]
    few = registry.tiles_multiply(code, torch.bfloat16), registry.trellis_multiply(4, 16, 1)
    many = registry.tiles_multiply_many(code, torch.bfloat16), registry.trellis_multiply_many(4, 16)
    for kernel, (_, cubin) in compiled([*few, *many], "sm_90").items():
        text = sass.disassembled(cubin)
        dtype = "F32" if kernel in (few[1], many[1]) else "F32.BF16"
        assert re.search(rf"HMMA\.16816\.{re.escape(dtype)} ", text), kernel.label
        assert "LDGSTS.E.BYPASS.128" in text, kernel.label
        assert ("LDSM.16.M88.4" in text) == (kernel in many), kernel.label


@needs_nvrtc
def test_what_does_not_compile_is_told_with_its_line() -> None:
    text = source_text("tiles_decode.cu").replace("copies_wait<0>();", "copies_wait(0);")
    with pytest.raises(nvrtc.CompileError, match=r"tiles_decode\.cu\(\d+\)"):
        nvrtc.compile_kernels(text, [SOME[0].expression], "sm_90", OPTIONS)


@needs_nvrtc
def test_a_kernel_that_is_not_there_is_noticed() -> None:
    with pytest.raises(nvrtc.CompileError):
        nvrtc.compile_kernels(source_text("tiles_decode.cu"), ["tilepress::tiles_decode<int>"], "sm_90", OPTIONS)
