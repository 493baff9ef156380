"""Streaming conversion: tensors are encoded by a few workers and written in the order of the plan.

At most `workers` tensors are in memory at a time, so the peak is set by the largest tensor, not by the checkpoint.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from tilepress.compress.calibration.statistics import Statistics
from tilepress.compress.codecs import encode, uses_statistics
from tilepress.compress.plan import Plan, PlannedTensor
from tilepress.formats.checkpoint import Checkpoint
from tilepress.formats.container import Container
from tilepress.formats.container_writer import ContainerWriter
from tilepress.formats.measure import measure_error
from tilepress.formats.record import Error, Record
from tilepress.kernels import CodecError, Encoded, RecipeError, dtype_name

if TYPE_CHECKING:
    # It imports what runs models, which a conversion without a text does without.
    from tilepress.compress.calibration.calibration import Calibration

_SPARE_BYTES = 16_000_000
_MOST_WORKERS = 4


@dataclass(frozen=True)
class Progress:
    """State of a conversion after a tensor has been written.

    Attributes:
        name: of the tensor, or of a step of the calibration before the first one; empty for the report that opens a
            resumed conversion.
        record: what was written; nothing in reports of steps and in that first one.
        done_bytes: bytes of the source that are done.
        total_bytes: bytes of the source.
        resumed_bytes: bytes of the source that an earlier run had done.
    """

    name: str
    record: Record | None
    done_bytes: int
    total_bytes: int
    resumed_bytes: int


@dataclass(frozen=True)
class Conversion:
    """Result of a conversion.

    Attributes:
        path: the container.
        source_bytes: bytes of the source's tensors.
        size_bytes: bytes of the container's weight files.
        resumed: tensors that an earlier, interrupted run had written.
        measured_kl: KL divergence from the source, nats a token, where that was the budget.
    """

    path: Path
    source_bytes: int
    size_bytes: int
    resumed: int
    measured_kl: float | None = None


def run_plan(
    checkpoint: Checkpoint,
    plan: Plan,
    destination: Path,
    *,
    workers: int | None = None,
    restart: bool = False,
    calibration: Calibration | None = None,
    documents: Mapping[str, str] = MappingProxyType({}),
    report: Callable[[Progress], None] | None = None,
) -> Conversion:
    """Carry out a plan.

    An unfinished conversion to `destination` is gone on with. The output does not depend on interruptions or `workers`.

    Args:
        checkpoint: the source.
        plan: of the checkpoint, made for `calibration` if there is one.
        destination: folder to write; must not exist yet.
        workers: tensors that are encoded at the same time; as many as there are processors, at most 4, when left out.
        restart: throw an unfinished conversion away instead of resuming it.
        calibration: gives statistics of what is multiplied.
        documents: text files, name -> content, that are there from the beginning and become a part of the container.
        report: called after every tensor.

    Raises:
        TilepressError: anything about the source, the plan, the values or the disk that makes it impossible.
    """
    workers = default_workers() if workers is None else workers
    if workers < 1:
        raise RecipeError(f"workers={workers}: at least one is needed")
    destination = Path(destination).absolute()
    require_apart(checkpoint, destination)
    slots = [[tensor.slot for tensor in shard] for shard in plan.shards]
    identity = checkpoint.identity()
    if calibration is not None:
        identity += f" calibrated with {calibration.origin.key}"
    with ContainerWriter(destination, slots, identity, plan.summary, restart) as writer:
        writer.write_documents(documents)
        sizes = {tensor.slot.name: tensor for tensor in plan.tensors}
        remaining = [sizes[slot.name] for slot in writer.remaining()]
        _require_room(writer.folder, remaining)
        total = plan.source_bytes
        resumed = total - sum(tensor.source_bytes for tensor in remaining)
        done = resumed
        if report and resumed:
            report(Progress("", None, done, total, resumed))

        def show(what: str, step: int, steps: int) -> None:
            if report:
                report(Progress(f"({what}, step {step} of {steps})", None, done, total, resumed))

        for tensors, statistics in _stages(checkpoint, remaining, writer, calibration, show):
            for tensor, (encoded, error) in _encode_all(checkpoint, tensors, statistics, workers):
                record = writer.write(tensor.slot, encoded, error)
                done += tensor.source_bytes
                if report:
                    report(Progress(tensor.slot.name, record, done, total, resumed))
        if calibration is not None:
            calibration.clean(writer.folder)
        companions = {str(path): checkpoint.path / path for path in checkpoint.companions()}
        writer.finish(_config_with_dtype(checkpoint), companions)
        count = writer.resumed
    size = Container.open(destination).size_bytes
    return Conversion(destination, total, size, count)


def _config_with_dtype(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config, with the dtype of most values where it names none: Transformers would guess it from some part."""
    config = dict(checkpoint.config)
    if config and not config.get("dtype") and not config.get("torch_dtype"):
        values: Counter[torch.dtype] = Counter()
        for info in checkpoint.infos.values():
            if info.dtype.is_floating_point:
                values[info.dtype] += info.size_bytes
        if values:
            config["dtype"] = dtype_name(values.most_common(1)[0][0])
    return config


