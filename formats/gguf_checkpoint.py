"""A checkpoint in one GGUF file, given under Hugging Face names with config and tokenizer.

Names, config and tokenizer come from Transformers, values from the gguf package. F32, F16 and BF16 tensors keep their
dtype. Blocks of a quantized type are unpacked to float32 and rounded to bfloat16, which moves a value by 0.2 % at most.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from tilepress.formats.fingerprint import fingerprint
from tilepress.formats.gguf_header import GgufHeader, read_gguf_header
from tilepress.formats.gguf_model import (
    Assembly,
    assemble,
    check_readable,
    config_of,
    explained,
    exposed_dtype,
    is_quantized,
    load_whole,
    main_dtype,
    save_tokenizer,
)
from tilepress.formats.safetensors_checkpoint import companion_files
from tilepress.formats.safetensors_header import map_bytes, shown
from tilepress.formats.sharding import CONFIG_NAME
from tilepress.formats.tensor_info import TensorInfo
from tilepress.kernels.errors import FormatError, RecipeError


class GgufCheckpoint:
    """A GGUF file opened as a checkpoint.

    Opening converts config and tokenizer into a temporary folder, which goes when the checkpoint does. Tensors are
    unpacked one by one; only for architectures that Transformers can't take apart is the whole model in memory.

    Attributes:
        path: the temporary folder, whose last part is the file's name.
        infos: name -> info, in the order of the file.
        config: content of config.json.
        weight_files: the GGUF file.
    """

    def __init__(self, file: Path) -> None:
        """Read the header, then config, tokenizer and names through Transformers.

        Raises:
            FormatError: a damaged or hostile file, or one that Transformers or gguf can't read.
            RecipeError: no room for temporary files.
        """
        self._header = read_gguf_header(file)
        check_readable(self._header)
        self.weight_files: Sequence[Path] = (file,)
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="tilepress-")
            self.path = Path(self._folder.name, file.name)
            self.path.mkdir()
            # Transformers sees the file alone, so that nothing else in its folder is taken for a part of it.
            alone = Path(self._folder.name, "alone", file.name)
            alone.parent.mkdir()
            alone.symlink_to(file.resolve())
            self._tensors = self._read(alone)
            self.infos: Mapping[str, TensorInfo] = self._tensors.infos
            self.config: Mapping[str, Any] = self._tensors.config
            (self.path / CONFIG_NAME).write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")
        except OSError as problem:
            raise RecipeError(
                f"{file}: its config can't be written to a temporary folder ({problem.strerror}); "
                "make room there, or set TMPDIR to another folder"
            ) from None
        save_tokenizer(alone, self._header, self.path)

    def _read(self, alone: Path) -> _Pieces | _Whole:
        assembly = assemble(alone, self._header)
        return _Whole(alone, self._header) if assembly is None else _Pieces(self._header, assembly)

    def tensor(self, name: str) -> torch.Tensor:
        """Unpack one tensor.

        Raises:
            FormatError: the file has changed since it was opened.
            KeyError: no such tensor.
        """
        return self._tensors.tensor(name)

    def companions(self) -> list[Path]:
        """Files of the converted tokenizer, relative to `path`."""
        return companion_files(self.path)

    def identity(self) -> str:
        """Digest of the file, the same wherever it lies; see `fingerprint`."""
        return fingerprint({self.weight_files[0]: self._header.size}, b"")


class _Pieces:
    """Tensors that are put together one by one."""

    def __init__(self, header: GgufHeader, assembly: Assembly) -> None:
        self._header = header
        self._assembly = assembly
        self.config = config_of(assembly.model, main_dtype(header))
        shapes = {name: tuple(value.shape) for name, value in assembly.model.state_dict().items()}
        self.infos = {
            name: TensorInfo(name, shapes[name], exposed_dtype([header.tensors[source] for source in sources]))
            for name, sources in assembly.sources.items()
        }
        if assembly.unused:
            names = ", ".join(map(shown, assembly.unused[:3])) + (", ..." if len(assembly.unused) > 3 else "")
            warnings.warn(
                f"{header.path}: Transformers has no place for {len(assembly.unused)} of its tensors ({names}); "
                "they are left out",
                stacklevel=5,
            )

    def tensor(self, name: str) -> torch.Tensor:
        info = self.infos[name]
        made: dict[str, torch.Tensor] = {}
        for source in self._assembly.sources[name]:
            values = self._unpack(source)
            with explained(self._header.path), np.errstate(all="ignore"):
                result = self._assembly.processor.process(
                    weights=values,
                    name=source,
                    tensor_key_mapping=self._assembly.names,
                    parsed_parameters={"tensors": made},
                )
            # A processor that joins several tensors puts its result into `made` itself and names nothing.
            if result.name is not None:
                made[name] = torch.from_numpy(np.require(result.weights, np.float32, ["C", "A", "W"]))
        tensor = made.get(name)
        if tensor is None or tuple(tensor.shape) != info.shape:
            found = "nothing" if tensor is None else f"the shape {list(tensor.shape)}"
            raise FormatError(
                f"{self._header.path}, tensor {name}: Transformers makes {found} of it instead of {list(info.shape)}; "
                "the file contradicts its own metadata"
            )
        return tensor.to(info.dtype)

    def _unpack(self, source: str) -> Any:
        """Values of one tensor of the file, float32, in the shape that the file gives."""
        tensor = self._header.tensors[source]
        raw = map_bytes(self._header.path, tensor.begin, tensor.end, source)
        # A block never spans two rows.
        rows = raw.reshape(*tensor.shape[:-1], -1).numpy()
        with np.errstate(all="ignore"):
            return gguf.dequantize(rows, tensor.type)


class _Whole:
    """Tensors of a model that Transformers has loaded at once.

    Which of them were blocks is not known any more: matrices are given in the dtype of most of the file's values if
    that loses nothing or the file is quantized, the rest in float32.
    """

    def __init__(self, file: Path, header: GgufHeader) -> None:
        model = load_whole(file, header)
        dtype = main_dtype(header)
        quantized = is_quantized(header)
        self.config = config_of(model, dtype)
        self._state: dict[str, torch.Tensor] = {}
        for name, tensor in model.state_dict().items():
            if name in model.all_tied_weights_keys:
                continue
            narrow = tensor.to(dtype)
            keep = tensor.ndim >= 2 and (quantized or torch.equal(narrow.float(), tensor))
            self._state[name] = narrow if keep else tensor
        self.infos = {name: TensorInfo(name, tuple(tensor.shape), tensor.dtype) for name, tensor in self._state.items()}

    def tensor(self, name: str) -> torch.Tensor:
        return self._state[name]
