"""What stands between operators and a GPU, without one: what is missing is told, and CuPy is called as it has to be."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch

from tilepress.kernels import BackendError, dispatch
from tilepress.kernels.cuda import launch, registry
from tilepress.kernels.cuda.launch import CupyLauncher, Int, Pointer
from tilepress.runtime.quantizer import TilepressConfig, TilepressQuantizer

KERNEL = registry.tiles_multiply(registry.TILE_CODES[6], torch.float32)


def no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "is_installed", lambda: False)


class FakeCupy(types.ModuleType):
    """Notes what is asked of it."""

    class CUDARuntimeError(Exception):
        pass

    def __init__(self, driver: bool = True) -> None:
        super().__init__("cupy")
        self.calls: list[Any] = []
        self.entered: list[str] = []
        runtime = types.SimpleNamespace(getDeviceCount=self.count, CUDARuntimeError=self.CUDARuntimeError)
        stream = types.SimpleNamespace(from_external=lambda stream: self.within(f"stream {stream}"))
        self.cuda = types.SimpleNamespace(runtime=runtime, Device=self.device, Stream=stream)
        self.driver = driver

    def count(self) -> int:
        if not self.driver:
            raise self.CUDARuntimeError("cudaErrorInsufficientDriver: no driver")
        return 1

    def within(self, name: str) -> Any:
        fake = self

        class Scope:
            def __init__(self) -> None:
                self.attributes = {"MultiProcessorCount": 132}

            def __enter__(self) -> None:
                fake.entered.append(name)

            def __exit__(self, *_: object) -> None:
                fake.entered.remove(name)

        return Scope()

    def device(self, number: int) -> Any:
        return self.within(f"device {number}")

    def RawModule(self, **options: Any) -> Any:
        fake = self
        self.calls.append(("compile", options))

        class Function:
            max_dynamic_shared_size_bytes = 0

            def __call__(self, grid: Any, block: Any, values: Any, shared_mem: int) -> None:
                fake.calls.append(("launch", grid, block, values, shared_mem, list(fake.entered), self))

        return types.SimpleNamespace(get_function=lambda name: Function())


def test_without_cupy_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    no_cupy(monkeypatch)
    with pytest.raises(BackendError, match="pip install tilepress"):
        CupyLauncher(0)


def test_without_a_driver_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "is_installed", lambda: True)
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy(driver=False))
    with pytest.raises(BackendError, match="cudaErrorInsufficientDriver"):
        CupyLauncher(0)


def test_loading_to_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = TilepressQuantizer(TilepressConfig(), pre_quantized=True)
    plugin.validate_environment(device_map={"": torch.device("cpu")})
    plugin.validate_environment(device_map=None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in (torch.device("cuda", 0), "cuda:1", 0):
        with pytest.raises(BackendError, match="PyTorch finds no GPU"):
            plugin.validate_environment(device_map={"model.embed_tokens": "cpu", "lm_head": device})


def test_loading_to_a_gpu_says_what_its_kernels_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = TilepressQuantizer(TilepressConfig(), pre_quantized=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 7)
    monkeypatch.setattr(dispatch, "_CUDA", {})
    with pytest.warns(UserWarning, match=r"pip install tilepress\[cuda12\]"):
        plugin.validate_environment(device_map={"": "cuda"})
    monkeypatch.setattr(dispatch, "_CUDA", {"int": None})
    monkeypatch.setattr(launch, "is_installed", lambda: True)
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy(driver=False))
    with pytest.raises(BackendError, match="cudaErrorInsufficientDriver"):
        plugin.validate_environment(device_map={"": "cuda"})


def test_doctor_says_what_becomes_of_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    no_cupy(monkeypatch)
    assert "needs CuPy" in launch.state()
    monkeypatch.setattr(launch, "is_installed", lambda: True)
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy())
    for capability, said in (((9, 0), "sm_90, which the tests compile for"), ((8, 9), "sm_89, which no test")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert said in launch.state()


def test_kernels_are_launched_on_pytorchs_stream_and_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = FakeCupy()
    monkeypatch.setattr(launch, "is_installed", lambda: True)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"of {device}")
    device, tensor = CupyLauncher(3), torch.zeros(4)
    for _ in range(2):
        device.launch(KERNEL, (7, 2), (Pointer(tensor), Pointer(None), Int(-5)))
    (compiled, options), first, second = cupy.calls
    assert compiled == "compile"
    assert options["name_expressions"] == (KERNEL.expression,)
    assert options["options"] == registry.OPTIONS
    _, grid, block, values, shared, entered, function = first
    assert (grid, block, shared) == ((7, 2), (registry.THREADS,), KERNEL.shared_bytes)
    assert [(int(value), value.itemsize) for value in values] == [(tensor.data_ptr(), 8), (0, 8), (-5, 4)]
    assert entered == ["device 3", "stream of 3"]
    assert second[-1] is function
    assert device.multiprocessors == 132


def test_large_shared_memory_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = FakeCupy()
    monkeypatch.setattr(launch, "is_installed", lambda: True)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "any")
    large = registry.Kernel("tiles_decode.cu", "k", ("Float32",), 32, 100_000, 32)
    for kernel, wanted in ((large, 100_000), (KERNEL, 0)):
        CupyLauncher(0).launch(kernel, (1, 1), ())
        assert cupy.calls[-1][-1].max_dynamic_shared_size_bytes == wanted
