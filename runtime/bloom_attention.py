"""BLOOM reads the tiles of a `TilepressCache`: its layers call no attention function that could be registered.

Importing this module puts a `forward` before that of Transformers, which does everything but steps that see tiles.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.bloom.modeling_bloom import BloomAttention, dropout_add

from tilepress.kernels.kv_operators import attend
from tilepress.kernels.reference.attention import Attention
from tilepress.runtime.kv_cache import TilepressCache

_forward: Any = BloomAttention.forward


def forward(
    self: Any,
    hidden_states: torch.Tensor,
    residual: torch.Tensor,
    alibi: torch.Tensor,
    attention_mask: torch.Tensor | None,
    layer_past: Any = None,
    *arguments: Any,
    output_attentions: bool = False,
    **options: Any,
) -> Any:
    """As `BloomAttention.forward`; `alibi` is [sequences * heads, 1, tokens], and a mask may be bool (True: seen)."""
    bias = _additive(attention_mask, alibi.dtype)
    reads_tiles = isinstance(layer_past, TilepressCache) and layer_past.get_seq_length(self.layer_idx) > 0
    has_slices = self.pretraining_tp > 1 and self.slow_but_exact
    if not reads_tiles or has_slices or output_attentions or self.training:
        options["output_attentions"] = output_attentions
        return _forward(self, hidden_states, residual, alibi, bias, layer_past, *arguments, **options)
    query, key, value = self._reshape(self.query_key_value(hidden_states))
    layer_past.update(key, value, self.layer_idx)
    of_heads = alibi.view(len(query), self.num_heads, 1, -1)
    attention = Attention(
        scaling=self.inv_norm_factor,
        is_causal=bias is None,
        mask=of_heads if bias is None else of_heads + bias,
    )
    store = layer_past.layers[self.layer_idx].store
    context = attend(query, store, value.shape[3], attention).transpose(1, 2).flatten(2)
    return dropout_add(self.dense(context), residual, self.hidden_dropout, self.training), None


def _additive(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """What BLOOM adds to scores; masks of `attn_implementation="tilepress"` are bool."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


BloomAttention.forward = forward  # type: ignore[method-assign]
