"""A model that takes part in a comparison: what its weight files hold, and how it is loaded.

Sizes are those of the files. Bits per weight count all tensors of two or more dimensions, compressed or not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from tilepress.formats.checkpoint import GGUF_SUFFIX, Checkpoint, open_checkpoint
from tilepress.formats.container import QUANT_METHOD, Container
from tilepress.formats.gguf_header import read_gguf_header
from tilepress.formats.sharding import CONFIG_NAME, read_json_object
from tilepress.formats.summary import summarise
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
    """

    size_bytes: int
    bits_per_weight: float
    codec: str


class Entrant:
    """A compressed or uncompressed causal language model on disk.

    Attributes:
        source: path or name, as it was given.
        name: last part of it.
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
        self.name = Path(source).resolve().name
        self._checkpoint = None if is_container(Path(source)) else open_checkpoint(source)
        if self._checkpoint is None:
            self.weights = _of_container(Path(source))
            self._folder = Path(source)
        else:
            self.weights = _of_checkpoint(self._checkpoint)
            self._folder = self._checkpoint.path
        self.config = self._read_config()

    @property
    def dtype(self) -> torch.dtype:
        """The model's own dtype: what its config says, else that of most of its weights."""
        named = self.config.dtype
        if isinstance(named, torch.dtype) and named in DTYPES.values():
            return named
        values: dict[torch.dtype, int] = dict.fromkeys(DTYPES.values(), 0)
        for info in self._checkpoint.infos.values() if self._checkpoint else ():
            if info.dtype in values:
                values[info.dtype] += math.prod(info.shape)
        return max(values, key=lambda dtype: values[dtype])

    @property
    def facts(self) -> Mapping[str, str]:
        """What tells this checkpoint from others, and from itself once its files have been written again."""
        assert self._checkpoint is not None
        stamps = [f"{file.name} {file.stat().st_mtime_ns}" for file in self._checkpoint.weight_files]
        return {"identity": self._checkpoint.identity(), "files": "\n".join(stamps)}

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer.

        Raises:
            RecipeError: there is none that Transformers can load.
        """
        try:
            return AutoTokenizer.from_pretrained(self._folder)
        except Exception as problem:  # Tokenizer classes raise whatever their files make them stumble over.
            raise RecipeError(
                f"{self.source}: has no tokenizer that Transformers can load ({_first_line(problem)}); "
                "save one into its folder"
            ) from None

    def load(self, dtype: torch.dtype) -> PreTrainedModel:
        """Load the model for inference.

        Raises:
            TilepressError: as `tilepress.load`.
            RecipeError: an uncompressed checkpoint whose tensors don't make up the model.
        """
        if self._checkpoint is None:
            return cast(PreTrainedModel, load(self._folder, dtype=dtype))
        return self._load_uncompressed(self._checkpoint, dtype)

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
            config: PretrainedConfig = AutoConfig.from_pretrained(self._folder)
        except Exception as problem:  # Config classes raise whatever a wrong value makes them stumble over.
            raise RecipeError(
                f"{self.source}: has no config.json that Transformers can load ({_first_line(problem)})"
            ) from None
        expected = _model_class(config)
        named = next(iter(config.architectures or ()), None)
        if expected is None or named not in (None, expected.__name__):
            raise RecipeError(
                f"{self.source}: is a {named or config.model_type}, which does not predict a next token; "
                "only causal language models can be compared"
            )
        return config


def _model_class(config: PretrainedConfig) -> Any:
    """The causal language model that a config belongs to, or None."""
    return MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)


def is_container(folder: Path) -> bool:
    """Whether a folder says of itself that tilepress wrote it."""
    if not (folder / CONFIG_NAME).is_file():
        return False
    quantization = read_json_object(folder / CONFIG_NAME).get("quantization_config")
    return isinstance(quantization, dict) and quantization.get("quant_method") == QUANT_METHOD


def _of_container(folder: Path) -> WeightFiles:
    container = Container.open(folder)
    weights: dict[str, int] = {}
    for record in container.records.values():
        if len(record.shape) >= 2:
            spec = record.params.spec()
            weights[spec] = weights.get(spec, 0) + math.prod(record.shape)
    summary = summarise(container)
    return WeightFiles(summary.size_bytes, summary.bits_per_weight, _dominant(weights))


def _of_checkpoint(checkpoint: Checkpoint) -> WeightFiles:
    size_bytes = sum(file.stat().st_size for file in checkpoint.weight_files)
    if checkpoint.weight_files[0].suffix == GGUF_SUFFIX:
        tensors = read_gguf_header(checkpoint.weight_files[0]).tensors.values()
        stored = [(f"gguf {tensor.type.name}", tensor.shape, tensor.end - tensor.begin) for tensor in tensors]
    else:
        stored = [("none", info.shape, info.size_bytes) for info in checkpoint.infos.values()]
    weights: dict[str, int] = {}
    matrix_bytes = 0
    for spec, shape, count in stored:
        if len(shape) >= 2:
            weights[spec] = weights.get(spec, 0) + math.prod(shape)
            matrix_bytes += count
    return WeightFiles(size_bytes, 8 * matrix_bytes / max(1, sum(weights.values())), _dominant(weights))


def _dominant(weights: Mapping[str, int]) -> str:
    spec = max(weights, key=lambda spec: weights[spec], default="none")
    return spec if weights.get(spec, 1) > _MOSTLY * sum(weights.values()) else "mixed"


def _first_line(problem: Exception) -> str:
    lines = str(problem).strip().splitlines() or [""]
    return f"{type(problem).__name__}: {lines[0]}"
