"""What this machine and installation can do: versions, devices, and which kernel will run which codec."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Mapping

import torch

from tilepress.kernels import table

_PACKAGES = (
    "tilepress",
    "torch",
    "transformers",
    "accelerate",
    "safetensors",
    "huggingface_hub",
    "zfpy",
    "zstandard",
    "gguf",
    "cupy-cuda12x",
    "cupy-cuda13x",
)


def examine() -> Mapping[str, Mapping[str, str]]:
    """Title -> what -> finding, in the order in which they should be shown."""
    return {
        "machine": _machine(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "kernels (codec on device)": {f"{codec} on {device}": backend for codec, device, backend in table()},
    }


def _machine() -> dict[str, str]:
    found = {
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "processors": f"{os.cpu_count()}, of which PyTorch uses {torch.get_num_threads()}",
        "native kernels": _native_kernels(),
    }
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(number)
            found[f"GPU {number}"] = f"{device.name}, {device.total_memory / 1e9:.0f} GB"
        found["cuda kernels"] = _cuda_kernels()
    else:
        found["GPU"] = "none that PyTorch can use"
    return found


def _native_kernels() -> str:
    if importlib.util.find_spec("tilepress.kernels._native") is None:
        return "not built: every codec runs on the reference backend; install tilepress again"
    from tilepress.kernels.cpu.instruction_set import instruction_set

    return instruction_set()


def _cuda_kernels() -> str:
    if importlib.util.find_spec("tilepress.kernels._native") is None:
        return "not there without the native ones"
    from tilepress.kernels.cuda.launch import state

    return state()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
