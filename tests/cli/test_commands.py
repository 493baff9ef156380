"""The command line, end to end: what it prints, and how it refuses."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tilepress.cli import app

from ..conftest import save_llama


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refuse(*arguments: object) -> str:
    """Run a command that must fail with exit code 2 and one sentence."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.stderr.startswith("tilepress: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture(scope="module")
def container(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "int4"
    succeed("compress", llama, folder, "--codec", "int:bits=4,group=32")
    return folder


def test_compress_says_what_came_out(llama: Path, tmp_path: Path) -> None:
    printed = succeed("compress", llama, tmp_path / "out", "--codec", "nf4", "--embeddings", "fp8", "--workers", 2)
    assert str(tmp_path / "out") in printed
    assert "% of 0.4 MB" in printed


def test_compress_for_machines_and_for_scripts(llama: Path, tmp_path: Path) -> None:
    fields = json.loads(succeed("compress", llama, tmp_path / "a", "--json"))
    size = sum(file.stat().st_size for file in (tmp_path / "a").glob("*.safetensors"))
    assert (fields["path"], fields["size_bytes"], fields["resumed"]) == (str(tmp_path / "a"), size, 0)
    quiet = run("compress", llama, tmp_path / "b", "--quiet")
    assert (quiet.exit_code, quiet.output) == (0, "")


def test_compress_takes_a_recipe(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text('"*.mlp.*": int:bits=3\n"*_proj*": lossless\n')
    succeed("compress", llama, tmp_path / "out", "--recipe", tmp_path / "recipe.yaml")
    specs = {line["name"] for line in json.loads(succeed("inspect", tmp_path / "out", "--json"))["specs"]}
    assert specs == {"int:bits=3,group=64", "lossless", "none"}


def test_dry_run_prints_the_plan_and_writes_nothing(llama: Path, tmp_path: Path) -> None:
    printed = succeed("compress", llama, tmp_path / "out", "--dry-run")
    assert "model.layers.1.mlp.down_proj.weight" in printed
    assert "int:bits=8" in printed
    plan = json.loads(succeed("compress", llama, tmp_path / "out", "--dry-run", "--json"))
    assert plan["predicted_bytes"] == sum(tensor["predicted_bytes"] for tensor in plan["tensors"])
    assert not list(tmp_path.iterdir())


def test_decompress_writes_an_ordinary_checkpoint(container: Path, tmp_path: Path) -> None:
    assert succeed("decompress", container, tmp_path / "back").strip() == str(tmp_path / "back")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert "quantization_config" not in config
    assert (tmp_path / "back" / "tokenizer.json").exists()


def test_inspect_shows_specs_or_tensors(container: Path) -> None:
    assert "int:bits=4,group=32" in succeed("inspect", container)
    printed = succeed("inspect", container, "--tensors")
    assert "model.layers.0.self_attn.q_proj.weight" in printed
    fields = json.loads(succeed("inspect", container, "--json", "--tensors"))
    assert len(fields["tensors"]) == 21
    assert 4.5 < fields["bits_per_weight"] < 6.5


def test_verify_passes_what_is_whole_and_names_what_is_not(container: Path, llama: Path, tmp_path: Path) -> None:
    assert "all 21 tensors are whole" in succeed("verify", container)
    assert "as it was made from" in succeed("verify", container, "--against", llama)
    damaged = tmp_path / "damaged"
    shutil.copytree(container, damaged)
    shard = damaged / "model-00001-of-00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert "tensor model.norm.weight: the checksum does not match" in refuse("verify", damaged, "--quiet")
    report = run("verify", damaged, "--json")
    assert report.exit_code == 2
    assert [finding["name"] for finding in json.loads(report.stdout)["problems"]] == ["model.norm.weight"]


def test_bench_times_models_and_says_what_native_steps_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Heads of 16 channels, since native steps take no others than multiples of 16.
    save_llama(tmp_path / "dense", heads=6)
    container = tmp_path / "int4"
    succeed("compress", tmp_path / "dense", container, "--codec", "int:bits=4,group=32")
    dense, compressed = json.loads(succeed("bench", tmp_path / "dense", container, "--threads", 1, "--json"))
    assert (dense["name"], compressed["name"]) == ("dense", "int4")
    assert compressed["memory_bytes"] < dense["memory_bytes"]
    assert dense["native_share"] == 0 < compressed["native_share"] < 1
    monkeypatch.setenv("TILEPRESS_NATIVE", "0")
    assert json.loads(succeed("bench", container, "--json"))[0]["native_share"] == 0
    assert "decode tok/s" in succeed("bench", container)
    assert run("bench", container, "--quiet").output == ""
    assert "no-such" in refuse("bench", container, "no-such-model")


def test_codecs_and_doctor_know_every_codec() -> None:
    names = [line["name"] for line in json.loads(succeed("codecs", "--json"))]
    assert names == ["none", "lossless", "zfp", "sz", "int", "nf4", "fp8", "mxfp4", "nvfp4", "trellis"]
    assert "e4m3" in succeed("codecs")
    report = json.loads(succeed("doctor", "--json"))
    assert {f"{name} on cpu" for name in names} <= set(report["kernels (codec on device)"])
    assert "transformers" in succeed("doctor")


def test_bad_input_gets_one_sentence(llama: Path, container: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    assert "no such file" in refuse("compress", tmp_path / "nope", out)
    assert "holds no weights" in refuse("compress", tmp_path / "empty", out)
    assert "no codec is called 'int5'" in refuse("compress", llama, out, "--codec", "int5")
    assert "is no size" in refuse("compress", llama, out, "--max-shard-size", "many")
    assert "exists already" in refuse("compress", llama, container)
    assert "can't be read" in refuse("compress", llama, out, "--recipe", tmp_path / "nope.yaml")
    assert "decompress it first" in refuse("compress", container, out)
    assert "not compressed by tilepress" in refuse("inspect", llama)
    assert "no such folder" in refuse("verify", tmp_path / "nope")
    assert "no such file" in refuse("verify", container, "--against", tmp_path / "nope")
    assert "not compressed by tilepress" in refuse("decompress", llama, out)
    assert "bits=5 is not 2, 4 or 8" in refuse("generate", container, "--prompt", "x", "--kv", "int:bits=5")
    assert "heads of 16, 32" in refuse("generate", container, "--prompt", "x", "--kv", "fp8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_wrong_options_are_refused(llama: Path, tmp_path: Path) -> None:
    for arguments in (("compress", llama), ("compress", llama, tmp_path / "out", "--codek", "nf4"), ("compres",)):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "Traceback" not in result.output


def test_truncated_shard_names_file_and_sizes(container: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(container, cut)
    shard = cut / "model-00001-of-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    for command in ("inspect", "verify"):
        sentence = refuse(command, cut)
        assert str(shard) in sentence
        assert "truncated" in sentence


def test_ctrl_c_leaves_a_conversion_that_resumes(llama: Path, tmp_path: Path) -> None:
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs are born deaf to it
        "from tilepress.formats.container_writer import ContainerWriter\n"
        "write = ContainerWriter.write\n"
        "def slow(self, *args):\n"
        "    print('wrote', flush=True)\n"
        "    time.sleep(0.3)\n"
        "    return write(self, *args)\n"
        "ContainerWriter.write = slow\n"
        "from tilepress.cli import app\n"
        "app(sys.argv[1:])\n"
    )
    arguments = [sys.executable, "-c", script, "compress", str(llama), str(tmp_path / "out"), "--quiet"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(4):
            process.stdout.readline()
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.strip().splitlines() == ["tilepress: interrupted; run the same command again to go on"]
    assert not (tmp_path / "out").exists()
    assert json.loads(succeed("compress", llama, tmp_path / "out", "--json"))["resumed"] >= 2


def test_transformers_works_from_the_root_of_the_repository() -> None:
    root = Path(__file__).parents[2]
    script = "import sys; sys.path.insert(0, '.'); import transformers; transformers.LlamaForCausalLM; import tilepress"
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_names_the_defaults() -> None:
    printed = " ".join(succeed("compress", "--help").replace("│", " ").split())
    assert "Default: int:bits=4." in printed
    assert "Default: processors, at most 4." in printed
