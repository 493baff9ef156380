"""llama.cpp beside tilepress in `tilepress bench`: GGUF files, run by llama-cpp-python in the same process.

Its C interface is called, one call a token, as llama-bench does. Where no file is given, a model is written as one
(formats/gguf_write.py) and quantized by llama.cpp itself.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from tilepress.formats.gguf_header import read_gguf_header
from tilepress.formats.gguf_write import write_gguf
from tilepress.kernels import RecipeError
from tilepress.runtime.entrants import Entrant
from tilepress.runtime.speed import DECODED_TOKENS, PROMPT_TOKENS, Contestant

NAME = "llama.cpp"
QUANTIZED = ("Q4_K_M", "Q4_0")
"""What files are made of a model: those that people run."""

_ROOM = PROMPT_TOKENS + DECODED_TOKENS + 1
_FILE_TYPE_KEY = "general.file_type"


def library() -> Any:
    """The C interface of llama.cpp, which keeps its messages to itself.

    Raises:
        RecipeError: llama-cpp-python is not installed.
    """
    try:
        library = importlib.import_module("llama_cpp")
    except ImportError:
        raise RecipeError(f"{NAME}: is not here to compare with; pip install llama-cpp-python") from None
    # It takes warnings for errors.
    logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL)
    return library


def contestant(file: Path) -> Contestant:
    """A GGUF file, to be run with as many threads as PyTorch has.

    Raises:
        FormatError: a damaged file.
    """
    kind = read_gguf_header(file).metadata.get(_FILE_TYPE_KEY)
    named = [each.name.removeprefix("MOSTLY_") for each in gguf.LlamaFileType if each.value == kind]
    codec = " ".join([NAME, *named])
    return Contestant(file.stem, codec, file.stat().st_size, lambda: _loaded(file))


@contextmanager
def _loaded(file: Path) -> Iterator[LlamaCppRunner]:
    llama = library()
    options = llama.llama_model_default_params()
    options.n_gpu_layers = 0
    model = llama.llama_model_load_from_file(str(file).encode(), options)
    if not model:
        raise RecipeError(f"{file}: {NAME} can't load this file")
    try:
        options = llama.llama_context_default_params()
        options.n_ctx = options.n_batch = _ROOM
        options.n_threads = options.n_threads_batch = torch.get_num_threads()
        context = llama.llama_init_from_model(model, options)
        if not context:
            raise RecipeError(f"{file}: {NAME} can't run this model")
        try:
            yield LlamaCppRunner(llama, model, context)
        finally:
            llama.llama_free(context)
    finally:
        llama.llama_model_free(model)


class LlamaCppRunner:
    """A model in llama.cpp, on the processor, with the threads that PyTorch has.

    Attributes:
        context: most tokens that it takes.
        memory_bytes: of its weights.
        vocabulary: tokens that it knows.
        native_seconds: in llama.cpp, since it was loaded.
    """

    def __init__(self, llama: Any, model: Any, context: Any) -> None:
        """Run nothing yet."""
        self.context = int(llama.llama_model_n_ctx_train(model))
        self.memory_bytes = int(llama.llama_model_size(model))
        self.vocabulary = int(llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model)))
        self.native_seconds = 0.0
        self._llama, self._state = llama, context

    def prefill(self, prompt: torch.Tensor) -> None:
        """One batch after the cache has been emptied."""
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._state), True)
        self._take(prompt.tolist())

    def decode(self) -> None:
        """A batch of one token."""
        self._take([int(self.logits().argmax())])

    def logits(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Of the last token, until the next call."""
        return np.ctypeslib.as_array(self._llama.llama_get_logits(self._state), (self.vocabulary,))

    def _take(self, tokens: list[int]) -> None:
        begin = time.perf_counter()
        numbers = (self._llama.llama_token * len(tokens))(*tokens)
        if self._llama.llama_decode(self._state, self._llama.llama_batch_get_one(numbers, len(tokens))) != 0:
            raise RecipeError(f"{NAME}: could not take {len(tokens)} tokens")
        self.native_seconds += time.perf_counter() - begin


def files_of(model: Entrant, folder: Path) -> list[Path]:
    """Make a file of each of the types in `QUANTIZED` in a folder.

    Raises:
        RecipeError: a model of another kind than llama.cpp's files are written for, or that it can't quantize.
    """
    llama = library()
    whole = write(model, folder)
    files = []
    for kind in QUANTIZED:
        file = folder / f"{model.name}-{kind}.gguf"
        options = llama.llama_model_quantize_default_params()
        options.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{kind}")
        options.nthread = torch.get_num_threads()
        if llama.llama_model_quantize(str(whole).encode(), str(file).encode(), ctypes.byref(options)) != 0:
            raise RecipeError(f"{model.source}: {NAME} can't quantize it to {kind}; name a GGUF file")
        files.append(file)
    whole.unlink()
    return files


def write(model: Entrant, folder: Path) -> Path:
    """Write a model to a file as it is, decoded.

    Raises:
        RecipeError: a model of another kind than llama.cpp's files are written for.
    """
    file = folder / f"{model.name}.gguf"
    write_gguf(file, model.config, model.opened.infos.values(), model.opened.tensor)
    return file
