"""Repairs for Transformers before `HfQuantizer.get_new_dtype`, where a quantizer had no say in dtypes.

Such a loader leaves renamed tensors in the checkpoint's dtype, casts bfloat16 parts where a model keeps some modules in
float32, and has every tensor that is offloaded to disk cast to the model's dtype whenever it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers.quantizers.base import HfQuantizer


def mend(model: Any, expected: Mapping[str, torch.Tensor], part_dtypes: Mapping[str, torch.dtype]) -> None:
    """Give tensors the dtypes that they should have been loaded in; does nothing where the loader has done it.

    Args:
        model: freshly loaded.
        expected: its state dict from before, on the meta device.
        part_dtypes: name in the state dict -> dtype, for the parts of compressed tensors.
    """
    if hasattr(HfQuantizer, "get_new_dtype"):
        return
    in_float32 = [*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())]
    for name, value in model.state_dict(keep_vars=True).items():
        if name in part_dtypes:
            wanted = part_dtypes[name]
        elif name in expected and not any(module in name for module in in_float32):
            wanted = expected[name].dtype
        else:
            continue
        if value.dtype != wanted:
            value.data = value.data.to(wanted)
    for module in model.modules():
        index = getattr(getattr(getattr(module, "_hf_hook", None), "weights_map", None), "dataset", None)
        for name, entry in getattr(index, "index", {}).items():
            if name in part_dtypes:
                entry["dtype"] = str(part_dtypes[name]).removeprefix("torch.")
