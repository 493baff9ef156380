"""`attn_implementation="tilepress"`: attention that reads the tiles of a `TilepressCache`, and else is PyTorch's.

Transformers looks attention functions up by name; importing this module registers the name. Masks are those that it
makes for PyTorch's attention: none where causality is all, else bool.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface, PreTrainedModel

from tilepress.kernels.kv_operators import attend
from tilepress.kernels.reference import attention as reference
from tilepress.kernels.reference.attention import Attention

NAME = "tilepress"


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as Transformers calls it.

    Args:
        module: the attention layer.
        query: [sequences, heads, queries, channels].
        key, value: [sequences, KV heads, tokens, channels]; those that a `TilepressCache` gave are read from its tiles.
        attention_mask: bool (True: seen) or additive, [sequences, heads or 1, queries, tokens]; None: causal.
        dropout: of the softmax, in training.
        scaling: of the scores; 1 / sqrt(channels) when left out.
        is_causal: of a call without a mask; as the module says when left out.
        softcap: see `Attention`.
        s_aux: sinks; see `Attention`.
        kwargs: passed on to PyTorch's attention.

    Returns:
        [sequences, queries, heads, channels], and no weights.
    """
    has_extras = softcap is not None or s_aux is not None
    store = getattr(key, "store", None)
    reads_tiles = store is not None and not dropout and kwargs.get("position_bias") is None
    if not has_extras and not reads_tiles:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", True))
    attention = Attention(
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        is_causal=is_causal and attention_mask is None,
        mask=attention_mask,
        softcap=softcap,
        sinks=s_aux,
    )
    if store is not None:
        result = attend(query, store, value.shape[3], attention)
    else:
        result = reference.attend(query, [(0, key.float(), value.float())], key.shape[2], attention)
    return result.transpose(1, 2).contiguous(), None


def attends_by_name(model: PreTrainedModel) -> bool:
    """Whether the model calls the attention function that its config names."""
    return bool(getattr(model, "_supports_attention_backend", False))


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
