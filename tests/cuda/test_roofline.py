"""What machine code allows of a GPU's bandwidth, as docs/cuda.md says."""

from __future__ import annotations

from collections import Counter

import pytest

from . import nvrtc, roofline, sass
from .roofline import GPUS, Gpu, Product

pytestmark = [
    pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12"),
    pytest.mark.skipif(bool(sass.why_not()), reason=sass.why_not()),
]

LOOP = """
        /*0000*/                   S2R R0, SR_TID.X ;
.L_x_1:
        /*0010*/               @P1 BRA `(.L_x_3) ;
        /*0020*/                   LDS R4, [R0] ;
        /*0030*/                   HMMA.16816.F32 R12, R8, R6, R12 ;
        /*0040*/               @P0 BRA `(.L_x_2) ;
        /*0050*/                   FFMA R1, R2, R3, R1 ;
        /*0060*/                   LDG.E R5, desc[UR6][R16.64] ;
.L_x_2:
        /*0070*/                   PRMT R9, R9, 0x5410, R10 ;
        /*0080*/                   HMMA.16816.F32 R12, R8, R6, R12 ;
.L_x_3:
        /*0090*/              @!P0 BRA `(.L_x_1) ;
        /*00a0*/                   EXIT ;
"""


def test_ways_round_a_loop_multiply_every_tile_with_or_without_the_end_of_a_group() -> None:
    loop = roofline.loop_of(LOOP, 2)
    always = {"BRA": 3, "LDS": 1, "HMMA.16816.F32": 2, "PRMT": 1}
    assert loop.shortest == Counter(always)
    assert loop.longest == Counter({**always, "FFMA": 1, "LDG.E": 1})
    assert loop.a_weight(float("inf")) == 7 / 2 / 8
    assert loop.a_weight(4) == (7 + 2 / 4) / 2 / 8
    with pytest.raises(ValueError, match="2 matrix products"):
        roofline.loop_of(LOOP, 4)


def test_shares_follow_from_slots_bytes_and_the_gpu() -> None:
    loop = roofline.loop_of(LOOP, 2)
    product = Product("", roofline.products()[0].kernel, 0.5, float("inf"))
    found = roofline.bound(product, loop, Gpu("", "sm_90", 1, 1.0, 1000.0))
    assert found.slots == 7 / 16
    assert found.by_issue == pytest.approx(128 / (7 / 16) * 0.5 / 1000)
    assert found.by_pipes == pytest.approx(min(1, 64 / (1 / 16) * 0.5 / 1000))


def test_trellis_codes_of_4_bits_allow_most_of_the_bandwidth() -> None:
    (product,) = [one for one in roofline.products() if one.name == "`trellis:bits=4`, 1 to 4 rows"]
    found = roofline.bounds(product)
    assert roofline.line(product, found) in roofline.DOCUMENT.read_text()
    for gpu, least in zip(GPUS, (0.6, 0.8), strict=True):
        bound = found[GPUS.index(gpu)]
        assert min(bound.by_issue, bound.by_pipes) >= least, gpu.name


@pytest.mark.slow
def test_the_table_of_the_document_is_that_of_the_machine_code() -> None:
    assert roofline.table() in roofline.DOCUMENT.read_text()
