"""Conversion: what gets which codec, that it resumes, that it refuses what can't work, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tilepress.compress.decompress import decompress
from tilepress.compress.pipeline import Progress
from tilepress.compress.plan import make_plan
from tilepress.compress.recipe import Recipe
from tilepress.conversion import compress
from tilepress.formats.checkpoint import open_checkpoint
from tilepress.formats.container import Container
from tilepress.formats.container_writer import ContainerWriter
from tilepress.formats.verification import same_bits
from tilepress.kernels import CodecError, RecipeError, TilepressError


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def specs(folder: Path) -> dict[str, str]:
    return {name: record.params.spec() for name, record in Container.open(folder).records.items()}


def test_blocks_get_the_codec_embeddings_eight_bits_and_norms_stay(llama: Path, tmp_path: Path) -> None:
    compress(llama, tmp_path / "out", "int:bits=3,group=32")
    for name, spec in specs(tmp_path / "out").items():
        if "norm" in name:
            assert spec == "none"
        elif "embed" in name or "lm_head" in name:
            assert spec == "int:bits=8,group=64"
        else:
            assert spec == "int:bits=3,group=32"


@pytest.mark.parametrize("codec", ("lossless", "zfp:tolerance=0.001", "zfp:reversible=true"))
def test_a_promise_about_every_value_holds_for_embeddings_too(llama: Path, tmp_path: Path, codec: str) -> None:
    compress(llama, tmp_path / "out", codec)
    assert {spec.split(":")[0] for spec in specs(tmp_path / "out").values()} == {codec.split(":")[0], "none"}


def test_embeddings_get_what_is_asked_for_them(llama: Path, tmp_path: Path) -> None:
    compress(llama, tmp_path / "out", "zfp:rate=8", embeddings="nf4")
    found = specs(tmp_path / "out")
    assert found["model.embed_tokens.weight"] == found["lm_head.weight"] == "nf4:group=64"


def test_small_tensors_stay_as_they_are_whatever_the_recipe_says(llama: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text('"*.k_proj.weight": none\n"*_proj.weight": int:bits=6\n"*": nf4\n')
    compress(llama, tmp_path / "out", recipe=recipe)
    found = specs(tmp_path / "out")
    assert found["model.norm.weight"] == "none"
    assert found["model.layers.0.self_attn.k_proj.weight"] == "none"
    assert found["model.layers.0.self_attn.q_proj.weight"] == "int:bits=6,group=64"
    assert found["lm_head.weight"] == "nf4:group=64"


def test_a_pattern_that_matches_nothing_is_noted(llama: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text('"*.q_porj.weight": none\n"*": nf4\n')
    plan = make_plan(open_checkpoint(llama), recipe=Recipe.read(recipe))
    assert plan.notes == ["pattern '*.q_porj.weight' matches no tensor"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no recipe"),
        ("- 3\n", "no recipe"),
        ("just words", "no recipe"),
        ('"*": int:bits=99\n', "not within 2..8"),
        ('"*": 4\n', "not a pattern and a codec spec"),
        ('"*": [', "not YAML"),
        ("? [a]\n: b\n", "not YAML|not a pattern"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_explained(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=sentence) as caught:
        Recipe.read(path)
    assert str(path) in str(caught.value)


def test_a_plan_predicts_the_size(llama: Path, tmp_path: Path) -> None:
    for codec, within in (("int:bits=4", 0.0), ("zfp:rate=8", 0.0), ("lossless", 0.03), ("zfp:tolerance=0.001", 0.05)):
        plan = make_plan(open_checkpoint(llama), codec)
        folder = tmp_path / codec.replace(":", "-")
        compress(llama, folder, codec)
        opened = Container.open(folder)
        stored = sum(opened.stored_bytes(name) for name in opened)
        assert abs(plan.predicted_bytes - stored) <= within * stored


@pytest.mark.parametrize("codec", ("int:bits=4", "lossless", "zfp:rate=8"))
def test_output_does_not_depend_on_workers(llama: Path, tmp_path: Path, codec: str) -> None:
    for workers in (1, 3):
        compress(llama, tmp_path / str(workers), codec, workers=workers, max_shard_bytes=60_000)
    assert content(tmp_path / "1") == content(tmp_path / "3")


def test_lossless_and_back_is_the_same_checkpoint(llama: Path, tmp_path: Path) -> None:
    compress(llama, tmp_path / "out", "lossless")
    decompress(tmp_path / "out", tmp_path / "back")
    source, back = open_checkpoint(llama), open_checkpoint(tmp_path / "back")
    assert set(source.infos) == set(back.infos)
    assert all(same_bits(source.tensor(name), back.tensor(name)) for name in source.infos)
    assert source.config == back.config
    assert source.companions() == back.companions()


def test_hostile_floats_survive_lossless_conversion(tmp_path: Path) -> None:
    words = torch.randint(-(2**31), 2**31 - 1, (96, 64), dtype=torch.int32, generator=torch.Generator().manual_seed(3))
    special = [0x7F800000, -0x800000, 0x7FC00001, 0x7FA00001, -1, -(2**31), 1, 0x007FFFFF, 0]
    words[0, : len(special)] = torch.tensor(special, dtype=torch.int64).to(torch.int32)
    halves = words.view(torch.int16)
    tensors = {
        "a.weight": words.view(torch.float32),
        "b.weight": halves.view(torch.bfloat16).clone(),
        "c.weight": halves.view(torch.float16).clone(),
    }
    (tmp_path / "in").mkdir()
    save_file(tensors, tmp_path / "in" / "model.safetensors")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text('"*": lossless\n')
    compress(tmp_path / "in", tmp_path / "out", recipe=recipe)
    opened = Container.open(tmp_path / "out")
    assert all(record.params.codec == "lossless" for record in opened.records.values())
    assert all(same_bits(opened.tensor(name), tensor) for name, tensor in tensors.items())


def test_interrupted_conversion_resumes_with_the_same_bytes(llama: Path, tmp_path: Path) -> None:
    compress(llama, tmp_path / "whole", "lossless", max_shard_bytes=60_000)
    wanted = content(tmp_path / "whole")
    total = len(Container.open(tmp_path / "whole").records)

    class Stop(Exception):
        pass

    for after in range(1, total, 4):
        out = tmp_path / f"stopped{after}"
        steps: list[Progress] = []

        def stop(step: Progress, steps: list[Progress] = steps, after: int = after) -> None:
            steps.append(step)
            if len(steps) == after:
                raise Stop

        with pytest.raises(Stop):
            compress(llama, out, "lossless", max_shard_bytes=60_000, report=stop)
        assert not out.exists()
        again: list[Progress] = []
        result = compress(llama, out, "lossless", max_shard_bytes=60_000, report=again.append)
        assert result.resumed == after
        assert len([step for step in again if step.record]) == total - after
        assert content(out) == wanted
        assert not out.with_name(out.name + ".partial").exists()


@pytest.mark.parametrize("harm", ("journal cut", "shard cut", "shard flipped", "shard gone", "journal gone"))
def test_what_a_crash_left_damaged_is_written_again(llama: Path, tmp_path: Path, harm: str) -> None:
    compress(llama, tmp_path / "whole", "int:bits=4", max_shard_bytes=60_000)
    out, steps = tmp_path / "out", []

    def stop(step: Progress) -> None:
        steps.append(step)
        if len(steps) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(llama, out, "int:bits=4", max_shard_bytes=60_000, report=stop)
    partial = out.with_name("out.partial")
    journal, shard = partial / "journal.jsonl", sorted(partial.glob("*.safetensors"))[0]
    data = bytearray(shard.read_bytes())
    if harm == "journal cut":
        journal.write_bytes(journal.read_bytes()[:-20])
    elif harm == "journal gone":
        journal.unlink()
    elif harm == "shard gone":
        shard.unlink()
    elif harm == "shard cut":
        shard.write_bytes(data[: len(data) * 2 // 3])
    else:
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    result = compress(llama, out, "int:bits=4", max_shard_bytes=60_000)
    assert result.resumed < 9
    assert content(out) == content(tmp_path / "whole")


def test_another_recipe_on_a_half_written_output_is_refused(llama: Path, tmp_path: Path) -> None:
    def stop(step: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(llama, tmp_path / "out", "int:bits=4", report=stop)
    with pytest.raises(RecipeError, match="--restart") as caught:
        compress(llama, tmp_path / "out", "nf4")
    assert "out.partial" in str(caught.value)
    compress(llama, tmp_path / "out", "nf4", restart=True)
    assert specs(tmp_path / "out")["model.layers.0.self_attn.q_proj.weight"] == "nf4:group=64"


def test_a_changed_source_is_not_resumed(llama: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(llama, source)

    def stop(step: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(source, tmp_path / "out", "int:bits=4", report=stop)
    shard = sorted(source.glob("*.safetensors"))[0]
    save_file({name: tensor + 1 for name, tensor in load_file(shard).items()}, shard)
    with pytest.raises(RecipeError, match="another source or recipe"):
        compress(source, tmp_path / "out", "int:bits=4")


def test_two_conversions_do_not_write_one_output(llama: Path, tmp_path: Path) -> None:
    plan = make_plan(open_checkpoint(llama), "int:bits=4")
    slots = [[tensor.slot for tensor in shard] for shard in plan.shards]
    with (
        ContainerWriter(tmp_path / "out", slots, "same", "first"),
        pytest.raises(RecipeError, match="another process"),
    ):
        ContainerWriter(tmp_path / "out", slots, "same", "second")


def test_killed_at_any_moment_it_resumes(llama: Path, tmp_path: Path) -> None:
    """SIGKILL after growing delays, until a run ends by itself; then the bytes are those of an undisturbed run."""
    compress(llama, tmp_path / "whole", "zfp:precision=10", max_shard_bytes=60_000)
    out = tmp_path / "out"
    script = (
        "import sys, time\n"
        "from tilepress.conversion import compress\n"
        "print('ready', flush=True)\n"
        "compress(sys.argv[1], sys.argv[2], 'zfp:precision=10', max_shard_bytes=60_000,\n"
        "         report=lambda step: time.sleep(0.02))\n"
    )
    kills = 0
    for delay in (0.03, 0.17, 0.1, 5.0):
        with subprocess.Popen([sys.executable, "-c", script, str(llama), str(out)], stdout=subprocess.PIPE) as run:
            assert run.stdout is not None
            run.stdout.readline()
            time.sleep(delay)
            run.send_signal(signal.SIGKILL)
            kills += run.wait() == -signal.SIGKILL
        if out.exists():
            break
    assert kills >= 2
    if not out.exists():
        compress(llama, out, "zfp:precision=10", max_shard_bytes=60_000)
    assert content(out) == content(tmp_path / "whole")


def refused(match: str, kind: type[TilepressError], *args: object, **kwargs: object) -> str:
    with pytest.raises(kind, match=match) as caught:
        compress(*args, **kwargs)  # type: ignore[arg-type]
    return str(caught.value)


def test_an_existing_output_is_never_touched(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("keep")
    refused("exists already", RecipeError, llama, tmp_path / "out")
    assert content(tmp_path / "out") == {"precious": b"keep"}
    assert os.listdir(tmp_path) == ["out"]


def test_an_output_inside_the_source_is_refused(llama: Path) -> None:
    refused("source's folder", RecipeError, llama, llama / "out")
    assert not (llama / "out.partial").exists()


def test_an_output_below_a_file_is_refused(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused("can't be written", TilepressError, llama, tmp_path / "file" / "out")


def test_a_full_disk_is_foreseen(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    refused("GB free", RecipeError, llama, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_leaves_a_conversion_that_resumes(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = ContainerWriter._open_shard

    def full(self: ContainerWriter, position: int) -> object:
        if position == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "shard")
        return written(self, position)

    monkeypatch.setattr(ContainerWriter, "_open_shard", full)
    refused("No space left", TilepressError, llama, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    assert compress(llama, tmp_path / "out").resumed == 5


def test_a_nan_under_a_quantizer_names_file_and_tensor(llama: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(llama, source)
    shard = sorted(source.glob("*.safetensors"))[2]
    tensors = load_file(shard)
    name = next(name for name in tensors if tensors[name].ndim == 2)
    tensors[name][1, 2] = float("nan")
    save_file(tensors, shard, metadata={"format": "pt"})
    sentence = refused("NaN", CodecError, source, tmp_path / "out", "nf4")
    assert name in sentence
    assert str(source) in sentence
    assert not (tmp_path / "out").exists()
    compress(source, tmp_path / "exact", "lossless")


def test_contradicting_arguments_are_refused(llama: Path, tmp_path: Path) -> None:
    recipe = Recipe([])
    refused("leave out the codec", RecipeError, llama, tmp_path / "out", "nf4", recipe=recipe)
    refused("leave out the codec", RecipeError, llama, tmp_path / "out", recipe=recipe, embeddings="nf4")
    refused("nothing would be compressed", RecipeError, llama, tmp_path / "out", recipe=recipe)
    refused("at least one", RecipeError, llama, tmp_path / "out", workers=0)
    assert not list(tmp_path.iterdir())


def test_decompress_refuses_a_damaged_tensor_and_leaves_nothing(llama: Path, tmp_path: Path) -> None:
    compress(llama, tmp_path / "out", "int:bits=4")
    shard = tmp_path / "out" / "model-00001-of-00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    with pytest.raises(TilepressError, match="checksum"):
        decompress(tmp_path / "out", tmp_path / "back")
    assert sorted(os.listdir(tmp_path)) == ["out"]
    with pytest.raises(RecipeError, match="exists already"):
        decompress(tmp_path / "out", tmp_path / "out")
