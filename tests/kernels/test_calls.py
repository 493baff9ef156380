"""Calls of native kernels past PyTorch's dispatcher: what they keep between calls, and when they must not be taken."""

from __future__ import annotations

import copy
import importlib
import pickle

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from tilepress.compress.codecs import encode
from tilepress.kernels import CodecError, Encoded, backend_of, matmul

SPECS = [
    spec
    for spec in ("int:bits=4", "nf4", "fp8", "mxfp4", "nvfp4")
    if backend_of(spec.split(":")[0], "cpu").name == "cpu"
]


def weight(seed: int) -> torch.Tensor:
    return torch.randn(40, 32, generator=torch.Generator().manual_seed(seed)) * 0.05


@pytest.mark.parametrize("spec", SPECS)
def test_parts_that_are_swapped_in_place_are_seen_by_the_next_call(spec: str) -> None:
    first, second = encode(weight(1), spec), encode(weight(2), spec)
    x = torch.randn(2, 32)
    before, wanted = matmul(x, first), matmul(x, second)
    for name, part in second.parts.items():
        first.parts[name].data = part.clone()
    assert torch.equal(matmul(x, first), wanted)
    assert not torch.equal(before, wanted)


@pytest.mark.parametrize("spec", SPECS)
def test_parts_that_no_longer_fit_are_refused_by_the_next_call(spec: str) -> None:
    encoded = encode(weight(1), spec)
    x = torch.randn(2, 32)
    matmul(x, encoded)
    encoded.parts["codes"].data = encoded.parts["codes"][:-1].clone()
    with pytest.raises(CodecError):
        matmul(x, encoded)


@pytest.mark.parametrize("spec", (*SPECS, "lossless", "sz:abs=1e-3", "zfp:rate=8", "trellis:bits=4,window=12"))
def test_what_a_gpu_multiplies_goes_through_the_operator(spec: str) -> None:
    encoded = encode(weight(1), spec)
    elsewhere = {name: part.to("meta") for name, part in encoded.parts.items()}
    there = Encoded(encoded.params, encoded.shape, encoded.dtype, elsewhere)
    on_gpu = importlib.import_module(f"tilepress.kernels.cuda.{encoded.codec}")
    # Of a device without kernels, an operator gives what it says of shape and dtype; native code would be refused.
    y = on_gpu.matmul(torch.randn(2, 32, device="meta"), there, None, range(3, 40))
    assert (y.device.type, y.shape) == ("meta", (2, 37))
    assert on_gpu.decode(there, range(3, 40), range(32), torch.float16).shape == (37, 32)


def test_nothing_outside_of_main_memory_reaches_native_code() -> None:
    encoded = encode(weight(1), "int:bits=4")
    x = torch.randn(2, 32)
    with pytest.raises(CodecError, match="bias"):
        matmul(x, encoded, torch.zeros(40, device="meta"))
    elsewhere = Encoded(encoded.params, encoded.shape, encoded.dtype, {**encoded.to("meta").parts})
    with pytest.raises(CodecError, match="main memory"):
        matmul(x, elsewhere)


@pytest.mark.parametrize("spec", SPECS)
def test_copies_and_pickles_work_after_a_call(spec: str) -> None:
    encoded = encode(weight(1), spec)
    x = torch.randn(2, 32)
    wanted = matmul(x, encoded)
    for other in (copy.deepcopy(encoded), pickle.loads(pickle.dumps(encoded)), copy.copy(encoded)):
        assert torch.equal(matmul(x, other), wanted)


def test_transforms_and_tracers_see_the_operator() -> None:
    encoded = encode(weight(1), "int:bits=4")
    x = torch.randn(3, 2, 32)
    wanted = matmul(x, encoded)
    assert torch.allclose(torch.vmap(lambda rows: matmul(rows, encoded))(x), wanted)
    graph = make_fx(lambda rows: matmul(rows, encoded))(x)
    assert "tiles_matmul" in graph.code
    assert torch.equal(graph(x + 1), matmul(x + 1, encoded))
    with torch.no_grad():
        traced = torch.jit.trace(lambda rows: matmul(rows, encoded), (x,), check_trace=False)
    assert torch.equal(traced(x + 1), matmul(x + 1, encoded))
