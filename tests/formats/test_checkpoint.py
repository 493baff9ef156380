"""Opening checkpoints: folders, files, names; what is carried over; what is refused."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

from tilepress.formats.checkpoint import Checkpoint, open_checkpoint
from tilepress.formats.hub import UNWANTED, WANTED, is_hub_name
from tilepress.kernels import FormatError, RecipeError

from .attacks.hostile_safetensors import pack

INDEX = "model.safetensors.index.json"


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    """A copy of the sharded checkpoint that a test may write to."""
    return Path(shutil.copytree(llama, tmp_path / "model"))


def everything(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def edit_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    path = folder / INDEX
    content = json.loads(path.read_text())
    change(content["weight_map"])
    path.write_text(json.dumps(content))


def same(opened: Checkpoint, expected: dict[str, torch.Tensor]) -> bool:
    return set(opened.infos) == set(expected) and all(
        torch.equal(opened.tensor(name), tensor)
        and (opened.infos[name].shape, opened.infos[name].dtype) == (tuple(tensor.shape), tensor.dtype)
        and opened.infos[name].size_bytes == tensor.numel() * tensor.element_size()
        for name, tensor in expected.items()
    )


def test_a_sharded_folder_gives_every_tensor(llama: Path) -> None:
    opened = open_checkpoint(llama)
    assert len(opened.weight_files) > 2
    assert same(opened, everything(llama))
    assert opened.path == llama
    assert opened.config["model_type"] == "llama"


def test_one_file_by_any_name_gives_the_same(llama: Path, tmp_path: Path) -> None:
    tensors = everything(llama)
    for name in ("model.safetensors", "model.fp16.safetensors"):
        folder = tmp_path / name
        folder.mkdir()
        save_file(tensors, folder / name)
        shutil.copy(llama / "config.json", folder)
        for source in (folder, str(folder), folder / name):
            opened = open_checkpoint(source)
            assert same(opened, tensors)
            assert opened.path == folder
            assert opened.config["model_type"] == "llama"


def test_a_single_file_goes_before_an_index_as_in_transformers(copy: Path) -> None:
    save_file({"only": torch.zeros(3)}, copy / "model.safetensors")
    assert list(open_checkpoint(copy).infos) == ["only"]


def test_a_folder_without_config_opens(tmp_path: Path) -> None:
    save_file({"weight": torch.arange(6)}, tmp_path / "model.safetensors")
    assert open_checkpoint(tmp_path).config == {}


def test_tensors_come_in_the_order_of_the_files(llama: Path) -> None:
    opened = open_checkpoint(llama)
    order = json.loads((llama / INDEX).read_text())["weight_map"]
    files = [order[name] for name in opened.infos]
    assert files == sorted(files)


def test_opening_a_checkpoint_reads_no_tensor_data(tmp_path: Path) -> None:
    side = 1 << 15
    shards = {f"model-0000{number}-of-00003.safetensors": f"layer.{number}" for number in (1, 2, 3)}
    for file, name in shards.items():
        size = side * side * 2
        header = {name: {"dtype": "BF16", "shape": [side, side], "data_offsets": [0, size]}}
        (tmp_path / file).write_bytes(pack(header))
        # The two gigabytes of each shard are a hole, which takes neither disk nor time unless it is read.
        os.truncate(tmp_path / file, (tmp_path / file).stat().st_size + size)
    index = {"metadata": {}, "weight_map": {name: file for file, name in shards.items()}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    before, begin = bytes_read(), time.monotonic()
    opened = open_checkpoint(tmp_path)
    tensor = opened.tensor("layer.2")
    assert tensor.shape == (side, side)
    assert len(opened.identity()) == 32
    assert bytes_read() - before < 2_000_000
    assert time.monotonic() - begin < 5


def bytes_read() -> int:
    """Bytes that this process has asked for with read(), and those of pages that it has touched."""
    asked = int(Path("/proc/self/io").read_text().split()[1])
    resident = int(Path("/proc/self/statm").read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")
    return asked + resident


def test_companions_are_all_files_but_weights_config_and_hidden_ones(copy: Path) -> None:
    kept = ("tokenizer.json", "custom_code.py", "1_Pooling/config.json", "chat_template.jinja", "spiece.model")
    left = (
        "pytorch_model.bin",
        "old.pt",
        "onnx/model.onnx",
        "model.Q4_0.gguf",
        "tf_model.h5",
        "flax_model.msgpack",
        "pytorch_model.bin.index.json",
        ".gitattributes",
        ".git/config",
        ".cache/huggingface/x.json",
        "download.json.partial",
    )
    for name in (*kept, *left):
        path = copy / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("x")
    # The Hub's cache is made of links, of which one may have lost its file; linked folders could lead in a circle.
    (copy / "linked.json").symlink_to(copy / "custom_code.py")
    (copy / "lost.json").symlink_to(copy / "nowhere")
    (copy / "circle").symlink_to(copy)
    found = open_checkpoint(copy).companions()
    assert found == sorted(map(Path, (*kept, "linked.json", "tokenizer_config.json", "generation_config.json")))
    assert all((copy / path).is_file() for path in found)


def test_a_checkpoint_of_links_is_read_like_one_of_files(llama: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    for number, file in enumerate(llama.iterdir()):
        blob = tmp_path / "blobs" / str(number)
        blob.parent.mkdir(exist_ok=True)
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(Path("../../blobs", str(number)))
    opened = open_checkpoint(snapshot)
    assert same(opened, everything(llama))
    assert opened.companions() == open_checkpoint(llama).companions()
    assert opened.identity() == open_checkpoint(llama).identity()


def test_identity_stays_when_a_checkpoint_moves_and_changes_with_its_content(copy: Path) -> None:
    first = open_checkpoint(copy).identity()
    moved = copy.rename(copy.with_name("elsewhere"))
    os.utime(moved / "config.json", (1, 1))
    assert open_checkpoint(moved).identity() == first
    seen = {first}
    shard = sorted(moved.glob("*.safetensors"))[0]
    for change in (flip_last_byte, widen_metadata, edit_config):
        change(shard)
        seen.add(open_checkpoint(moved).identity())
    assert len(seen) == 4


def flip_last_byte(shard: Path) -> None:
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)


def widen_metadata(shard: Path) -> None:
    save_file(load_file(shard), shard, {"format": "pt", "more": "yes"})


def edit_config(shard: Path) -> None:
    path = shard.parent / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rope_theta": 1.0}))


def refused(source: str | Path, kind: type[Exception], *words: str) -> None:
    with pytest.raises(kind) as caught:
        open_checkpoint(source)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_missing_shard_is_named(copy: Path) -> None:
    shard = sorted(copy.glob("*.safetensors"))[1]
    shard.unlink()
    refused(copy, FormatError, str(shard), INDEX)


def test_a_truncated_shard_is_named_with_its_sizes(copy: Path) -> None:
    shard = sorted(copy.glob("*.safetensors"))[1]
    whole = shard.stat().st_size
    os.truncate(shard, whole - 100)
    refused(copy, FormatError, str(shard), str(whole), str(whole - 100))


def test_a_tensor_that_the_index_places_in_the_wrong_shard_is_named(copy: Path) -> None:
    first, second = (path.name for path in sorted(copy.glob("*.safetensors"))[:2])
    name = next(name for name in load_file(copy / first))
    edit_index(copy, lambda places: places.update({name: second}))
    refused(copy, FormatError, second, name)


def test_a_tensor_that_only_the_index_has_is_named(copy: Path) -> None:
    file = sorted(copy.glob("*.safetensors"))[0].name
    edit_index(copy, lambda places: places.update({"model.ghost.weight": file}))
    refused(copy, FormatError, file, "model.ghost.weight")


def test_a_tensor_in_two_shards_is_named(copy: Path) -> None:
    first, second = sorted(copy.glob("*.safetensors"))[:2]
    tensors = load_file(first)
    name = next(iter(tensors))
    save_file({**load_file(second), name: tensors[name]}, second)
    refused(copy, FormatError, str(second), name, first.name)


@pytest.mark.parametrize(
    "content",
    (
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"weight_map": []}',
        b'{"weight_map": {}}',
        b'{"weight_map": {"a": 1}}',
        b'{"weight_map": {"a": "../model-00001-of-00003.safetensors"}}',
        b'{"weight_map": {"a": "/etc/passwd"}}',
        b'{"weight_map": {"a": ".."}}',
        b'{"weight_map": {"a": ""}}',
        b'{"weight_map": {"a": "config.json"}}',
        b'{"weight_map": {"a": "model\\u0000.safetensors"}}',
        b"\xff\xfe",
        b"[" * 100_000,
    ),
)
def test_a_broken_or_hostile_index_is_refused(copy: Path, content: bytes) -> None:
    (copy / INDEX).write_bytes(content)
    refused(copy, FormatError, str(copy))


@pytest.mark.parametrize("content", (b"", b"[]", b"{", b"\xff"))
def test_a_broken_config_is_refused(copy: Path, content: bytes) -> None:
    (copy / "config.json").write_bytes(content)
    refused(copy, FormatError, str(copy / "config.json"))


def test_one_shard_of_several_is_no_checkpoint(llama: Path) -> None:
    refused(sorted(llama.glob("*.safetensors"))[0], RecipeError, "shards", str(llama))


def test_several_files_without_an_index_are_refused(copy: Path) -> None:
    (copy / INDEX).unlink()
    refused(copy, FormatError, str(copy), INDEX)


@pytest.mark.parametrize("name", ("pytorch_model.bin", "consolidated.pt", "model.ckpt"))
def test_pickles_are_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04cos\nsystem\n")
    refused(tmp_path, FormatError, str(tmp_path), name, "pickle", "safetensors")
    refused(tmp_path / name, FormatError, name, "pickle")


def test_a_folder_without_weights_and_a_file_of_another_kind_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, FormatError, str(tmp_path), "no weights")
    (tmp_path / "notes.txt").write_text("x")
    refused(tmp_path / "notes.txt", FormatError, "notes.txt")


def test_a_folder_of_several_gguf_files_asks_for_one(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    refused(tmp_path, RecipeError, "2 GGUF files", "a.gguf")


@pytest.mark.parametrize(
    ("quantization", "words"),
    (
        ({"quant_method": "gptq", "bits": 4}, ("gptq", "unquantized")),
        ({"quant_method": "tilepress"}, ("already compressed", "decompress")),
        ({"bits": 4}, ("quantized already",)),
    ),
)
@pytest.mark.parametrize("inside", (None, "text_config"))
def test_a_quantized_source_is_refused_by_its_method(
    copy: Path, quantization: dict[str, object], words: tuple[str, ...], inside: str | None
) -> None:
    config = json.loads((copy / "config.json").read_text())
    part = config if inside is None else config.setdefault(inside, {})
    part["quantization_config"] = quantization
    (copy / "config.json").write_text(json.dumps(config))
    refused(copy, RecipeError, str(copy), *words)


@pytest.mark.parametrize(
    "source",
    (
        "./nope",
        "../nope/model",
        "/abs/nope",
        "~/nope",
        "nope",
        "nope/model.safetensors",
        "nope/model.gguf",
        "nope/model.bin",
        "a/b/c",
        "nope/",
        ".hidden/model",
        "org/na me",
        "org/" + "long" * 2000 + "/x",
        "nul\0/x",
        Path("org/model"),
    ),
)
def test_a_missing_path_never_goes_to_the_hub(source: str | Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the Hub"))
    refused(source, RecipeError, "no such file or folder")


def test_hub_names_look_like_this() -> None:
    assert all(map(is_hub_name, ("HuggingFaceTB/SmolLM2-135M", "meta-llama/Llama-3.1-8B", "a/b_c.d")))


def test_a_hub_name_gives_the_downloaded_folder(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name) or str(llama))
    assert same(open_checkpoint("org/model-1.5"), everything(llama))
    assert asked == ["org/model-1.5"]


def test_only_what_is_needed_is_downloaded() -> None:
    wanted = [
        "model-00001-of-00002.safetensors",
        INDEX,
        "config.json",
        "tokenizer.model",
        "merges.txt",
        "chat_template.jinja",
        "modeling_custom.py",
        "1_Pooling/config.json",
    ]
    unwanted = ["pytorch_model.bin", "original/consolidated.00.pth", "consolidated.safetensors", "onnx/model.onnx"]
    found = filter_repo_objects([*wanted, *unwanted], allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED))
    assert list(found) == wanted


def test_without_a_network_the_answer_comes_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    begin = time.monotonic()
    refused("nobody/no-such-model", RecipeError, "nobody/no-such-model", "not a path", "Hub", "network")
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    ("failure", "words"),
    (
        (errors.GatedRepoError, ("permission", "log in")),
        (errors.RepositoryNotFoundError, ("neither a path", "check the name")),
        (errors.LocalEntryNotFoundError, ("can't be reached", "check the path")),
        (ConnectionError, ("can't be reached",)),
        (KeyError, ("can't be reached",)),
    ),
)
def test_every_failure_of_the_hub_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, failure: type[Exception], words: tuple[str, ...]
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise failure.__new__(failure)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    refused("org/model", RecipeError, "org/model", *words)
