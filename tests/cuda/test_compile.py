"""Every kernel compiles for every GPU that docs/cuda.md lists, and takes what its table says; no GPU is needed."""

from __future__ import annotations

import re
from itertools import groupby

import pytest

from tilepress.kernels.cuda import registry
from tilepress.kernels.cuda.registry import ARCHITECTURES, CUPY_OPTIONS, OPTIONS, Kernel
from tilepress.kernels.cuda.source import FOLDER, source_text

from . import cases, nvrtc, sass, usage

needs_compiler = pytest.mark.skipif(
    nvrtc.library() is None or bool(sass.why_not()),
    reason="NVRTC or nvdisasm is not installed: pip install nvidia-cuda-nvrtc-cu12 nvidia-cuda-nvdisasm",
)
ALL = list(registry.kernels())
SOME = {
    "sm_80": (
        "tiles_decode<Integer<3>, Bfloat16Scale, Float16>",
        "tiles_multiply<Nf4, Bfloat16Scale, Float32>",
        "trellis_multiply_many<Bits<4>, Window<16>>",
        "lossless_multiply<Bfloat16Planes, Bfloat16>",
    ),
    "sm_90": (
        "tiles_decode<E2m1, E4m3Scale, Float32>",
        "tiles_multiply_many<Integer<3>, Bfloat16Scale, Float16>",
        "sz_values<Bfloat16, Float32>",
    ),
    "sm_100": (
        "tiles_multiply<Integer<4>, Bfloat16Scale, Bfloat16>",
        "trellis_multiply<Bits<3>, Window<0>, Sets<2>>",
        "walsh_hadamard<Rows, Float32>",
        "lossless_decode<Bfloat16Planes, Bfloat16>",
        "zfp_multiply<Bfloat16>",
        "attention_few<Integer<4>, Bfloat16>",
    ),
}
"""Labels of those that the quick pass compiles."""

TENSOR_PRODUCTS = ("tiles_multiply", "tiles_multiply_many", "trellis_multiply", "trellis_multiply_many")
"""In other products each thread or lane multiplies the values that it has decoded from bits of its own."""


def check(kernels: list[Kernel], architecture: str) -> None:
    documented, count = usage.documented(), 0
    for source, group in groupby(sorted(kernels, key=lambda kernel: kernel.source), lambda kernel: kernel.source):
        members = list(group)
        expressions = [kernel.expression for kernel in members]
        result = nvrtc.compile_kernels(source_text(source), expressions, architecture, (*OPTIONS, *CUPY_OPTIONS))
        products = [kernel for kernel in members if kernel.template in TENSOR_PRODUCTS]
        code = sass.disassembled(result.cubin) if products else {}
        for kernel in products:
            check_product(kernel, code[result.names[kernel.expression]])
        for kernel in members:
            taken = result.usage[kernel.expression]
            assert (taken.spill_bytes, taken.stack_bytes, taken.static_shared_bytes) == (0, 0, 0), kernel.label
            assert taken.registers <= kernel.registers, kernel.label
            shared, registers = documented[kernel.label]
            assert shared == kernel.shared_bytes, kernel.label
            assert registers[ARCHITECTURES.index(architecture)] == taken.registers, kernel.label
            count += 1
    assert count == len(kernels)


def check_product(kernel: Kernel, code: str) -> None:
    """Tensor cores, in the dtype into which codes are decoded; codes copied 16 bytes at a time; ldmatrix for many x."""
    is_bfloat16 = kernel.template.startswith("tiles") and kernel.arguments[-1] != "Float16"
    assert set(re.findall(r"HMMA\.\S+", code)) == {"HMMA.16816.F32" + ".BF16" * is_bfloat16}, kernel.label
    assert set(re.findall(r"LDGSTS\.\S+", code)) == {"LDGSTS.E.BYPASS.128"}, kernel.label
    assert ("LDSM.16.M88.4" in code) == kernel.template.endswith("many"), kernel.label


def test_every_kernel_has_a_name_of_its_own_and_a_line_in_the_table() -> None:
    assert len({kernel.expression for kernel in ALL}) == len(ALL)
    assert set(usage.documented()) == {kernel.label for kernel in ALL}


def test_sources_include_no_header_but_their_own() -> None:
    for kernel in cases.some_of(ALL):
        text = source_text(kernel.source)
        assert re.findall(r"#include.*", text) == ['#include "emulator.hpp"'], "which NVRTC skips"
        assert text.count('#line 1 "device.cuh"') == 1


def test_the_sources_lines_keep_their_numbers() -> None:
    texts = {file.name: file.read_text().split("\n") for file in FOLDER.glob("*.cu*")}
    for source in sorted({kernel.source for kernel in ALL}):
        file, number = "", 0
        for line in source_text(source).split("\n"):
            if named := re.fullmatch(r'#line (\d+) "(.+)"', line):
                number, file = int(named[1]), named[2]
                continue
            assert line in (texts[file][number - 1] if file else line, ""), (file, number)
            number += 1


@needs_compiler
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_some_kernels_compile_without_spills_and_products_to_tensor_cores(architecture: str) -> None:
    chosen = [kernel for kernel in ALL if kernel.label in SOME[architecture]]
    assert len(chosen) == len(SOME[architecture])
    check(chosen, architecture)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles_without_spills_and_products_to_tensor_cores(architecture: str) -> None:
    check(ALL, architecture)


@needs_compiler
def test_what_does_not_compile_is_told_with_its_line() -> None:
    text = source_text("tiles_decode.cu").replace("copies_wait<0>();", "copies_wait(0);")
    with pytest.raises(nvrtc.CompileError, match=r"tiles_decode\.cu\(\d+\)"):
        nvrtc.compile_kernels(text, [ALL[0].expression], "sm_90", OPTIONS)


@needs_compiler
def test_a_kernel_that_is_not_there_is_noticed() -> None:
    with pytest.raises(nvrtc.CompileError):
        nvrtc.compile_kernels(source_text("tiles_decode.cu"), ["tilepress::tiles_decode<int>"], "sm_90", OPTIONS)
