"""The plan: one codec spec a tensor, the size that it predicts, and the shard that the tensor goes to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from tilepress.compress.codecs import encode, uses_statistics
from tilepress.compress.recipe import SMALLEST, Recipe
from tilepress.compress.roles import Placement, Role, placements
from tilepress.formats.checkpoint import Checkpoint, TensorInfo
from tilepress.formats.container_writer import Slot, header_room
from tilepress.kernels import DTYPES, PANEL_ROWS, CodecError, Params, RecipeError, matrix_shape, parse_spec
from tilepress.kernels.layout.none import NoneParams

DEFAULT_CODEC = "int:bits=4"
DEFAULT_EMBEDDINGS = "int:bits=8"
_SAMPLED_PANELS = 4


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor's line of a plan.

    Attributes:
        slot: name, codec parameters, shape, dtype, orientation.
        source_bytes: size in the source.
        predicted_bytes: size of its parts; exact for fixed-rate codecs, else scaled up from a few panels.
    """

    slot: Slot
    source_bytes: int
    predicted_bytes: int


@dataclass(frozen=True)
class Plan:
    """What a conversion will do.

    Attributes:
        shards: the tensors of each shard, in the order in which they are written.
        notes: what the user should know before, such as a pattern that matched nothing.
        advice: what would give a better result another time.
    """

    shards: Sequence[Sequence[PlannedTensor]]
    notes: Sequence[str]
    advice: Sequence[str] = ()

    @property
    def tensors(self) -> list[PlannedTensor]:
        """All tensors, in the order in which they are written."""
        return [tensor for shard in self.shards for tensor in shard]

    @property
    def source_bytes(self) -> int:
        """Bytes of all tensors in the source."""
        return sum(tensor.source_bytes for tensor in self.tensors)

    @property
    def predicted_bytes(self) -> int:
        """Predicted bytes of all parts."""
        return sum(tensor.predicted_bytes for tensor in self.tensors)

    @property
    def container_bytes(self) -> int:
        """Predicted bytes of the weight files: all parts, and the header of each shard."""
        return self.predicted_bytes + sum(header_room([tensor.slot for tensor in shard]) for shard in self.shards)

    @property
    def bits_per_weight(self) -> float:
        """Predicted, over all tensors of two or more dimensions, as `inspect` counts."""
        matrices = [tensor for tensor in self.tensors if len(tensor.slot.shape) >= 2]
        weights = sum(math.prod(tensor.slot.shape) for tensor in matrices)
        return 8 * sum(tensor.predicted_bytes for tensor in matrices) / max(1, weights)

    @property
    def summary(self) -> str:
        """The specs in use, most bytes first."""
        weights: dict[str, int] = {}
        for tensor in self.tensors:
            spec = tensor.slot.params.spec()
            weights[spec] = weights.get(spec, 0) + tensor.source_bytes
        return ", ".join(sorted(weights, key=lambda spec: -weights[spec]))


def make_plan(
    checkpoint: Checkpoint,
    codec: str | None = None,
    recipe: Recipe | None = None,
    embeddings: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
    stage: Callable[[str], int] | None = None,
) -> Plan:
    """Resolve a codec or a recipe for one checkpoint.

    With `stage`, which gives the stage of calibration of a tensor, tensors are written in the order of their stages.

    Without a recipe the matrices of the blocks get `codec`; embeddings and head get `embeddings`, which is by default
    the same codec if that one keeps a promise about each value, else 8-bit integers. Norms, biases, routers and all
    tensors of fewer than 4,096 values stay as they are.

    Raises:
        CodecError: a codec spec that makes no sense.
        RecipeError: contradicting arguments, or nothing in the checkpoint to compress.
    """
    if recipe is not None and (codec is not None or embeddings is not None):
        raise RecipeError("a recipe says everything by itself; leave out the codec and the embeddings' codec")
    places = placements(checkpoint.config, checkpoint.infos)
    if recipe is not None:
        choose: Callable[[str], Params | None] = recipe.match
        notes = [f"pattern {pattern!r} matches no tensor" for pattern in recipe.unused(list(checkpoint.infos))]
    else:
        choose = _by_role(codec or DEFAULT_CODEC, embeddings, places)
        notes = []
    planned = [_plan_tensor(checkpoint, info, choose(name), places[name]) for name, info in checkpoint.infos.items()]
    advice: list[str] = []
    if stage is None:
        blocks = (tensor for tensor in planned if places[tensor.slot.name].role is Role.BLOCK)
        if any(uses_statistics(tensor.slot.params) for tensor in blocks):
            advice.append("with --calibration FILE, a text, the same size would be more accurate")
    else:
        planned.sort(key=lambda tensor: stage(tensor.slot.name))
    if all(tensor.slot.params.codec == "none" for tensor in planned) and not _asks_for_none(codec, recipe):
        raise RecipeError(f"{checkpoint.path}: the recipe leaves every tensor as it is; nothing would be compressed")
    return Plan(_shards(planned, max_shard_bytes), notes, advice)


