"""Modules whose weight stays compressed: a tensor as a module that holds its parts, and the layers that read it.

Tensor `a.b.weight` of a container has the parts `a.b.weight.<part>`. In the model, `a.b` is a layer and its `weight` a
`CompressedTensor`, a module whose buffers are the parts: so `state_dict()` has the very names that the file has, and
devices, offloading and saving work as for any buffer.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import nn
from typing_extensions import Self

from tilepress.formats.record import Record
from tilepress.kernels import PANEL_ROWS, Encoded, decode, matmul

PLAIN_PART = "weight"
"""Name of the buffer for the unnamed part of codec `none`, since a buffer must have a name."""


class CompressedTensor(nn.Module):
    """The parts of one tensor, as buffers that keep their dtypes whatever the model is cast to.

    Where a layer's parent or Transformers asks a weight for its shape, dtype or device, this answers as the dense
    weight would. Calling it gives the `Encoded`: a call, and not an attribute, so that Accelerate's hooks can bring
    offloaded parts in and take them away again. The `Encoded` is the same from call to call while the parts are.

    Attributes:
        record: what the container says of the tensor.
        dtype: of the dense weight's stand-in: the model's dtype, which embeddings are decoded to.
    """

    _is_hf_initialized: ClassVar[bool] = True
    """Tells Transformers' initialisers to leave this weight alone."""

    record: Record
    dtype: torch.dtype

    def __init__(self, record: Record, parts: Mapping[str, torch.Tensor], dtype: torch.dtype) -> None:
        """Make room for the parts.

        Args:
            record: of the tensor.
            parts: what the buffers shall be like; only shapes and dtypes are read.
            dtype: of the model.
        """
        super().__init__()
        self.record = record
        self.dtype = dtype
        self._buffer_of = {part: part or PLAIN_PART for part in record.part_specs()}
        for part, name in self._buffer_of.items():
            self.register_buffer(name, torch.empty_like(parts[part], device="meta"))
        self._latest: Encoded | None = None

    def forward(self) -> Encoded:
        """The tensor in compressed form, from the buffers as they are now."""
        record, buffers = self.record, self._buffers
        if not torch.compiler.is_compiling():
            latest = self._latest
            if latest is not None and all(map(operator.is_, latest.parts.values(), buffers.values())):
                return latest
        parts = {part: buffers[name] for part, name in self._buffer_of.items()}
        encoded = Encoded(record.params, record.encoded_shape, record.dtype, parts)  # type: ignore[arg-type]
        # Where a hook of Accelerate has brought the parts in, they shall not outlive the call.
        if not torch.compiler.is_compiling() and not hasattr(self, "_hf_hook"):
            self._latest = encoded
        return encoded

    @property
    def encoded(self) -> Encoded:
        """The tensor in compressed form, from the buffers as they are now."""
        encoded: Encoded = self()
        return encoded

    @property
    def shape(self) -> torch.Size:
        """Shape of the dense tensor as the checkpoint had it."""
        return torch.Size(self.record.shape)

    def size(self, dim: int | None = None) -> torch.Size | int:
        """`shape`, or one side of it, as of a dense weight."""
        return self.shape if dim is None else self.shape[dim]

    @property
    def device(self) -> torch.device:
        """Where the parts lie."""
        return next(self.buffers()).device

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The tensor decoded, in the checkpoint's shape and orientation."""
        return dense_of(self.record, self.encoded, dtype)

    def part_keys(self, path: str) -> dict[str, str]:
        """Part -> its name in the state dict of a model that has this tensor at `path`."""
        return {part: f"{path}.{name}" for part, name in self._buffer_of.items()}

    def extra_repr(self) -> str:
        return f"{self.record.params.spec()}, shape={list(self.record.shape)}"

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move the parts, but never cast them: bfloat16 scales are a file's bytes, not the model's numbers."""
        for name, part in self._buffers.items():
            assert part is not None
            applied = fn(part)
            self._buffers[name] = applied if applied.dtype == part.dtype else part.to(applied.device)
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device="cpu")).dtype
        self._latest = None
        return self


def dense_of(record: Record, encoded: Encoded, dtype: torch.dtype) -> torch.Tensor:
    """Decode a whole tensor and turn it to the orientation that the checkpoint had it in."""
    values = decode(encoded, dtype=dtype)
    return values.T.contiguous() if record.transposed else values


class CompressedLinear(nn.Module):
    """Stands for `nn.Linear`, or for the `Conv1D` of GPT-2, whose weight is the other way round on disk.

    Attributes:
        weight: a `CompressedTensor`; for a head that is tied to an embedding, the embedding's own, which is then
            neither a child of this module nor part of its state dict.
        bias: a parameter, or None.
    """

    weight: CompressedTensor

    def __init__(self, dense: nn.Module, weight: CompressedTensor, is_shared: bool = False) -> None:
        """Take the place of `dense`.

        Args:
            dense: an `nn.Linear` or `Conv1D`.
            weight: its weight, coded with output channels as rows.
            is_shared: the weight belongs to another module.
        """
        super().__init__()
        # Sizes of either kind of layer, under the names that other code looks for.
        for name in ("in_features", "out_features", "nx", "nf"):
            if hasattr(dense, name):
                setattr(self, name, getattr(dense, name))
        _set_weight(self, weight, is_shared)
        self.bias: nn.Parameter | None
        self.register_parameter("bias", dense.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x @ weight.T + bias`: [..., columns] -> [..., rows], in the dtype of `x`."""
        encoded = self.weight()
        if "weight" in self.__dict__ and encoded.device != x.device:
            # A tied head may have been dispatched to another device than its embedding: activations travel, not tiles.
            y = matmul(x.to(encoded.device), encoded).to(x.device)
            return y if self.bias is None else y + self.bias
        return matmul(x, encoded, self.bias)

    def extra_repr(self) -> str:
        rows, columns = self.weight.record.encoded_shape
        return f"in_features={columns}, out_features={rows}, bias={self.bias is not None}"


