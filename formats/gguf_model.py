"""What Transformers makes of a GGUF file: config, tokenizer, and which tensors become which parameters.

Transformers reads most architectures with one table of names and one small function a tensor (5.3 and later); both
can be asked tensor by tensor, so no more than one is ever unpacked. The newer architectures have a loader that only
works on whole models (from 5.20 on): those are loaded at once.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import torch
import transformers

from tilepress.formats.gguf_header import GgufHeader, GgufTensor
from tilepress.formats.safetensors_header import shown
from tilepress.kernels.errors import FormatError, TilepressError

BLOCKS_DTYPE = torch.bfloat16
"""Dtype in which tensors of a quantized type are given."""

PLAIN_DTYPES: Mapping[gguf.GGMLQuantizationType, torch.dtype] = {
    gguf.GGMLQuantizationType.F32: torch.float32,
    gguf.GGMLQuantizationType.F16: torch.float16,
    gguf.GGMLQuantizationType.BF16: torch.bfloat16,
}
_TOKEN_KEYS = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}
_BLOCK_COUNT = "block_count"
NO_VOCABULARY = "no_vocab"
"""What llama.cpp calls the tokenizer of a file that has none."""


@dataclass(frozen=True)
class Assembly:
    """How the parameters of a model are put together from the tensors of a GGUF file, piece by piece.

    Attributes:
        model: on the meta device.
        sources: parameter -> names of the tensors that it is made of, in the order of the file.
        names: Transformers' table, name in the file -> parameter.
        processor: Transformers' function that undoes llama.cpp's changes to one tensor.
        unused: tensors that the model has no place for.
    """

    model: transformers.PreTrainedModel
    sources: Mapping[str, tuple[str, ...]]
    names: Mapping[str, str]
    processor: Any
    unused: tuple[str, ...]


def exposed_dtype(tensors: list[GgufTensor]) -> torch.dtype:
    """Give the dtype of a parameter made of `tensors`: their own if they agree, `BLOCKS_DTYPE` for quantized types."""
    if any(tensor.type not in PLAIN_DTYPES for tensor in tensors):
        return BLOCKS_DTYPE
    dtypes = {PLAIN_DTYPES[tensor.type] for tensor in tensors}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def is_quantized(header: GgufHeader) -> bool:
    """Whether any tensor of the file is of a quantized type."""
    return any(tensor.type not in PLAIN_DTYPES for tensor in header.tensors.values())


def main_dtype(header: GgufHeader) -> torch.dtype:
    """Give the dtype of most of the values: what config.json says of the model."""
    values: dict[torch.dtype, int] = {}
    for tensor in header.tensors.values():
        dtype = exposed_dtype([tensor])
        values[dtype] = values.get(dtype, 0) + math.prod(tensor.shape)
    return max(values, key=lambda dtype: values[dtype])


def check_readable(header: GgufHeader) -> None:
    """Raise `FormatError` for a file that Transformers would choke on, or a type that gguf can't unpack."""
    if not header.tensors:
        raise FormatError(f"{header.path}: holds no tensors; name the file with the model's weights")
    blocks = header.metadata.get(f"{header.architecture}.{_BLOCK_COUNT}", 0)
    # Every block has tensors, and a model is built with as many blocks as this says.
    if type(blocks) is not int or blocks > len(header.tensors):
        raise FormatError(f"{header.path}: claims {shown(blocks)} blocks but has {len(header.tensors)} tensors")
    for kind in {tensor.type for tensor in header.tensors.values()}:
        _, size = gguf.GGML_QUANT_SIZES[kind]
        try:
            gguf.dequantize(torch.zeros(1, size, dtype=torch.uint8).numpy(), kind)
        except NotImplementedError:
            first = next(tensor.name for tensor in header.tensors.values() if tensor.type == kind)
            raise FormatError(
                f"{header.path}, tensor {shown(first)}: is of type {kind.name}, which the installed gguf package "
                "can't unpack; update it, or convert the file to another type"
            ) from None


@contextmanager
def explained(path: Path, what: str = "it") -> Iterator[None]:
    """Turn whatever Transformers raises while it reads `what` of the file `path` into one sentence."""
    try:
        yield
    except TilepressError:
        raise
    except Exception as problem:  # Its loaders don't check a file, so anything can come out of them.
        words = " ".join(str(problem).split())
        raise FormatError(
            f"{path}: Transformers {transformers.__version__} can't read {what} ({type(problem).__name__}: "
            f"{shown(words)}); the file is damaged, or of a kind that this version does not support"
        ) from None


def assemble(file: Path, header: GgufHeader) -> Assembly | None:
    """Find out which tensors make which parameters.

    Args:
        file: the GGUF file, in a folder that holds nothing else.
        header: of the file.

    Returns:
        nothing if Transformers has only a loader for whole models of this architecture.

    Raises:
        FormatError: an architecture that it can't read, or tensors that don't make up the model.
    """
    loader = _piecewise_loader(header.architecture)
    if loader is None:
        return None
    with explained(header.path):
        settings = loader.load_gguf_checkpoint(str(file))["config"]
        model = _on_meta(transformers.AutoConfig.for_model(**settings))
        processor = loader.TENSOR_PROCESSORS.get(header.architecture, loader.TensorProcessor)(config=settings)
        names = loader.get_gguf_hf_weights_map(_Top(model), processor)
        sources = _sources(header, model, names, processor)
    require_complete(header.path, model, set(sources))
    for parameter, parts in sources.items():
        _check_size(header, parameter, tuple(model.state_dict()[parameter].shape), parts)
    used = {name for parts in sources.values() for name in parts}
    unused = tuple(name for name in header.tensors if name not in used)
    return Assembly(model, sources, names, processor, unused)


