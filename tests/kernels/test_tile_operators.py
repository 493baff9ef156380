"""The operators of fixed-rate tiles: what holds for every instruction set, tried with the one that runs here."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tilepress.compress.codecs import encode
from tilepress.kernels import BackendError, CodecError, Encoded, decode, matmul

native = importlib.import_module("tilepress.kernels._native")
tiles = importlib.import_module("tilepress.kernels.cpu.tiles")
active = importlib.import_module("tilepress.kernels.cpu.instruction_set").instruction_set


def values(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul_(0.05).to(dtype)


def test_shapes_of_x_and_empty_tensors() -> None:
    encoded = encode(values((40, 32)), "int:bits=4")
    assert matmul(torch.zeros(2, 3, 32), encoded).shape == (2, 3, 40)
    assert matmul(torch.zeros(32), encoded).shape == (40,)
    assert matmul(torch.zeros(0, 32), encoded).shape == (0, 40)
    assert torch.equal(matmul(torch.zeros(2, 32), encoded, torch.arange(40.0))[1], torch.arange(40.0))
    assert matmul(torch.zeros(2, 8), encode(torch.zeros(0, 8), "int")).shape == (2, 0)
    assert torch.equal(matmul(torch.zeros(2, 0), encode(torch.zeros(8, 0), "nf4")), torch.zeros(2, 8))
    turned = values((32, 3)).T
    assert torch.equal(matmul(turned, encoded), matmul(turned.contiguous(), encoded))


@pytest.mark.parametrize("spec", ("int:bits=4", "nf4", "fp8", "mxfp4", "nvfp4"))
def test_results_do_not_depend_on_the_number_of_threads(spec: str) -> None:
    encoded = encode(values((900, 600)), spec)
    x = values((2, 600), torch.bfloat16)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append((decode(encoded), matmul(x, encoded)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, found[0][0]) and torch.equal(b, found[0][1]) for a, b in found[1:])


def test_gradients_flow_to_x() -> None:
    encoded = encode(values((40, 32)), "int:bits=4")
    x = values((3, 32)).requires_grad_()
    matmul(x, encoded).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, decode(encoded).sum(0).expand(3, -1), atol=1e-5)


PARTS = (
    ("int:bits=4,group=32,symmetric=false", "codes"),
    ("int:bits=4,group=32,symmetric=false", "scales"),
    ("int:bits=4,group=32,symmetric=false", "zero_points"),
    ("mxfp4", "scales"),
    ("nvfp4", "global_scale"),
)


@pytest.mark.parametrize(("spec", "part"), PARTS)
@pytest.mark.parametrize("change", ("shorter", "longer", "empty", "dtype", "strided", "rank"))
def test_parts_that_do_not_fit_are_refused(spec: str, part: str, change: str) -> None:
    encoded = encode(values((40, 100)), spec)
    whole = encoded.parts[part]
    spoilt = {
        "shorter": whole[:-1],
        "longer": torch.cat([whole, whole[:1]], 0) if part != "codes" else torch.cat([whole, whole], 1),
        "empty": whole[..., :0],
        "dtype": whole.to(torch.int16),
        "strided": torch.stack([whole, whole], -1)[..., 0],
        "rank": whole.reshape(-1, whole.shape[-1]),
    }[change]
    other = Encoded(encoded.params, encoded.shape, encoded.dtype, {**encoded.parts, part: spoilt})
    with pytest.raises(CodecError):
        decode(other)
    for count in (1, 20):
        with pytest.raises(CodecError):
            matmul(torch.zeros(count, 100), other)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_argument_leads_native_code_astray(data: st.DataObject) -> None:
    encoded = encode(values((40, 100)), "int:bits=4,group=32,symmetric=false")
    number = st.one_of(st.sampled_from((0, 1, 16, 32, 40, 48, 100)), st.integers(-(2**63), 2**63 - 1))
    global_scale = torch.ones(4)
    tensors = (*encoded.parts.values(), global_scale)
    buffers = [(part.data_ptr(), data.draw(st.sampled_from((part.nbytes, 0, 7, -1)))) for part in tensors]
    name = data.draw(st.sampled_from(("int", "nf4", "e4m3", "e5m2", "e2m1", "int9")))
    bits = data.draw(st.one_of(st.just(4), st.integers(-(2**31), 2**31 - 1)))
    scale_format = data.draw(st.sampled_from(("bfloat16", "e8m0", "e4m3", "e5m2")))
    group, rows, width = (data.draw(number) for _ in range(3))
    parts = native.Parts(*buffers, name, bits, group, scale_format, rows, width)
    target = torch.full((40 * 100 + 1,), 7.0)
    room = (target.data_ptr(), 40 * 100 * 4)
    ranges = [(data.draw(number), data.draw(number)) for _ in range(2)]
    dtype = data.draw(st.sampled_from(("float32", "float16", "int8")))
    chosen = active()
    calls = (
        lambda: native.tiles_decode(chosen, parts, *ranges, dtype, room, 2),
        lambda: native.tiles_multiply(chosen, parts, ranges[0], room, (0, -1), room, dtype, data.draw(number), 2),
    )
    for call in calls:
        try:
            call()
        except ValueError as error:
            assert str(error)
    assert target[-1] == 7.0


def test_a_bias_that_does_not_fit_is_refused() -> None:
    encoded = encode(values((40, 32)), "nf4")
    with pytest.raises(CodecError, match="bias"):
        matmul(torch.zeros(1, 32), encoded, torch.zeros(41))


def test_an_instruction_set_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEPRESS_CPU", "mmx")
    active.cache_clear()
    with pytest.raises(BackendError, match="TILEPRESS_CPU=mmx"):
        active()


@pytest.mark.parametrize("spec", ("int:bits=3,symmetric=false", "nvfp4"))
def test_operators_pass_opcheck(spec: str) -> None:
    encoded = encode(values((40, 48)), spec)
    module = importlib.import_module(f"tilepress.kernels.cpu.{encoded.codec}")
    code = module.CODEC.code_of(encoded.params)
    weight = tiles.parts_of(encoded)
    torch.library.opcheck(torch.ops.tilepress.tiles_decode.default, (*weight, *code, 48, 3, 37, 5, 40, torch.bfloat16))
    for x in (torch.randn(2, 1, 48), torch.randn(20, 48).bfloat16()):
        bias = torch.randn(40, dtype=x.dtype)
        torch.library.opcheck(torch.ops.tilepress.tiles_matmul.default, (x, *weight, bias, *code, 0, 40))


class Layer(torch.nn.Module):
    """A product and a range of rows of one weight."""

    def __init__(self, encoded: Encoded) -> None:
        super().__init__()
        self.encoded = encoded
        for name, part in encoded.parts.items():
            self.register_buffer(name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = dict(self.named_buffers())
        encoded = Encoded(self.encoded.params, self.encoded.shape, self.encoded.dtype, parts)
        return torch.relu(matmul(x, encoded)) + decode(encoded, slice(0, 1), slice(0, 40), dtype=x.dtype)


@pytest.mark.parametrize("spec", ("int:bits=4", "nvfp4"))
def test_a_layer_compiles_and_exports_as_one_graph(spec: str) -> None:
    layer = Layer(encode(values((40, 48)), spec))
    x = torch.randn(3, 48)
    wanted = layer(x)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), wanted)
    rows = torch.export.Dim("rows", min=2, max=64)
    program = torch.export.export(layer, (x,), dynamic_shapes={"x": {0: rows}})
    stored = io.BytesIO()
    torch.export.save(program, stored)
    stored.seek(0)
    loaded = torch.export.load(stored).module()
    for count in (3, 20):
        x = torch.randn(count, 48)
        assert torch.equal(loaded(x), layer(x))


def test_a_forked_process_can_decode() -> None:
    """After a fork, the parent's OpenMP threads are gone; with one thread, none is needed."""
    program = (
        "import os, torch\n"
        "from tilepress.compress.codecs import encode\n"
        "from tilepress.kernels import decode\n"
        "encoded = encode(torch.randn(600, 600), 'int:bits=4')\n"
        "torch.set_num_threads(2)\n"
        "decode(encoded)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    torch.set_num_threads(1)\n"
        "    os._exit(0 if decode(encoded).shape == (600, 600) else 1)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
