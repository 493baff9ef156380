"""`tilepress.load`: a compressed checkpoint as a model of Transformers, in one call."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers

from tilepress.formats.container import Container
from tilepress.formats.verification import require_whole
from tilepress.kernels import FormatError
from tilepress.kernels.layout.kv import parse_kv_spec
from tilepress.runtime.kv_generation import use_kv


def load(
    path: str | Path,
    dtype: str | torch.dtype = "bfloat16",
    *,
    kv: str | None = None,
    verify: bool = False,
    **from_pretrained_arguments: Any,
) -> Any:
    """Load a compressed checkpoint.

    Args:
        path: folder that `tilepress compress`, or `save_pretrained` of a compressed model, has written.
        dtype: of activations and of what is not compressed, by name or as `torch.dtype`; "auto": as in config.json,
            else as most of the source's values.
        kv: codec spec of the KV cache with which the model generates (see `TilepressCache`); None: as Transformers
            keeps it.
        verify: check every byte against the checksums first, as `tilepress verify` does; all files are read twice.
        from_pretrained_arguments: passed on, such as `device_map` or `attn_implementation`.

    Returns:
        The model, of the class that config.json names, in evaluation mode.

    Raises:
        FormatError: a folder that holds no container, a damaged one, or one that does not match its config.json.
        CodecError: a codec that KV caches don't have, or a model that has no such cache.
    """
    if kv is not None:
        parse_kv_spec(kv)
    container = Container.open(path)
    if verify:
        require_whole(container)
    model_class = _model_class(container)
    if dtype == "auto":
        dtype = _usual_dtype(container)
    model = model_class.from_pretrained(str(path), dtype=dtype, **from_pretrained_arguments)
    if kv is not None:
        use_kv(model, kv)
    return model.eval()


def _model_class(container: Container) -> Any:
    """The class that config.json names, or the Auto class that it names for custom code."""
    config = container.config
    if not config:
        raise FormatError(
            f"{container.path}: has no config.json, which says what model this is; copy it from the source"
        )
    architecture = next(iter(config.get("architectures") or ()), None)
    custom = sorted(name for name in config.get("auto_map") or () if name.startswith("AutoModel"))
    # A custom model is often listed under AutoModel too, but that class may lack the head.
    for name in sorted(custom, key="AutoModel".__eq__) or [str(architecture)]:
        model_class = getattr(transformers, name, None)
        if isinstance(model_class, type) and hasattr(model_class, "from_pretrained"):
            return model_class
    named = f"names the architecture {architecture}" if architecture else "names no architecture"
    raise FormatError(
        f"{container.path}: config.json {named}, which Transformers {transformers.__version__} does not have; "
        "upgrade Transformers, or load it with the from_pretrained of the class that you want"
    )


def _usual_dtype(container: Container) -> str | torch.dtype:
    config = container.config
    named = config.get("dtype") or config.get("torch_dtype")
    if isinstance(named, str):
        return named
    values: Counter[torch.dtype] = Counter()
    for record in container.records.values():
        if record.dtype.is_floating_point:
            values[record.dtype] += torch.Size(record.shape).numel()
    return values.most_common(1)[0][0] if values else torch.float32
