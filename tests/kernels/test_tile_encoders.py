"""The native encoders of fixed-rate tiles give the parts of their definitions in PyTorch, bit for bit."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilepress.compress.codecs import encode, groups
from tilepress.kernels import CodecError, Encoded, decode
from tilepress.kernels.dispatch import Backend

native = importlib.import_module("tilepress.kernels._native")
active = importlib.import_module("tilepress.kernels.cpu.instruction_set").instruction_set

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SPECS = (
    *(f"int:bits={bits},group=64" for bits in range(2, 9)),
    "int:bits=3,group=0",
    "int:bits=2,group=32,symmetric=false",
    "int:bits=8,group=48,symmetric=false",
    "nf4",
    "fp8",
    "fp8:format=e5m2,group=32",
    "mxfp4",
    "nvfp4",
)


@pytest.fixture(params=native.instruction_sets(), autouse=True)
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TILEPRESS_CPU", request.param)
    active.cache_clear()
    yield request.param
    active.cache_clear()


def defined(weight: torch.Tensor, spec: str) -> Encoded:
    """What the definition makes of a tensor."""
    no_kernels = Backend("none", lambda encoded, rows, columns, dtype: torch.empty(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "backend_of", lambda codec, device: no_kernels)
        return encode(weight, spec)


def assert_same_parts(weight: torch.Tensor, spec: str) -> None:
    found, wanted = encode(weight, spec), defined(weight, spec)
    assert list(found.parts) == list(wanted.parts)
    for name, part in wanted.parts.items():
        assert found.parts[name].dtype == part.dtype
        assert found.parts[name].shape == part.shape
        same = found.parts[name].view(torch.uint8) == part.view(torch.uint8)
        assert bool(same.all()), f"{spec}: {name} of {tuple(weight.shape)}"


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parts_are_those_of_the_definition(spec: str, dtype: torch.dtype) -> None:
    for number, shape in enumerate(((1, 1), (17, 33), (3, 20, 24), (41, 576), (0, 8), (8, 0))):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(number)).mul_(0.05).to(dtype)
        assert_same_parts(weight, spec)


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_finite_values_give_the_parts_of_the_definition(spec: str, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    width = {torch.float32: 32, torch.float16: 16, torch.bfloat16: 32}[dtype]
    most = 60000.0 if dtype == torch.float16 else 2.0**126
    exponent = data.draw(st.sampled_from((None, 0, -10, -140)))
    if exponent is None:
        numbers = st.floats(-most, most, width=width)
    else:  # few digits, so that ties are met
        numbers = st.integers(-16, 16).map(lambda number: number * 2.0 ** (exponent - 3))
    row = data.draw(st.lists(numbers, min_size=1, max_size=70))
    weight = torch.tensor([row, row[::-1]], dtype=torch.float64).to(dtype)
    assert_same_parts(weight, spec)


@pytest.mark.parametrize("spec", SPECS)
def test_a_transposed_matrix_is_encoded_as_its_copy(spec: str) -> None:
    weight = torch.randn(40, 33, generator=torch.Generator().manual_seed(1)).T
    assert torch.equal(decode(encode(weight, spec)), decode(encode(weight.contiguous(), spec)))


@pytest.mark.parametrize("bad", (float("nan"), float("inf"), -float("inf")))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("place", (0, 70_000, 159_999))
def test_a_value_without_a_code_is_refused_wherever_it_is(bad: float, dtype: torch.dtype, place: int) -> None:
    weight = torch.zeros(400, 400, dtype=dtype)
    weight.view(-1)[place] = bad
    torch.set_num_threads(2)
    for spec in ("int:bits=4", "nvfp4"):
        with pytest.raises(CodecError, match="NaN or infinite"):
            encode(weight, spec)


def test_parts_do_not_depend_on_the_number_of_threads() -> None:
    weight = torch.randn(700, 600, generator=torch.Generator().manual_seed(2))
    for spec in ("int:bits=4", "nvfp4"):
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(encode(weight, spec).parts["codes"])
        assert all(torch.equal(codes, found[0]) for codes in found)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_argument_leads_native_code_astray(data: st.DataObject) -> None:
    number = st.one_of(st.sampled_from((0, 1, 16, 32, 40, 48, 100)), st.integers(-(2**63), 2**63 - 1))
    parts = encode(torch.zeros(40, 100), "int:bits=4,group=32,symmetric=false").parts
    tensors = [torch.full((part.nbytes + 1,), 7, dtype=torch.uint8) for part in parts.values()]
    sizes = [data.draw(st.sampled_from((len(tensor) - 1, 0, 7, -1))) for tensor in tensors]
    buffers = [(tensor.data_ptr(), size) for tensor, size in zip(tensors, sizes, strict=True)]
    name = data.draw(st.sampled_from(("int", "nf4", "e4m3", "e2m1")))
    group, rows, width = (data.draw(number) for _ in range(3))
    scale_format = data.draw(st.sampled_from(("bfloat16", "e8m0")))
    target = native.Parts(*buffers, (0, -1), name, 4, group, scale_format, rows, width)
    source = torch.ones(40, 100)
    values = (source.data_ptr(), data.draw(st.sampled_from((source.nbytes, 0, 9))))
    try:
        native.tile_encoders_encode(active(), target, values, data.draw(number), "float32", 2)
    except ValueError as error:
        assert str(error)
    assert all(tensor[-1] == 7 for tensor in tensors)
