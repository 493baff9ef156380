"""What the fuzzer has kept is gone through again by every test run, with the extension that is installed."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tilepress.kernels import CODECS
from tilepress.kernels.cpu.instruction_set import instruction_set as active

from ..kernels.specs import FUZZED, SPECS_OF

pytest.importorskip("tilepress.kernels._native")

from . import target

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", FUZZED)
def test_what_the_fuzzer_kept_is_computed_or_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, specs = FUZZED[name]
    fuzzed = importlib.import_module(f".{module}", __package__)
    monkeypatch.setenv("TILEPRESS_CPU", "portable")  # and is put back after `check` has gone through all of them
    kept = [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]
    try:
        for data in (*fuzzed.seeds(specs), *kept):
            fuzzed.check(specs, data)
    finally:
        active.cache_clear()


@pytest.mark.parametrize("codec", CODECS)
def test_a_seed_stands_for_the_tensor_that_was_encoded(codec: str) -> None:
    for number, seed in enumerate(target.seeds(SPECS_OF[codec])):
        encoded, wanted = target.tensor_of(SPECS_OF[codec], seed)
        assert target.bytes_of(number // target.SEEDS_A_SPEC, encoded, wanted) == seed
