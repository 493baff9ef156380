"""From a compressed model back to an ordinary one: `model.dequantize()`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from tilepress.runtime import experts
from tilepress.runtime.compressed import CompressedEmbedding, CompressedLinear


def dequantize(model: transformers.PreTrainedModel, shared: Mapping[str, str], dtype: torch.dtype) -> Any:
    """Replace every compressed layer of `model` by the ordinary one with decoded weights; tied layers stay tied.

    Args:
        model: changed in place, and returned.
        shared: path of a layer -> path of the layer whose weight it shares.
        dtype: of the decoded weights.
    """
    weights: dict[str, nn.Parameter] = {}
    for path, module in list(model.named_modules()):
        if isinstance(module, (CompressedLinear, CompressedEmbedding)):
            owner = shared.get(path, path)
            if owner not in weights:
                values = model.get_submodule(owner).weight.dense(dtype)  # type: ignore[operator, union-attr]
                weights[owner] = nn.Parameter(values, requires_grad=False)
            model.set_submodule(path, _ordinary(module, weights[owner]))
        elif experts.is_installed(module):
            experts.uninstall(module, dtype)
    for module in model.modules():
        if isinstance(module, transformers.PreTrainedModel):
            module.__dict__.pop("_tied_weights_keys", None)
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
    return model


def _ordinary(layer: CompressedLinear | CompressedEmbedding, weight: nn.Parameter) -> nn.Module:
    with torch.device("meta"):
        dense: Any
        if isinstance(layer, CompressedEmbedding):
            dense = nn.Embedding(layer.num_embeddings, layer.embedding_dim, layer.padding_idx)
        elif layer.weight.record.transposed:
            dense = Conv1D(layer.nf, layer.nx)  # type: ignore[no-untyped-call]
        else:
            dense = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)  # type: ignore
    dense.weight = weight
    if isinstance(layer, CompressedLinear):
        dense.bias = layer.bias
    return dense.train(layer.training)  # type: ignore[no-any-return]
