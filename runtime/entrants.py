"""A model that takes part in a comparison: what its weight files hold, and how it is loaded.

Sizes are those of the files. Bits per weight count all tensors of two or more dimensions, compressed or not.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging as transformers_logging

from tilepress.formats.checkpoint import GGUF_SUFFIX, Checkpoint, open_checkpoint
from tilepress.formats.container import QUANT_METHOD, Container
from tilepress.formats.gguf_header import read_gguf_header
from tilepress.formats.sharding import CONFIG_NAME, read_json_object
from tilepress.formats.summary import summarise
from tilepress.formats.text import first_line, load_tokenizer
from tilepress.kernels import DTYPES, RecipeError
from tilepress.runtime.loading import load

_MOSTLY = 0.5
"""A spec that covers more than this share of the weights stands for the whole model."""


@dataclass(frozen=True)
class WeightFiles:
    """What weight files hold.

    Attributes:
        size_bytes: of all of them.
        bits_per_weight: over all tensors of two or more dimensions.
        codec: spec of most of those weights, `mixed` where none has more than half; of a GGUF file the block type.
        dtype: of most of the weights before compression.
        digest: differs when the files hold something else.
    """

    size_bytes: int
    bits_per_weight: float
    codec: str
    dtype: torch.dtype
    digest: str


class Entrant:
    """A compressed or uncompressed causal language model on disk.

    Attributes:
        source: path or name, as it was given.
        name: last part of it.
        opened: the container or checkpoint.
        weights: figures of its weight files.
        config: of the model.
    """

    def __init__(self, source: str | Path) -> None:
        """Open a container, or whatever `open_checkpoint` opens; headers only.

        Raises:
            FormatError: a damaged checkpoint, or a folder that holds none.
            RecipeError: no such path, or a model that doesn't predict a next token.
        """
        self.source = source
        self.name = Path(source).absolute().name
        self.opened: Container | Checkpoint
        if is_container(Path(source)):
            self.opened = Container.open(source)
            self.weights = _of_container(self.opened)
        else:
            self.opened = open_checkpoint(source)
            self.weights = _of_checkpoint(self.opened)
        self.config = self._read_config()

    @property
    def dtype(self) -> torch.dtype:
        """The model's own dtype: what its config says, else that of most of its weights."""
        named = self.config.dtype
        return named if isinstance(named, torch.dtype) and named in DTYPES.values() else self.weights.dtype

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer.

        Raises:
            RecipeError: there is none that Transformers can load.
        """
        return load_tokenizer(self.opened.path, self.source)

    def load(self, dtype: torch.dtype) -> PreTrainedModel:
        """Load the model for inference.

        Raises:
            TilepressError: as `tilepress.load`.
            RecipeError: an uncompressed checkpoint whose tensors don't make up the model.
        """
        with _without_progress_bars():
            if isinstance(self.opened, Container):
                return cast(PreTrainedModel, load(self.opened.path, dtype=dtype))
            return self._load_uncompressed(self.opened, dtype)

    def _load_uncompressed(self, checkpoint: Checkpoint, dtype: torch.dtype) -> PreTrainedModel:
        """Build the model from the very tensors that a conversion of the same source reads."""
        tensors = {name: checkpoint.tensor(name) for name in checkpoint.infos}
        model, report = _model_class(self.config).from_pretrained(
            None, config=self.config, state_dict=tensors, dtype=dtype, output_loading_info=True
        )
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])[0]
            raise RecipeError(
                f"{self.source}: has no tensor for {missing}; the checkpoint does not fit its config.json"
            )
        return cast(PreTrainedModel, model)

    def _read_config(self) -> PretrainedConfig:
        try:
            config: PretrainedConfig = AutoConfig.from_pretrained(self.opened.path)
        except Exception as problem:  # Config classes raise whatever a wrong value makes them stumble over.
            raise RecipeError(
                f"{self.source}: has no config.json that Transformers can load ({first_line(problem)})"
            ) from None
        expected = _model_class(config)
        named = next(iter(config.architectures or ()), None)
        if expected is None or named not in (None, expected.__name__):
            raise RecipeError(
                f"{self.source}: is a {named or config.model_type}, which does not predict a next token; "
                "only causal language models can be compared"
            )
        return config


def is_container(folder: Path) -> bool:
    """Whether a folder says of itself that tilepress wrote it."""
    if not (folder / CONFIG_NAME).is_file():
        return False
    quantization = read_json_object(folder / CONFIG_NAME).get("quantization_config")
    return isinstance(quantization, dict) and quantization.get("quant_method") == QUANT_METHOD


def _model_class(config: PretrainedConfig) -> Any:
    """The causal language model that a config belongs to, or None."""
    return MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)


def _of_container(container: Container) -> WeightFiles:
    summary = summarise(container)
    specs: Counter[str] = Counter()
    dtypes: Counter[torch.dtype] = Counter()
    for record in container.records.values():
        if len(record.shape) >= 2:
            specs[record.params.spec()] += math.prod(record.shape)
        dtypes[record.dtype] += math.prod(record.shape)
    checksums = [record.checksum for record in container.records.values()]
    digest = json.dumps([checksums, container.config], sort_keys=True)
    return WeightFiles(summary.size_bytes, summary.bits_per_weight, _dominant(specs), _usual(dtypes), digest)


def _of_checkpoint(checkpoint: Checkpoint) -> WeightFiles:
    files = checkpoint.weight_files
    if files[0].suffix == GGUF_SUFFIX:
        tensors = read_gguf_header(files[0]).tensors.values()
        stored = [(f"gguf {tensor.type.name}", tensor.shape, tensor.end - tensor.begin) for tensor in tensors]
    else:
        stored = [("none", info.shape, info.size_bytes) for info in checkpoint.infos.values()]
    specs: Counter[str] = Counter()
    matrix_bytes = 0
    for spec, shape, size_bytes in stored:
        if len(shape) >= 2:
            specs[spec] += math.prod(shape)
            matrix_bytes += size_bytes
    dtypes: Counter[torch.dtype] = Counter()
    for info in checkpoint.infos.values():
        dtypes[info.dtype] += math.prod(info.shape)
    # A checkpoint's identity is found from samples of its data; a file that was changed in between has a new time.
    times = " ".join(str(file.stat().st_mtime_ns) for file in files)
    return WeightFiles(
        sum(file.stat().st_size for file in files),
        8 * matrix_bytes / max(1, specs.total()),
        _dominant(specs),
        _usual(dtypes),
        f"{checkpoint.identity()} {times}",
    )


def _dominant(specs: Counter[str]) -> str:
    for spec, count in specs.most_common(1):
        return spec if count > _MOSTLY * specs.total() else "mixed"
    return "none"


def _usual(dtypes: Counter[torch.dtype]) -> torch.dtype:
    for dtype, _ in dtypes.most_common():
        if dtype in DTYPES.values():
            return dtype
    return torch.float32


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Whoever asked for a comparison is told of its progress; a bar for each model would come in between."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