def _by_role(codec: str, embeddings: str | None, places: Mapping[str, Placement]) -> Callable[[str], Params | None]:
    params = parse_spec(codec)
    outside = params if params.keeps_a_promise else parse_spec(DEFAULT_EMBEDDINGS)
    if embeddings is not None:
        outside = parse_spec(embeddings)
    by_role = {Role.BLOCK: params, Role.EMBEDDING: outside, Role.HEAD: outside}
    return lambda name: by_role.get(places[name].role)


def _asks_for_none(codec: str | None, recipe: Recipe | None) -> bool:
    asked = [rule.params for rule in recipe.rules] if recipe is not None else [parse_spec(codec or DEFAULT_CODEC)]
    return any(params.codec == "none" for params in asked)


def is_codable(info: TensorInfo) -> bool:
    """Whether a codec may be given to a tensor: vectors, small tensors and integers stay as they are."""
    return info.dtype in DTYPES.values() and len(info.shape) >= 2 and math.prod(info.shape) >= SMALLEST


def _plan_tensor(checkpoint: Checkpoint, info: TensorInfo, params: Params | None, place: Placement) -> PlannedTensor:
    if params is None or not is_codable(info):
        params = NoneParams()
    transposed = place.transposed and params.codec != "none"
    slot = Slot(info.name, params, info.shape, info.dtype, transposed)
    return PlannedTensor(slot, info.size_bytes, _predict(checkpoint, slot))


def part_bytes(slot: Slot, params: Params) -> int:
    """Bytes of those parts that a codec would write for a tensor whose sizes don't depend on its values."""
    shape = slot.shape[::-1] if slot.transposed else slot.shape
    specs = params.part_specs(shape, slot.dtype).values()
    return sum(spec.dtype.itemsize * math.prod(spec.shape) for spec in specs if spec.exact)


def sample_panels(checkpoint: Checkpoint, slot: Slot, count: int) -> torch.Tensor:
    """Up to `count` panels of a tensor, evenly spread, as one matrix [rows, columns]."""
    shape = slot.shape[::-1] if slot.transposed else slot.shape
    rows, columns = matrix_shape(shape)
    tensor = checkpoint.tensor(slot.name)
    matrix = tensor.T if slot.transposed else tensor.reshape(rows, columns)
    firsts = sorted({rows * piece // count // PANEL_ROWS * PANEL_ROWS for piece in range(count)})
    return torch.cat([matrix[first : first + PANEL_ROWS] for first in firsts])


def _predict(checkpoint: Checkpoint, slot: Slot) -> int:
    """Bytes of the parts: from their shapes, or from some panels where lengths depend on the data."""
    shape = slot.shape[::-1] if slot.transposed else slot.shape
    specs = slot.params.part_specs(shape, slot.dtype)
    exact = part_bytes(slot, slot.params)
    if all(spec.exact for spec in specs.values()):
        return exact
    sample = sample_panels(checkpoint, slot, _SAMPLED_PANELS)
    rows, columns = matrix_shape(shape)
    try:
        parts = encode(sample, slot.params).parts
    except CodecError:  # The conversion itself will say what is wrong with this tensor.
        return exact + rows * columns * slot.dtype.itemsize
    varying = sum(parts[name].numel() * specs[name].dtype.itemsize for name in specs if not specs[name].exact)
    return exact + varying * rows // max(1, sample.shape[0])


def _shards(planned: Sequence[PlannedTensor], max_shard_bytes: int) -> list[list[PlannedTensor]]:
    """Cut into shards of about `max_shard_bytes`: compressed tensors first, then the others by falling item size."""
    compressed = [tensor for tensor in planned if tensor.slot.params.codec != "none"]
    left = [tensor for tensor in planned if tensor.slot.params.codec == "none"]
    left.sort(key=lambda tensor: -tensor.slot.dtype.itemsize)
    shards: list[list[PlannedTensor]] = [[]]
    size = 0
    for tensor in compressed + left:
        if shards[-1] and size + tensor.predicted_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.predicted_bytes
    return shards