def _sources(
    header: GgufHeader, model: transformers.PreTrainedModel, names: Mapping[str, str], processor: Any
) -> dict[str, tuple[str, ...]]:
    """Parameter -> tensors of the file that make it."""
    targets = {name: names.get(name) or names.get(_experts_name(processor, name)) for name in header.tensors}
    state, tied = model.state_dict(), model.all_tied_weights_keys
    sources: dict[str, tuple[str, ...]] = {}
    for name, parameter in targets.items():
        # Of tied parameters only the first is kept, under whose name the table has either of them.
        owner = tied.get(parameter, parameter)
        if owner in state and (owner == parameter or owner not in targets.values()):
            sources[owner] = (*sources.get(owner, ()), name)
    return sources


class _Top:
    """A model and its children without theirs.

    Transformers' table searches the whole tree, which takes minutes for a large model, but finds no name below this.
    """

    def __init__(self, module: torch.nn.Module, *, children: bool = True) -> None:
        self.config = getattr(module, "config", None)
        self.state_dict = module.state_dict
        self._children = list(module.named_children()) if children else []

    def named_children(self) -> list[tuple[str, _Top]]:
        return [(name, _Top(child, children=False)) for name, child in self._children]


def load_whole(file: Path, header: GgufHeader) -> transformers.PreTrainedModel:
    """Load the model with Transformers' own loader, everything unpacked to float32.

    Args:
        file: the GGUF file, in a folder that holds nothing else.
        header: of the file.

    Raises:
        FormatError: an architecture that it can't read, or tensors that don't make up the model.
    """
    options: dict[str, Any] = {}
    # Where Transformers can leave the blocks packed, it has to be told not to.
    if hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with explained(header.path):
        config = transformers.AutoConfig.from_pretrained(str(file.parent), gguf_file=file.name)
        model_class = type(_on_meta(config))
        loaded: Any = model_class.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=torch.float32, output_loading_info=True, **options
        )
    model: transformers.PreTrainedModel
    model, report = loaded
    require_complete(header.path, model, set(model.state_dict()) - set(report["missing_keys"]))
    return model


def require_complete(path: Path, model: transformers.PreTrainedModel, found: set[str]) -> None:
    """Raise `FormatError` unless every parameter of `model` was found or is tied to one that was."""
    given = found | set(model.all_tied_weights_keys)
    missing = [name for name in model.state_dict() if name not in given]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise FormatError(
            f"{path}: no tensor in it gives {missing[0]}{more} of {type(model).__name__}; "
            f"Transformers {transformers.__version__} does not support this kind of file, or it is not complete"
        )


def config_of(model: transformers.PreTrainedModel, dtype: torch.dtype) -> dict[str, Any]:
    """Give the content of a config.json with which the model's own auto class loads it."""
    config = model.config
    config.architectures = [type(model).__name__]
    config.dtype = dtype
    content: dict[str, Any] = json.loads(config.to_json_string(use_diff=True))
    for key in ("_name_or_path", "_model_name_or_path", "quantization_config"):
        content.pop(key, None)
    return content


def save_tokenizer(file: Path, header: GgufHeader, folder: Path) -> None:
    """Write the file's tokenizer and chat template into `folder`; nothing if it has none.

    Raises:
        FormatError: a tokenizer that Transformers can't convert.
    """
    if header.metadata.get("tokenizer.ggml.model", NO_VOCABULARY) == NO_VOCABULARY:
        return
    with explained(header.path, "its tokenizer"):
        # Not the auto class: before 5.20 it takes a model's usual tokenizer class, which need not be this file's.
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(str(file.parent), gguf_file=file.name)
        for role, key in _TOKEN_KEYS.items():
            number = header.metadata.get(key)
            if isinstance(number, int) and number < len(tokenizer):
                setattr(tokenizer, role, tokenizer.convert_ids_to_tokens(number))
        tokenizer.save_pretrained(folder)


def _piecewise_loader(architecture: str) -> Any:
    """Transformers' module that reads `architecture` tensor by tensor, or nothing."""
    try:
        loader = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    except ImportError:
        return None
    try:
        newer = importlib.import_module("transformers.integrations.gguf")
    except ImportError:
        return loader
    return None if newer.is_gguf_arch_supported(architecture) else loader


def _on_meta(config: transformers.PreTrainedConfig) -> transformers.PreTrainedModel:
    """Build the model with a language-modelling head if its architecture has one, without weights."""
    model_class: Any
    if config.architectures:
        model_class = getattr(transformers, config.architectures[0])
    else:
        kinds = (transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING)
        mapping = next((kind for kind in kinds if type(config) in kind), transformers.MODEL_MAPPING)
        model_class = mapping[type(config)]
    with torch.device("meta"):
        model: transformers.PreTrainedModel = model_class._from_config(config)
    return model


def _experts_name(processor: Any, name: str) -> str:
    """Name under which a stack of experts stands in Transformers' table: without its suffix."""
    pattern = getattr(processor, "GGUF_MOE_WEIGHTS_PATTERN", None)
    found = pattern.fullmatch(name) if pattern is not None else None
    return found["name"] if found is not None and "name" in found.groupdict() else name


def _check_size(header: GgufHeader, parameter: str, shape: tuple[int, ...], parts: tuple[str, ...]) -> None:
    values = sum(math.prod(header.tensors[name].shape) for name in parts)
    if values != math.prod(shape):
        raise FormatError(
            f"{header.path}, tensor {shown(parts[0])}: has {values} values, but {parameter} has the shape "
            f"{list(shape)}; the file contradicts its own metadata"
        )