class CompressedEmbedding(nn.Module):
    """Stands for `nn.Embedding`; a look-up decodes only the panels that hold the rows asked for, except in a graph.

    Attributes:
        weight: as in `CompressedLinear`.
    """

    weight: CompressedTensor

    def __init__(self, dense: nn.Embedding, weight: CompressedTensor, is_shared: bool = False) -> None:
        """Take the place of `dense`; arguments as for `CompressedLinear`."""
        super().__init__()
        self.num_embeddings = dense.num_embeddings
        self.embedding_dim = dense.embedding_dim
        self.padding_idx = dense.padding_idx
        _set_weight(self, weight, is_shared)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows of the table: integers [...] -> [..., embedding_dim] in the model's dtype.

        Raises:
            IndexError: an id outside the table.
        """
        encoded, dtype = self.weight(), self.weight.dtype
        if torch.compiler.is_compiling():
            # Which panels are decoded would depend on the ids, which a graph can't express: it decodes the table.
            return nn.functional.embedding(ids, decode(encoded, dtype=dtype))
        flat = ids.reshape(-1).to(encoded.device)
        panels, position = torch.unique(flat // PANEL_ROWS, return_inverse=True)
        runs = _runs(panels.tolist())
        if runs and (runs[0].start < 0 or runs[-1].stop > -(-self.num_embeddings // PANEL_ROWS)):
            raise IndexError(f"an id is outside the embedding's {self.num_embeddings} rows")
        rows = [
            decode(encoded, slice(run.start * PANEL_ROWS, min(run.stop * PANEL_ROWS, encoded.rows)), dtype=dtype)
            for run in runs
        ]
        table = torch.cat(rows) if rows else torch.empty(0, self.embedding_dim, dtype=dtype, device=encoded.device)
        return table[position * PANEL_ROWS + flat % PANEL_ROWS].view(*ids.shape, self.embedding_dim)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, padding_idx={self.padding_idx}"


def _set_weight(layer: nn.Module, weight: CompressedTensor, is_shared: bool) -> None:
    if is_shared:
        # Past nn.Module's registration, so that what two layers share is moved, counted and saved once.
        layer.__dict__["weight"] = weight
    else:
        layer.weight = weight


def _runs(numbers: list[int]) -> list[range]:
    """Ascending numbers -> maximal ranges of consecutive ones: [2, 3, 4, 9] -> [2..4, 9..9]."""
    runs: list[range] = []
    for number in numbers:
        if runs and runs[-1].stop == number:
            runs[-1] = range(runs[-1].start, number + 1)
        else:
            runs.append(range(number, number + 1))
    return runs
