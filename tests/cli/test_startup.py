"""What the command line and the package import, and what an interrupt does while they import it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tilepress

HEAVY = ("torch", "transformers")


def python(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def imported_by(*arguments: object) -> set[str]:
    """Modules that a command of the command line leaves imported."""
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('imported', *sys.modules))\n"
        "from tilepress.__main__ import main\n"
        "main()\n"
    )
    last = python(script, *arguments).stdout.splitlines()[-1].split()
    assert last[0] == "imported"
    return set(last[1:])


@pytest.fixture(scope="module")
def container(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("startup") / "int4"
    tilepress.compress(llama, folder, "int:bits=4,group=32")
    return folder


@pytest.mark.parametrize("arguments", (["--help"], ["compress", "--nope"]))
def test_help_and_wrong_options_import_nothing_heavy(arguments: list[str]) -> None:
    assert not imported_by(*arguments) & set(HEAVY)


def test_commands_that_load_no_model_do_without_transformers(container: Path) -> None:
    assert "transformers" not in imported_by("codecs")
    assert "transformers" not in imported_by("inspect", container)
    assert "transformers" not in imported_by("verify", container)


def test_compressing_does_not_import_what_runs_models(llama: Path, tmp_path: Path) -> None:
    imported = imported_by("compress", llama, tmp_path / "out")
    assert not {name for name in imported if name.startswith("tilepress.runtime.")} - {
        "tilepress.runtime.registration",
        # where Transformers' own imports ask for them
        "tilepress.runtime.quantizer",
        "tilepress.runtime.attention",
        "tilepress.runtime.kv_cache",
    }


def test_importing_the_package_is_cheap_and_its_names_work_all_the_same() -> None:
    script = (
        "import sys, tilepress\n"
        f"assert not {{*{HEAVY}}} & {{*sys.modules}}\n"
        "for name in tilepress.__all__: assert getattr(tilepress, name) is not None and name in dir(tilepress)\n"
        "from tilepress.conversion import compress\n"
        "assert tilepress.compress is compress and callable(tilepress.compress)\n"
        "try: tilepress.nothing\n"
        "except AttributeError: print('fine')\n"
    )
    assert python(script).stdout == "fine\n"


@pytest.mark.parametrize(
    "imports",
    (
        "import tilepress, transformers",
        "import transformers, tilepress",
        pytest.param("import transformers.quantizers.auto, tilepress", marks=pytest.mark.slow),
        pytest.param("import tilepress\nfrom transformers import AutoModelForCausalLM", marks=pytest.mark.slow),
        pytest.param("from tilepress.conversion import compress", marks=pytest.mark.slow),
    ),
)
def test_from_pretrained_works_whichever_package_comes_first(imports: str, container: Path) -> None:
    script = (
        f"{imports}\n"
        "import sys\n"
        "from transformers import AutoModelForCausalLM\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "print(type(model.model.layers[0].mlp.up_proj).__name__)\n"
    )
    result = python(script, container)
    assert result.stdout == "CompressedLinear\n", result.stderr


@pytest.mark.parametrize(
    "delay", (0.0, 0.9, *(pytest.param(delay, marks=pytest.mark.slow) for delay in (0.3, 1.5, 2.5)))
)
def test_an_interrupt_while_importing_ends_with_one_sentence(delay: float, llama: Path, tmp_path: Path) -> None:
    script = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs are born deaf to it
        "from tilepress.__main__ import main\n"
        "install = signal.signal\n"
        "def tell(*arguments):\n"
        "    install(*arguments)\n"
        "    print('ready', flush=True)\n"
        "signal.signal = tell\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script, "compress", str(llama), str(tmp_path / "out"), "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    if process.returncode == 0 and delay > 0:
        pytest.skip("the command had ended before the interrupt")
    assert process.returncode == 130
    assert errors == "tilepress: interrupted; run the same command again to go on\n"
