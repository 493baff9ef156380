"""From files to a running model: the plugin for Transformers, compressed layers, loading and evaluation."""

from tilepress.runtime.compressed import CompressedEmbedding, CompressedLinear, CompressedTensor
from tilepress.runtime.loading import load
from tilepress.runtime.quantizer import TilepressConfig, TilepressQuantizer

__all__ = [
    "CompressedEmbedding",
    "CompressedLinear",
    "CompressedTensor",
    "TilepressConfig",
    "TilepressQuantizer",
    "load",
]
