"""Codec specs that stand for every codec of the registry in the tests that all codecs share.

A codec's specs name each of its modes, and parameters at the ends of their ranges. A new codec adds its line here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

SPECS_OF: Mapping[str, tuple[str, ...]] = {
    "none": ("none",),
    "lossless": ("lossless",),
    "zfp": ("zfp:rate=8", "zfp:rate=3.5", "zfp:precision=12", "zfp:tolerance=0.001", "zfp:reversible=true"),
    "sz": ("sz:abs=1e-3", "sz:rel=1e-3,predictor=lorenzo2"),
    "int": ("int:bits=4,group=64", "int:bits=3,group=32,symmetric=false", "int:bits=8,group=0"),
    "nf4": ("nf4",),
    "fp8": ("fp8", "fp8:format=e5m2,group=32"),
    "trellis": ("trellis:bits=4,window=12",),
    "mxfp4": ("mxfp4",),
    "nvfp4": ("nvfp4",),
}

SPECS = tuple(itertools.chain.from_iterable(SPECS_OF.values()))

MORE_SPECS_OF: Mapping[str, tuple[str, ...]] = {
    "zfp": ("zfp:rate=1", "zfp:rate=32", "zfp:precision=1", "zfp:precision=32", "zfp:tolerance=1e-30"),
    "int": (
        *(f"int:bits={bits},group=64" for bits in range(2, 9)),
        *(f"int:bits={bits},group=16,symmetric=false" for bits in range(2, 9)),
        "int:bits=5,group=48",
    ),
    "nf4": ("nf4:group=16", "nf4:group=0"),
    "fp8": ("fp8:group=64", "fp8:format=e5m2,group=0"),
}
"""Further ones, for the sweeps that take longer."""

FUZZED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    **{codec: ("target", specs) for codec, specs in SPECS_OF.items()},
    "attention": (
        "attention_target",
        ("int:bits=4", "int:bits=8,group=16", "int:bits=2", "fp8:group=16", "int:bits=4,group=32", "fp8"),
    ),
}
"""What is fuzzed -> the module of tests/fuzz that does it, and the specs that it takes."""

ROTATING = ("trellis",)
"""Codecs whose products rotate x and round it again: an error is as large as the norms say, not the single products."""
