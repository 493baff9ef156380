"""The plugin for Transformers: `from_pretrained` loads a compressed checkpoint once this module is imported.

    config.json: quantization_config {"quant_method": "tilepress", "format_version": 1}
        -> TilepressConfig -> TilepressQuantizer
        -> before loading: layers make room for compressed tensors (`placement`, `assembly`)
        -> Transformers loads parts as buffers
        -> after loading: nothing may be missing

Without this module Transformers warns that it does not know the method, and makes up random weights.

Transformers imports it half-way through its own imports (see `registration`), so what needs more of Transformers than
the base classes is imported only when a model is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from tilepress.formats.container import QUANT_METHOD, Container
from tilepress.formats.record import FORMAT_VERSION
from tilepress.kernels import BackendError, FormatError, RecipeError, require_gpu


@register_quantization_config(QUANT_METHOD)
class TilepressConfig(QuantizationConfigMixin):
    """`quantization_config` of a compressed checkpoint's config.json. Everything else stands in the shards."""

    def __init__(self, format_version: int = FORMAT_VERSION, **_: object) -> None:
        """Describe a container; other fields are accepted, since a config may come from a newer minor version."""
        self.quant_method = QUANT_METHOD  # type: ignore[assignment]  # the base class knows only its own methods
        self.format_version = format_version


@register_quantizer(QUANT_METHOD)
class TilepressQuantizer(HfQuantizer):
    """Loads a container into any model of Transformers. One instance serves one `from_pretrained`."""

    requires_calibration = False
    quantization_config: TilepressConfig

    def __init__(self, quantization_config: TilepressConfig, **kwargs: Any) -> None:
        """As Transformers calls it."""
        super().__init__(quantization_config, **kwargs)
        from tilepress.runtime.assembly import Assembly

        self._assembly = Assembly()
        self._part_dtypes: dict[str, torch.dtype] = {}
        self._expected: dict[str, torch.Tensor] = {}
        self._loading_info: Any = None
        self._folder = Path()

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        """Refuse what is not a compressed checkpoint of a known version, and a GPU that can't be used.

        Raises:
            BackendError: a device map with a GPU, which PyTorch or CuPy can't use.
            RecipeError: an ordinary checkpoint; it has to be compressed before it is loaded.
            FormatError: a newer format.
        """
        if not self.pre_quantized:
            raise RecipeError(
                "this checkpoint is not compressed, and tilepress does not compress while loading; run "
                "`tilepress compress SRC DST --codec ...` first and load DST without a quantization_config"
            )
        version = self.quantization_config.format_version
        if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
            raise FormatError(
                f"the checkpoint has format version {version}, this tilepress reads up to {FORMAT_VERSION}; upgrade it"
            )
        if isinstance(device_map, Mapping):
            uses_gpu = any(str(device).startswith("cuda") or type(device) is int for device in device_map.values())
        else:  # "auto" and the like take the GPUs that there are
            uses_gpu = device_map is not None and torch.cuda.is_available()
        if uses_gpu:
            require_gpu()

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """`save_pretrained` works."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Compressed weights have no gradients."""
        return False

    @property
    def is_compileable(self) -> bool:
        """The reference kernels can't be traced by `torch.compile`."""
        return False

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: Sequence[str | os.PathLike[str]] | None = None, **_: Any
    ) -> None:
        """Make room for the compressed tensors.

        Raises:
            FormatError: files that are no container, or one that does not match the model.
        """
        from tilepress.runtime.assembly import assemble
        from tilepress.runtime.placement import place

        files = [Path(file) for file in checkpoint_files or ()]
        if not files or any(file.suffix != ".safetensors" for file in files):
            raise FormatError("a compressed checkpoint can only be loaded from its safetensors files")
        with torch.device("cpu"):
            container = Container.from_files(files)
        self._folder = container.path
        self._assembly = assemble(model, container, place(model, container))
        self._part_dtypes = self._assembly.part_dtypes()
        self._expected = model.state_dict()
        self._watch_loading(model)

    def _watch_loading(self, model: Any) -> None:
        """Keep the report on what was missing: Transformers only prints it, and leaves such weights random."""
        adjust = model._adjust_missing_and_unexpected_keys

        def adjust_and_remember(loading_info: Any, *args: Any, **kwargs: Any) -> Any:
            self._loading_info = loading_info
            return adjust(loading_info, *args, **kwargs)

        model._adjust_missing_and_unexpected_keys = adjust_and_remember

    def get_weight_conversions(self) -> list[Any]:
        """Transforms in addition to the model's own."""
        return list(self._assembly.transforms)

    def get_new_dtype(self, converter: Any, param: Any, dtype: torch.dtype | None) -> torch.dtype | None:
        """Dtype to cast a tensor of the checkpoint to; None for parts, which stay as they are."""
        from tilepress.runtime.assembly import DecodeParts

        if converter.target_patterns[0] in self._part_dtypes:
            return None
        if any(isinstance(step, DecodeParts) for step in getattr(converter, "operations", ())):
            return None
        new_dtype: torch.dtype | None = super().get_new_dtype(converter, param, dtype)
        return new_dtype

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        """Check that every weight has come from the checkpoint.

        Raises:
            FormatError: weights that are missing, damaged or have the wrong shape.
        """
        from tilepress.runtime import native_forward, older_loaders
        from tilepress.runtime.assembly import transforms_to_keep

        del model._adjust_missing_and_unexpected_keys
        if self._loading_info is None:
            raise BackendError(
                f"Transformers {transformers.__version__} does not say which weights were missing; "
                "use a version that tilepress supports"
            )
        for step in self._assembly.decoding:
            if step.problem is not None:
                raise step.problem
        self._require_complete(model)
        older_loaders.mend(model, self._expected, self._part_dtypes)
        model._weight_conversions = transforms_to_keep(model._weight_conversions, self._assembly.tensors)
        self._expected, self._loading_info = {}, None
        native_forward.install(model)
        # Norms and biases would otherwise ask for gradients in every forward pass, which only the slow kernels give.
        return model.requires_grad_(False)

    def _require_complete(self, model: nn.Module) -> None:
        missing = sorted(self._loading_info.missing_keys)
        if missing:
            named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            raise FormatError(
                f"{self._folder}: has no tensor for {named} of {type(model).__name__}; load the "
                "architecture that config.json names (tilepress.load does), or compress the source again"
            )
        for name, value in model.state_dict().items():
            expected = self._expected.get(name)
            if expected is not None and value.shape != expected.shape:
                raise FormatError(
                    f"{self._folder}: {name} of {type(model).__name__} needs the shape {list(expected.shape)}, but the "
                    f"checkpoint gives {list(value.shape)}; the config.json is not the one of these weights"
                )

    def get_state_dict_and_metadata(self, model: Any) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """What `save_pretrained` writes; see `saving`.

        A compressed tensor is written as it was read. One that was decoded on loading, because no compressed layer can
        hold it, is written dense, with codec `none`.
        """
        from tilepress.runtime.saving import state_and_metadata

        return state_and_metadata(model, self._assembly.tensors)

    def _dequantize(self, model: Any, dtype: torch.dtype | str | None = None) -> Any:
        """Turn every compressed layer into the ordinary one, with decoded weights."""
        from tilepress.runtime import dequantization

        # The default comes from the config, where saving a model has turned it into text.
        named = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        return dequantization.dequantize(model, self._assembly.shared, named or model.dtype)
