"""What of benchmarks/gpu.py needs no GPU."""

from __future__ import annotations

import importlib.util
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tilepress.kernels import decode
from tilepress.kernels.cuda import launch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("gpu", monkeypatch)


def test_without_a_gpu_one_sentence_says_so(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        gpu.main([])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "benchmarks/gpu.py needs a GPU, and PyTorch finds none\n"


def test_without_cupy_the_sentence_says_what_to_install(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch._cupy_launcher.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(launch, "is_installed", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["int:bits=4"])
    assert stopped.value.code == 2
    assert "pip install tilepress[cuda12]" in capsys.readouterr().err


def test_codes_of_every_contestant_are_finite(gpu: ModuleType) -> None:
    weight = torch.randn(32, 128, generator=torch.Generator().manual_seed(0))
    for spec in gpu.SPECS:
        encoded = gpu.coded(weight, spec)
        assert decode(encoded).shape == (32, 128)
        # Any byte is a code, and of `fp8` two are NaN.
        assert spec == "fp8" or decode(encoded).isfinite().all(), spec
    assert torch.equal(decode(gpu.coded(weight, "lossless")), weight.bfloat16())


def test_copies_of_a_weight_are_more_than_a_cache_holds(gpu: ModuleType) -> None:
    assert gpu.copies_beyond(50 << 20, 32 << 20) * (32 << 20) >= 4 * (50 << 20)
    assert gpu.copies_beyond(0, 1) == 2


def test_a_row_of_the_table_has_bandwidth_and_its_shares(gpu: ModuleType) -> None:
    of_product = gpu.figures("int:bits=4", "x 1", 1e-3, 2_000_000_000, 4000.0, 3e-3, True)
    assert gpu.line(of_product).split() == ["int:bits=4", "x", "1", "1000.0", "us", "2000", "GB/s", "0.50", "3.00"]
    of_decoding = gpu.figures("nf4", "decode", 1e-3, 1_000_000_000, 4000.0, None, False)
    assert gpu.line(of_decoding).endswith("0.25             launched from Python")
    assert len(gpu.HEAD.split()) == 6


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("package", ("bitsandbytes", "hqq", "torchao"))
def test_peers_take_a_weight_where_they_are_installed(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU; torchao, which has no kernel for it, on tensors without values."""
    pytest.importorskip(package)
    peer = getattr(script("gpu_peers", monkeypatch), package)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    with torch.no_grad(), FakeTensorMode() if package == "torchao" else nullcontext():
        weight, x = torch.randn(64, 1024) * 0.02, torch.randn(3, 1024).bfloat16()
        made = peer(weight, "cpu")
        found = made.multiply(x, made.make())
        assert (found.shape, found.dtype) == ((3, 64), torch.bfloat16)
        assert made.weight_bytes == 64 * (1024 // 2 + 1024 // 64 * 4)
        if package != "torchao":
            wanted = x.float() @ weight.T
            assert (found - wanted).norm() < 0.15 * wanted.norm()
