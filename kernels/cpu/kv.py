"""Native coding of a KV cache's tiles for the codecs that PyTorch's operators can't code: `reference.kv` defines it."""

from __future__ import annotations

import torch

from tilepress.kernels.cpu import zfp
from tilepress.kernels.encoded import PANEL_ROWS
from tilepress.kernels.layout.kv import KvLayout, KvZfpParams

CODECS = ("zfp",)


def encode(keys: torch.Tensor, values: torch.Tensor, layout: KvLayout) -> torch.Tensor:
    """Tiles of keys and values [..., group, channels]: uint8 [..., tile_bytes]."""
    params = _params(layout)

    def panels(states: torch.Tensor) -> torch.Tensor:
        matrix = states.float().reshape(-1, states.shape[-1])
        payload, _ = zfp.encode_panels(matrix, params.of_panels)
        return payload.view(*states.shape[:-2], params.group // PANEL_ROWS, -1)

    return layout.join({"keys": panels(keys), "values": panels(values)})


def decode_keys(tiles: torch.Tensor, layout: KvLayout) -> torch.Tensor:
    """Keys of tiles uint8 [..., tile_bytes]: float32 [..., group, channels]."""
    return _decode(layout.split(tiles)["keys"], layout.key_size, layout)


def decode_values(tiles: torch.Tensor, layout: KvLayout) -> torch.Tensor:
    """Values of tiles uint8 [..., tile_bytes]: float32 [..., group, channels]."""
    return _decode(layout.split(tiles)["values"], layout.value_size, layout)


def _decode(section: torch.Tensor, channels: int, layout: KvLayout) -> torch.Tensor:
    weight = _params(layout).as_weight(section, channels)
    values = zfp.decode(weight, range(weight.rows), range(channels), torch.float32)
    return values.view(*section.shape[:-2], layout.group, channels)


def _params(layout: KvLayout) -> KvZfpParams:
    assert isinstance(layout.params, KvZfpParams)
    return layout.params
