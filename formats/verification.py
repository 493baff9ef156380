"""Checking a container byte by byte, and against the checkpoint that it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch

from tilepress.formats.checkpoint import Checkpoint
from tilepress.formats.container import Container, header_checksum
from tilepress.formats.measure import measure_error
from tilepress.kernels import FormatError, TilepressError, dtype_name


@dataclass(frozen=True)
class Finding:
    """Result for one tensor, or one shard's header.

    Attributes:
        name: of the tensor or shard.
        problem: one sentence, empty where all is well.
    """

    name: str
    problem: str = ""


def verify_headers(container: Container) -> Iterator[Finding]:
    """Compare each shard's header with the checksum in the index, where the container has one."""
    checksums = container.header_checksums()
    for file, header in container.headers.items():
        if checksums and checksums.get(file) != header_checksum(header):
            yield Finding(file, f"{header.path}: the header does not have the checksum that the index gives")
        else:
            yield Finding(file)


def verify_tensor(container: Container, name: str, against: Checkpoint | None = None) -> Finding:
    """Check one tensor's checksum, that it can be decoded, and, given the source, that its error is what it says.

    `transposed` and dtype are those of the source; a codec that keeps a promise is held to it by the recorded error.
    """
    record = container.records[name]
    where = f"{container.where(name)}, tensor {name}"
    if record.compute_checksum(container.parts(name)) != record.checksum:
        return Finding(name, f"{where}: the checksum does not match; the file is damaged, copy or convert it again")
    try:
        container.encoded(name)
        if against is None:
            return Finding(name)
        source = against.infos.get(name)
        if source is None:
            return Finding(name, f"{where}: {against.path} has no such tensor")
        if (source.shape, source.dtype) != (record.shape, record.dtype):
            return Finding(
                name,
                f"{where}: is {dtype_name(record.dtype)} {list(record.shape)}, "
                f"but {against.path} has {dtype_name(source.dtype)} {list(source.shape)}",
            )
        original = against.tensor(name)
        if record.params.is_bit_identical and not same_bits(original, container.tensor(name)):
            return Finding(name, f"{where}: is not bit-identical to {against.path}, although {record.params.spec()} is")
        error = measure_error(original.T if record.transposed else original, container.encoded(name))
    except FormatError as problem:
        return Finding(name, str(problem))
    except TilepressError as problem:
        return Finding(name, f"{where}: {problem}")
    if error != record.error:
        return Finding(
            name,
            f"{where}: differs from {against.path} by {error.max_abs:g} at most (relative rms {error.relative_rms:g}), "
            f"but was written with {record.error.max_abs:g} ({record.error.relative_rms:g}); "
            "the source is not the one that was compressed",
        )
    return Finding(name)


def require_whole(container: Container) -> None:
    """Check every byte of a container.

    Raises:
        FormatError: the first problem.
    """
    for finding in chain(verify_headers(container), (verify_tensor(container, name) for name in container)):
        if finding.problem:
            raise FormatError(finding.problem)


def missing_from(container: Container, against: Checkpoint) -> Iterator[Finding]:
    """Tensors of the source that the container lacks."""
    for name in against.infos:
        if name not in container.records:
            yield Finding(name, f"{container.path}, tensor {name}: {against.path} has it, the compressed one does not")


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two tensors have the same shape, dtype and bits (NaN payloads and signed zeros included)."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    return torch.equal(
        left.contiguous().reshape(-1).view(torch.uint8), right.contiguous().reshape(-1).view(torch.uint8)
    )
