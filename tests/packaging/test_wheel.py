"""What is published: a source archive, the wheel built from it, and that wheel where no source tree is near."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("compress", "formats", "kernels", "runtime")
BESIDE = ("cli.py", "cli_compress.py", "conversion.py", "terminal.py")

ROUND_TRIP = """
import pathlib, sys, torch, tilepress.kernels._native as native
from tilepress.compress.codecs import encode
from tilepress.kernels import decode
outside = pathlib.Path(sys.argv[1])
assert outside not in pathlib.Path(native.__file__).parents, native.__file__
weight = torch.randn(48, 80)
assert torch.equal(decode(encode(weight, "lossless")), weight)
assert (decode(encode(weight, "int:bits=8")) - weight).abs().max() < 0.05
print(native.instruction_sets())
"""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def modules(folder: Path) -> set[str]:
    """Python modules of the rooms in `folder`, as in `kernels/dispatch.py`."""
    return {path.relative_to(folder).as_posix() for room in ROOMS for path in (folder / room).rglob("*.py")}


@pytest.fixture(scope="module")
def tree() -> set[str]:
    return modules(ROOT)


@pytest.fixture(scope="module")
def archive(tree: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", folder, ROOT, cwd=folder)
    return next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(archive: Path) -> Path:
    folder = archive.parent
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    source = folder / archive.name.removesuffix(".tar.gz")
    # What is asked here is what a wheel holds, that it runs, and that it compiles for what few machines have, too.
    sets = "portable;avx512" if platform.machine() in ("x86_64", "AMD64") else "all"
    settings = {"TILEPRESS_OPTIMIZATION": "-O0", "TILEPRESS_INSTRUCTION_SETS": sets}
    quick = [f"--config-setting=cmake.define.{name}={value}" for name, value in settings.items()]
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", *quick, "--outdir", folder, source, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scripts of an environment that holds the wheel, and the dependencies of this one, but not this source tree."""
    folder = tmp_path_factory.mktemp("elsewhere") / "environment"
    venv.create(folder, with_pip=False)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    # A folder that a .pth file names is searched, but its own .pth files (the editable install's is one) are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    return scripts


def test_archive_holds_each_module_once(tree: set[str], archive: Path) -> None:
    with tarfile.open(archive) as opened:
        packed = ["/".join(PurePosixPath(name).parts[1:]) for name in opened.getnames()]
    assert {f"src/tilepress/{module}" for module in tree} <= set(packed)
    assert {"src/tilepress/kernels/cpu/module.cpp", *BESIDE, "LICENSE"} <= set(packed)
    assert [name for name in packed if name.startswith(ROOMS)] == []


def test_wheel_holds_every_module_once_and_no_sources_of_the_extension(tree: set[str], wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name, count in Counter(names).items() if count > 1] == []
    packed = {name.removeprefix("tilepress/") for name in names if name.startswith("tilepress/")}
    assert tree | {*BESIDE, "__init__.py", "py.typed", "kernels/_native.pyi"} <= packed
    cuda = {f"kernels/cuda/{path.name}" for path in (ROOT / "kernels" / "cuda").glob("*.cu*")}
    assert cuda <= packed, "kernels for a GPU are compiled where they run"
    compiled = [name for name in packed - cuda if PurePosixPath(name).suffix not in (".py", ".pyi", ".typed")]
    assert [PurePosixPath(name).name.split(".")[0] for name in compiled] == ["_native"]
    assert {name.split("/")[0] for name in names} == {"tilepress", "tilepress-0.1.0.dist-info"}


def test_installed_wheel_works_outside_the_tree(installed: Path, tmp_path: Path) -> None:
    assert "portable" in run(installed / "python", "-c", ROUND_TRIP, ROOT, cwd=tmp_path)


def test_installed_command_works_outside_the_tree(installed: Path, tmp_path: Path) -> None:
    assert "int" in run(installed / "tilepress", "codecs", cwd=tmp_path)