def require_apart(checkpoint: Checkpoint, destination: Path) -> None:
    """Raise `RecipeError` if the output would lie in the source's folder, where it would be taken for a part of it."""
    source, target = checkpoint.path.resolve(), destination.resolve()
    if source == target or source in target.parents:
        raise RecipeError(f"{destination}: lies in the source's folder; choose a place outside of {checkpoint.path}")


def _stages(
    checkpoint: Checkpoint,
    remaining: Sequence[PlannedTensor],
    writer: ContainerWriter,
    calibration: Calibration | None,
    show: Callable[[str, int, int], None],
) -> Iterator[tuple[Sequence[PlannedTensor], Mapping[str, Statistics]]]:
    """Tensors that can be encoded side by side, with the statistics for them; those before must be written by then."""
    if calibration is None:
        yield remaining, {}
        return

    def read(name: str) -> torch.Tensor:
        written = writer.read(name)
        return checkpoint.tensor(name) if written is None else written

    run = calibration.begin(writer.folder, checkpoint.tensor, read, show)
    for stage, group in groupby(remaining, key=lambda tensor: calibration.stage(tensor.slot.name)):
        tensors = list(group)
        yield (
            tensors,
            run.statistics(stage, [one.slot.name for one in tensors if uses_statistics(one.slot.params)]),
        )


def _encode_all(
    checkpoint: Checkpoint, tensors: Sequence[PlannedTensor], statistics: Mapping[str, Statistics], workers: int
) -> Iterator[tuple[PlannedTensor, tuple[Encoded, Error]]]:
    """Encode with `workers` threads, at most so many tensors ahead, and yield in order."""
    waiting: deque[tuple[PlannedTensor, Future[tuple[Encoded, Error]]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="encode")
    with shared_processors() if statistics else nullcontext(), pool:
        try:
            for tensor in tensors:
                if len(waiting) == workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
                waiting.append((tensor, pool.submit(_encode_one, checkpoint, tensor, statistics.get(tensor.slot.name))))
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


@contextmanager
def shared_processors() -> Iterator[None]:
    """Let each of the usual number of workers have its share of PyTorch's threads.

    Error feedback is made of small steps, at whose ends threads wait for each other: with more threads than processors
    it takes ten times as long. The share does not depend on `workers`, since sums may depend on it in the last bit.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // default_workers()))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def default_workers() -> int:
    """Tensors that are encoded at the same time unless asked otherwise."""
    return min(os.cpu_count() or 1, _MOST_WORKERS)


def _encode_one(checkpoint: Checkpoint, tensor: PlannedTensor, statistics: Statistics | None) -> tuple[Encoded, Error]:
    slot = tensor.slot
    weight = checkpoint.tensor(slot.name)
    weight = weight.T if slot.transposed else weight
    try:
        encoded = encode(weight, slot.params, statistics)
        return encoded, measure_error(weight, encoded)
    except CodecError as problem:
        raise CodecError(f"{checkpoint.path}, tensor {slot.name}: {problem}") from None


def _require_room(folder: Path, remaining: Sequence[PlannedTensor]) -> None:
    needed = sum(tensor.predicted_bytes for tensor in remaining) + _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RecipeError(
            f"{folder}: the disk has {free / 1e9:.2f} GB free, about {needed / 1e9:.2f} GB are needed; "
            "make room or choose another place, and run the same command again"
        )
