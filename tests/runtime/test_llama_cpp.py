"""llama.cpp in `tilepress bench`: by a stand-in with its interface, and by itself where it is installed."""

from __future__ import annotations

import ctypes
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as T

from tilepress.kernels import RecipeError
from tilepress.runtime import llama_cpp
from tilepress.runtime.bench import bench
from tilepress.runtime.entrants import Entrant
from tilepress.runtime.speed import PROMPT_TOKENS

VOCABULARY = 136


class StandIn(ModuleType):
    """What is called of llama-cpp-python: a model is its file's bytes, a context the tokens that it has taken.

    Attributes:
        seen: lengths of the batches that were taken.
    """

    LLAMA_FTYPE_MOSTLY_Q4_K_M, LLAMA_FTYPE_MOSTLY_Q4_0 = 15, 2
    llama_token = ctypes.c_int32
    llama_model_default_params = llama_context_default_params = SimpleNamespace

    class llama_model_quantize_default_params(ctypes.Structure):
        _fields_ = (("ftype", ctypes.c_int), ("nthread", ctypes.c_int))

    def __init__(self) -> None:
        super().__init__("llama_cpp")
        self.seen: list[int] = []
        self.llama_model_get_vocab = self.llama_get_memory = lambda of: of
        self.llama_vocab_n_tokens = lambda vocabulary: VOCABULARY
        self.llama_model_n_ctx_train = lambda model: 1024
        self.llama_model_size = len
        self.llama_model_quantize = lambda source, target, options: shutil.copy(source.decode(), target.decode()) and 0
        self.llama_model_load_from_file = lambda file, options: Path(file.decode()).read_bytes()
        self.llama_init_from_model = lambda model, options: [0]
        self.llama_memory_clear = lambda taken, data: taken.clear()
        self.llama_batch_get_one = lambda numbers, count: list(numbers)[:count]
        self.llama_free = self.llama_model_free = lambda freed: None

    def llama_decode(self, taken: list[int], batch: list[int]) -> int:
        taken += batch
        self.seen.append(len(batch))
        return 0

    def llama_get_logits(self, taken: list[int]) -> Any:
        self._logits = (ctypes.c_float * VOCABULARY)()
        return ctypes.cast(self._logits, ctypes.POINTER(ctypes.c_float))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("llama") / "tiny"
    config = T.LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
    )
    T.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    module = StandIn()
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    return module


def test_files_are_made_of_the_first_model_and_take_turns_with_it(checkpoint: Path, stand_in: StandIn) -> None:
    rows = bench([checkpoint], ["llama.cpp"])
    assert [row.name for row in rows] == ["tiny", "tiny-Q4_K_M", "tiny-Q4_0"]
    assert rows[0].codec == "none"
    for row in rows[1:]:
        assert row.codec == "llama.cpp"
        assert row.size_bytes == row.memory_bytes > 0
        assert row.tokens_per_second_prefill > row.tokens_per_second_decode > 0
        assert 0 < row.native_share <= 1
    assert set(stand_in.seen) == {PROMPT_TOKENS, 1}


def test_a_file_that_is_named_is_run_instead(checkpoint: Path, stand_in: StandIn, tmp_path: Path) -> None:
    (made, _) = llama_cpp.files_of(Entrant(checkpoint), tmp_path)
    assert [row.name for row in bench([made], ["llama.cpp"])] == ["tiny-Q4_K_M"]


def test_a_peer_that_is_missing_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(RecipeError, match=r"pip install llama-cpp-python$"):
        bench([checkpoint], ["llama.cpp"])
    with pytest.raises(RecipeError, match=r"no peer is called 'vllm'; there is llama\.cpp"):
        bench([checkpoint], ["vllm"])


def test_llama_cpp_computes_what_transformers_computes(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    entrant = Entrant(checkpoint)
    whole = llama_cpp.write(entrant, tmp_path)
    tokens = torch.arange(20)
    with torch.no_grad():
        expected = entrant.load(torch.float32)(tokens[None]).logits[0, -1]
    with llama_cpp.contestant(whole).load() as runner:
        runner.prefill(tokens)
        torch.testing.assert_close(torch.tensor(runner.logits()), expected, rtol=1e-3, atol=1e-3)
