"""Each wrapper of an instruction in device.cuh, emulated, against NVIDIA's manual; test_gpu.py asks a GPU the same."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from tilepress.kernels.cuda.launch import Pointer
from tilepress.kernels.cuda.registry import CUPY_OPTIONS, OPTIONS
from tilepress.kernels.cuda.source import source_text

from . import emulation, instructions, nvrtc
from .emulation import Emulator, LaunchError

needs_emulator = pytest.mark.skipif(bool(emulation.why_not()), reason=emulation.why_not())


@cache
def emulator() -> Emulator:
    return Emulator(instructions.KERNELS)


@needs_emulator
def test_fragments_of_matrices_are_those_of_the_manual() -> None:
    instructions.check_fragments(emulator(), "cpu")


@needs_emulator
def test_words_are_selected_shifted_and_summed_as_the_manual_says() -> None:
    instructions.check_words(emulator(), "cpu")


@needs_emulator
def test_packed_arithmetic_rounds_once() -> None:
    instructions.check_packed(emulator(), "cpu")


@needs_emulator
def test_arithmetic_of_decoding_keeps_subnormal_numbers() -> None:
    instructions.check_floats(emulator(), "cpu")


@needs_emulator
def test_a_row_of_a_matrix_at_a_crooked_address_is_noticed(tmp_path: Path) -> None:
    crooked = tmp_path / "crooked.cu"
    crooked.write_text(Path(instructions.SOURCE).read_text().replace("shared + 16 * order", "shared + 8 * order"))
    kernel = replace(instructions.MATRICES, source=str(crooked))
    rows, order = torch.zeros(32, 4, dtype=torch.int32), torch.arange(32, dtype=torch.int32)
    with pytest.raises(LaunchError, match="a row of a matrix"):
        Emulator([kernel]).launch(kernel, (1, 1), [Pointer(rows), Pointer(order), Pointer(rows.clone())])


@pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12")
def test_they_compile_for_a_gpu() -> None:
    expressions = [kernel.expression for kernel in instructions.KERNELS]
    options = (*OPTIONS, *CUPY_OPTIONS)
    assert len(nvrtc.compile_kernels(source_text(instructions.SOURCE), expressions, "sm_80", options).usage) == 6
