"""The way back: a container -> an ordinary checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from tilepress.formats.checkpoint_writer import write_checkpoint
from tilepress.formats.container import Container
from tilepress.formats.safetensors_checkpoint import companion_files
from tilepress.kernels import CodecError, FormatError


def decompress(
    source: str | Path, destination: str | Path, report: Callable[[str, int, int], None] | None = None
) -> Path:
    """Decode every tensor and write a checkpoint with the names, shapes and dtypes of the original.

    Args:
        source: a container.
        destination: folder to write; must not exist yet.
        report: called after every tensor with its name, the bytes done and the bytes of all.

    Returns:
        The folder that was written.

    Raises:
        TilepressError: a damaged container, an existing destination, or a disk that can't take it.
    """
    container = Container.open(source)
    infos = list(container.infos.values())
    total = sum(info.size_bytes for info in infos)
    done = 0

    def load(name: str) -> torch.Tensor:
        nonlocal done
        record = container.records[name]
        where = f"{container.where(name)}, tensor {name}"
        if record.compute_checksum(container.parts(name)) != record.checksum:
            raise FormatError(f"{where}: the checksum does not match; the file is damaged, copy or convert it again")
        try:
            tensor = container.tensor(name)
        except CodecError as problem:
            raise FormatError(f"{where}: {problem}") from None
        done += tensor.numel() * tensor.element_size()
        if report:
            report(name, done, total)
        return tensor

    config = {key: value for key, value in container.config.items() if key != "quantization_config"}
    companions = {str(path): container.path / path for path in companion_files(container.path)}
    target = Path(destination).absolute()
    write_checkpoint(target, infos, load, config, companions)
    return target
