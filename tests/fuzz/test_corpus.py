"""What the fuzzer has kept is decoded again by every test run, with the extension that is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tilepress.kernels import CODECS
from tilepress.kernels.cpu.instruction_set import instruction_set as active

from ..kernels.specs import SPECS_OF

pytest.importorskip("tilepress.kernels._native")

from . import target

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("codec", CODECS)
def test_what_the_fuzzer_kept_decodes_or_is_refused(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEPRESS_CPU", "portable")  # and is put back after `check` has gone through all of them
    kept = [path.read_bytes() for path in sorted((CORPUS / codec).glob("*"))]
    try:
        for data in (*target.seeds(SPECS_OF[codec]), *kept):
            target.check(SPECS_OF[codec], data)
    finally:
        active.cache_clear()


@pytest.mark.parametrize("codec", CODECS)
def test_a_seed_stands_for_the_tensor_that_was_encoded(codec: str) -> None:
    for number, seed in enumerate(target.seeds(SPECS_OF[codec])):
        encoded, wanted = target.tensor_of(SPECS_OF[codec], seed)
        assert target.bytes_of(number // target.SEEDS_A_SPEC, encoded, wanted) == seed
