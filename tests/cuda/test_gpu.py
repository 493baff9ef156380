"""The same cases on a GPU, through the operators; skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from tilepress.compress.codecs import encode
from tilepress.kernels import CodecError, backend_of, decode, matmul
from tilepress.kernels.attention import attend
from tilepress.kernels.cuda import attention as attention_kernels
from tilepress.kernels.cuda.launch import is_installed, launcher
from tilepress.kernels.reference.attention import Attention

from ..kernels.attention_cases import extras
from . import instructions, kv_cases
from .cases import (
    DTYPE_LIST,
    MORE_SHAPES,
    SHAPES,
    TILE_SPECS,
    TRELLIS_SPECS,
    are_same,
    encoded_values,
    excess,
    reference,
    tiny_values,
    values,
    with_parts,
    with_random_parts,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU"),
    pytest.mark.skipif(not is_installed(), reason="CuPy is not installed"),
]


def test_instructions_do_what_the_manual_says() -> None:
    device = launcher(torch.device("cuda"))
    for check in (
        instructions.check_fragments,
        instructions.check_words,
        instructions.check_packed,
        instructions.check_floats,
    ):
        check(device, "cuda")


@pytest.mark.parametrize("spec", TILE_SPECS)
def test_decoding_is_bit_identical_with_the_reference(spec: str) -> None:
    for dtype in DTYPE_LIST:
        for seed, shape in enumerate(SHAPES + MORE_SHAPES):
            encoded = encoded_values(spec, shape)
            for each in (encoded, encode(tiny_values(shape), spec), with_random_parts(encoded, seed)):
                found = decode(each.to("cuda"), dtype=dtype).reshape(each.rows, each.columns)
                assert are_same(found.cpu(), reference(each, dtype)), (shape, dtype)


@pytest.mark.parametrize("spec", TILE_SPECS)
def test_products_are_those_of_the_reference(spec: str) -> None:
    assert backend_of(spec.split(":")[0], "cuda").name == "cuda"
    for dtype in DTYPE_LIST:
        before = 2e-6 if dtype == torch.float32 else 1e-4
        for shape in (*SHAPES, (4096, 1000), (33, 8192)):
            encoded = encoded_values(spec, shape)
            weight, bias = reference(encoded, torch.float32), values((encoded.rows,), dtype, seed=2)
            for count in (1, 2, 5, 8, 9, 70, 300):
                x = values((count, encoded.columns), dtype, seed=count)
                found = matmul(x.cuda(), encoded.to("cuda"), bias.cuda())
                assert excess(found.cpu(), x, weight, bias, before) <= 0, (shape, dtype, count)


@pytest.mark.parametrize("spec", TRELLIS_SPECS)
def test_trellis_codes_are_decoded_and_multiplied_as_on_the_cpu(spec: str) -> None:
    for shape in ((17, 33), (96, 144), (576, 1536)):
        encoded = encoded_values(spec, shape)
        weight = reference(encoded, torch.float32)
        for dtype in DTYPE_LIST:
            assert are_same(decode(encoded.to("cuda"), dtype=dtype).cpu(), weight.to(dtype)), (shape, dtype)
            for count in (1, 4, 5, 8, 20, 300):
                x = values((count, shape[1]), dtype, seed=count)
                found, wanted = matmul(x.cuda(), encoded.to("cuda")).cpu().double(), x.double() @ weight.double().T
                before = 2e-6 if count <= 8 or dtype == torch.float32 else 2**-11
                terms = x.double().norm(dim=-1, keepdim=True) * weight.double().norm(dim=-1).max()
                assert ((found - wanted).abs() <= torch.finfo(dtype).eps * wanted.abs() + before * terms).all()


@pytest.mark.parametrize("source", DTYPE_LIST)
def test_lossless_blocks_are_decoded_and_multiplied_as_on_the_cpu(source: torch.dtype) -> None:
    assert backend_of("lossless", "cuda").name == "cuda"
    for shape in (*SHAPES, (33, 2100), (300, 4096)):
        encoded = encoded_values("lossless", shape, source)
        weight = reference(encoded, torch.float32)
        for dtype in DTYPE_LIST:
            found = decode(encoded.to("cuda"), dtype=dtype).reshape(weight.shape)
            assert are_same(found.cpu(), weight.to(dtype)), (shape, dtype)
            before = 2e-6 if dtype == torch.float32 else 1e-4
            for count in (1, 5, 8):
                x = values((count, shape[1]), dtype, seed=count)
                found = matmul(x.cuda(), encoded.to("cuda"))
                assert excess(found.cpu(), x, weight, None, before) <= 0, (shape, dtype, count)


@pytest.mark.parametrize("source", DTYPE_LIST)
@pytest.mark.parametrize("spec", ("abs=1e-3", "rel=1e-4,predictor=lorenzo1", "abs=1e-5,predictor=lorenzo2"))
def test_sz_tiles_are_decoded_as_on_the_cpu(spec: str, source: torch.dtype) -> None:
    assert backend_of("sz", "cuda").name == "cuda"
    for shape in (*SHAPES, (33, 2100), (300, 4096)):
        encoded = encoded_values(f"sz:{spec}", shape, source)
        for dtype in DTYPE_LIST:
            found = decode(encoded.to("cuda"), dtype=dtype).reshape(encoded.rows, encoded.columns)
            assert are_same(found.cpu(), reference(encoded, dtype)), (shape, dtype)


@pytest.mark.parametrize("mode", ("rate=3.3", "rate=8", "precision=12", "tolerance=1e-3", "reversible=true"))
def test_zfp_panels_are_decoded_and_multiplied_as_on_the_cpu(mode: str) -> None:
    assert backend_of("zfp", "cuda").name == "cuda"
    for shape in (*SHAPES, (33, 2100), (300, 4096)):
        encoded = encoded_values(f"zfp:{mode}", shape)
        weight = reference(encoded, torch.float32)
        for dtype in DTYPE_LIST:
            found = decode(encoded.to("cuda"), dtype=dtype).reshape(weight.shape)
            assert are_same(found.cpu(), weight.to(dtype)), (shape, dtype)
            before = 2e-6 if dtype == torch.float32 else 1e-4
            for count in (1, 5, 8) if mode.startswith("rate") else ():
                x = values((count, shape[1]), dtype, seed=count)
                found = matmul(x.cuda(), encoded.to("cuda"))
                assert excess(found.cpu(), x, weight, None, before) <= 0, (shape, dtype, count)


@pytest.mark.parametrize("spec", ("lossless", "sz:abs=1e-3", "zfp:rate=8", "zfp:precision=12"))
def test_any_bytes_of_payloads_end_in_some_values(spec: str) -> None:
    encoded = encoded_values(spec, (300, 4096))
    for seed in range(5):
        random = with_random_parts(encoded, seed)
        assert decode(random.to("cuda")).cpu().shape == (300, 4096)
        payload = with_parts(encoded, payload=random.parts["payload"])
        assert decode(payload.to("cuda")).cpu().shape == (300, 4096)


LONG_SHAPES = (kv_cases.Shape(1, 32, 8, 1, 4200, 128, 128), kv_cases.Shape(1, 32, 8, 300, 4200, 128, 128))


@pytest.mark.parametrize("spec", kv_cases.SPECS)
def test_attention_over_tiles_is_that_of_the_reference(spec: str) -> None:
    for dtype in DTYPE_LIST:
        for shape in (*kv_cases.SHAPES, *kv_cases.LARGE_SHAPES, *LONG_SHAPES, *kv_cases.MANY_SHAPES):
            store = kv_cases.store_of(spec, shape, dtype, device="cuda")
            query = kv_cases.query_of(shape, dtype).cuda()
            assert attention_kernels.is_for(query, store) == (dtype != torch.float32 or shape.queries <= 8)
            plain = Attention(scaling=shape.key_size**-0.5)
            kv_cases.assert_as_the_reference(attend(query, store, plain), query, store, plain)
        for extra in extras(kv_cases.SHAPES[2]).values():
            store = kv_cases.store_of(spec, kv_cases.SHAPES[2], dtype, device="cuda")
            query = kv_cases.query_of(kv_cases.SHAPES[2], dtype).cuda()
            there = {name: one.cuda() if isinstance(one, torch.Tensor) else one for name, one in extra.items()}
            attention = Attention(scaling=0.3, **there)
            kv_cases.assert_as_the_reference(attend(query, store, attention), query, store, attention)


def test_attention_is_captured_in_a_graph_and_replayed() -> None:
    shape = kv_cases.Shape(1, 8, 2, 1, 700, 128, 128)
    store = kv_cases.store_of("int:bits=4", shape, torch.bfloat16, device="cuda")
    query, attention = kv_cases.query_of(shape, torch.bfloat16).cuda(), Attention(scaling=0.1)
    attend(query, store, attention)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = attend(query, store, attention)
    query.copy_(query.flip(1))
    graph.replay()
    assert torch.equal(found, attend(query, store, attention))


def test_work_on_a_stream_of_ones_own_is_ordered() -> None:
    encoded, side = encoded_values("int:bits=4", (4096, 4096)).to("cuda"), torch.cuda.Stream()
    x = values((2, 4096), torch.bfloat16).cuda()
    wanted = matmul(x * 3, encoded)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        late = torch.zeros_like(x)
        torch.cuda._sleep(10_000_000)
        late += x * 3
        found = matmul(late, encoded)
    side.synchronize()
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    "spec",
    ("int:bits=4", "trellis:bits=4,window=12,effort=fast", "lossless", "sz:abs=1e-3", "zfp:rate=8", "zfp:precision=12"),
)
def test_products_are_captured_in_a_graph_and_replayed(spec: str) -> None:
    encoded = encoded_values(spec, (64, 1536)).to("cuda")
    for count in (1, 20):
        x = values((count, 1536), torch.bfloat16).cuda()
        matmul(x, encoded)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = matmul(x, encoded)
        x.copy_(values((count, 1536), torch.bfloat16, seed=9))
        graph.replay()
        assert torch.equal(found, matmul(x, encoded))


@pytest.mark.parametrize("spec", ("int:bits=4", "trellis:bits=4,window=12,effort=fast"))
def test_a_compiled_function_has_the_product_as_one_operator(spec: str) -> None:
    encoded = encoded_values(spec, (96, 144)).to("cuda")
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: matmul(x * 2, encoded) + 1, fullgraph=True, backend="aot_eager")
    for count in (1, 20):
        x = values((count, 144), torch.bfloat16).cuda()
        assert torch.equal(compiled(x), matmul(x * 2, encoded) + 1)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
@pytest.mark.parametrize("spec", ("int:bits=4", "trellis:bits=4,window=12,effort=fast"))
def test_each_of_two_gpus_multiplies_what_lies_on_it(spec: str) -> None:
    encoded, x = encoded_values(spec, (96, 144)), values((2, 144), torch.bfloat16)
    found = [matmul(x.to(device), encoded.to(device)) for device in ("cuda:1", "cuda:0", "cuda:1")]
    assert [str(each.device) for each in found] == ["cuda:1", "cuda:0", "cuda:1"]
    assert torch.equal(found[0].cpu(), found[1].cpu())
    assert torch.equal(found[0], found[2])
    with pytest.raises(CodecError, match="cuda:0"):
        matmul(x.to("cuda:0"), encoded.to("cuda:1"))
