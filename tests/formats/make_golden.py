"""Write a golden container: `python tests/formats/make_golden.py NAME [CODEC SPEC ...]`.

Run once for a released format version, and once for codecs that are added to it, never again: the files prove that
later versions still read them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from tilepress.compress.recipe import Recipe, Rule
from tilepress.conversion import compress
from tilepress.formats.container import Container
from tilepress.kernels import parse_spec

SPECS = (
    "none",
    "lossless",
    "zfp:rate=6",
    "zfp:precision=10",
    "zfp:tolerance=0.01",
    "zfp:reversible=true",
    *(f"int:bits={bits},group=32" for bits in range(2, 9)),
    "int:bits=4,group=0,symmetric=false",
    "nf4:group=32",
    "fp8:format=e4m3",
    "fp8:format=e5m2,group=16",
)


def main(name_of_folder: str, *specs: str) -> None:
    """Write one container with a tensor for each spec, of dtypes in turn."""
    generator = torch.Generator().manual_seed(1)
    tensors, rules = {}, []
    for number, spec in enumerate(specs or SPECS):
        dtype = (torch.bfloat16, torch.float32, torch.float16)[number % 3]
        name = f"tensor{number:02d}.weight"
        tensors[name] = torch.randn(41, 101, generator=generator).mul(0.1).to(dtype)
        rules.append(Rule(name, parse_spec(spec)))
    folder = Path(__file__).parent / "golden" / name_of_folder
    with tempfile.TemporaryDirectory() as place:
        save_file(tensors, Path(place) / "model.safetensors", metadata={"format": "pt"})
        compress(place, folder, recipe=Recipe(rules))
    opened = Container.open(folder)
    (folder / "expected").mkdir()
    save_file({name: opened.tensor(name) for name in opened}, folder / "expected" / "decoded.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
