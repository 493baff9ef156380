"""The container: golden files, damage, and hostile records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tilepress.conversion import compress
from tilepress.formats.checkpoint import open_checkpoint
from tilepress.formats.container import Container
from tilepress.formats.record import METADATA_PREFIX, Record
from tilepress.formats.safetensors_header import read_header
from tilepress.formats.verification import Finding, missing_from, same_bits, verify_headers, verify_tensor
from tilepress.kernels import FormatError, decode

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def container(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("container") / "int4"
    compress(llama, folder, "int:bits=4", max_shard_bytes=60_000)
    return folder


def problems(folder: Path) -> list[Finding]:
    try:
        opened = Container.open(folder)
    except FormatError as problem:
        return [Finding("", str(problem))]
    findings = [*verify_headers(opened), *(verify_tensor(opened, name) for name in opened)]
    return [finding for finding in findings if finding.problem]


def test_any_safetensors_reader_can_list_it(container: Path) -> None:
    index = json.loads((container / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    for shard in set(index["weight_map"].values()):
        with safe_open(container / shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                assert index["weight_map"][name] == shard
                file.get_tensor(name)


def test_every_part_is_aligned(container: Path) -> None:
    for shard in container.glob("*.safetensors"):
        for entry in read_header(shard).entries.values():
            assert entry.begin % (16 if "." in entry.name and entry.name.endswith(("codes", "scales")) else 2) == 0


def test_the_source_is_carried_over(container: Path, llama: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (container / name).read_bytes() == (llama / name).read_bytes()
    config = json.loads((container / "config.json").read_text())
    assert config.pop("quantization_config") == {"quant_method": "tilepress", "format_version": 1}
    assert config == json.loads((llama / "config.json").read_text())


def test_flipped_byte_in_the_data_names_the_tensor(container: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(container, damaged)
    for shard in sorted(damaged.glob("*.safetensors")):
        whole = bytearray(shard.read_bytes())
        for entry in read_header(shard).entries.values():
            for position in {entry.begin, (entry.begin + entry.end) // 2, entry.end - 1}:
                whole[position] ^= 0x10
                shard.write_bytes(whole)
                found = problems(damaged)
                whole[position] ^= 0x10
                assert len(found) == 1
                assert entry.name.startswith(found[0].name)
                assert found[0].name in found[0].problem
                assert shard.name in found[0].problem
        shard.write_bytes(whole)
    assert not problems(damaged)


def test_any_flipped_byte_in_a_header_is_found(container: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(container, damaged)
    shard = sorted(damaged.glob("*.safetensors"))[0]
    whole = bytearray(shard.read_bytes())
    names = list(Container.open(container).records)
    record_of = {name: whole.find((METADATA_PREFIX + name).encode()) for name in names}
    for position in range(read_header(shard).size):
        if position > 500 and position % 11:
            continue
        whole[position] ^= 0x04
        shard.write_bytes(whole)
        found = problems(damaged)
        whole[position] ^= 0x04
        assert found, f"byte {position} of the header"
        assert all(shard.name in finding.problem or "part" in finding.problem for finding in found), found
    name = max(record_of, key=lambda name: record_of[name])
    inside = whole.find(b"relative_rms", record_of[name]) + 17
    whole[inside] = ord("7") if whole[inside] != ord("7") else ord("8")
    shard.write_bytes(whole)
    assert name in {finding.name for finding in problems(damaged)}


def test_verify_against_another_source_says_so(container: Path, llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    changed = tmp_path / "changed"
    shutil.copytree(llama, changed)
    source, opened = open_checkpoint(llama), Container.open(container)
    assert not any(verify_tensor(opened, name, source).problem for name in opened)
    shard = sorted(changed.glob("*.safetensors"))[1]
    tensors = load_file(shard)
    name = next(name for name in tensors if tensors[name].ndim == 2)
    tensors[name][3, 5] += 1
    save_file(tensors, shard, metadata={"format": "pt"})
    other = open_checkpoint(changed)
    assert [n for n in opened if verify_tensor(opened, n, other).problem] == [name]


def test_a_tensor_that_the_source_has_and_the_container_lacks_is_found(container: Path, llama: Path) -> None:
    source, opened = open_checkpoint(llama), Container.open(container)
    assert not list(missing_from(opened, source))
    name, _ = opened.records.popitem()
    assert [finding.name for finding in missing_from(opened, source)] == [name]


def test_damaged_parts_that_have_a_valid_checksum_are_still_refused(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lossless"
    compress(llama, folder, "lossless")
    opened = Container.open(folder)
    name = next(name for name, record in opened.records.items() if record.params.codec == "lossless")
    parts = {part: tensor.clone() for part, tensor in opened.parts(name).items()}
    parts["offsets"][1] = 1 << 40
    shard = folder / "model-00001-of-00001.safetensors"
    header = read_header(shard)
    whole = bytearray(shard.read_bytes())
    entry = header.entries[f"{name}.offsets"]
    whole[entry.begin : entry.end] = parts["offsets"].numpy().tobytes()
    old = opened.records[name]
    whole = bytearray(bytes(whole).replace(old.checksum.encode(), old.seal(parts).checksum.encode()))
    shard.write_bytes(whole)
    again = Container.open(folder)
    assert again.records[name].compute_checksum(again.parts(name)) == again.records[name].checksum
    with pytest.raises(FormatError, match="offsets") as caught:
        again.encoded(name)
    assert name in str(caught.value)


Change = Callable[[dict[str, object]], object]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r: r.update(shape=[-1, 96]), "not a list of sizes"),
        (lambda r: r.update(shape=[1 << 60, 1]), "not a list of sizes"),
        (lambda r: r.update(shape=[1 << 40, 1 << 40]), "needs"),
        (lambda r: r.update(shape=[96, 97]), "needs"),
        (lambda r: r.update(shape="96"), "not a list of sizes"),
        (lambda r: r.update(dtype="float128"), "unknown dtype"),
        (lambda r: r.update(codec="int9"), "no codec is called"),
        (lambda r: r.update(codec=3), "no codec and params"),
        (lambda r: r.update(params={"bits": 99}), "not within 2..8"),
        (lambda r: r.update(params={"bits": 5}), "needs"),
        (lambda r: r.update(params={"bits": True}), "not an integer"),
        (lambda r: r.update(params=[]), "no codec and params"),
        (lambda r: r.update(transposed="yes"), "transposed"),
        (lambda r: r.update(error={}), "no error figures"),
        (lambda r: r.update(error={"max_abs": "0", "relative_rms": 0}), "not numbers"),
        (lambda r: r.update(xxh3=5), "no checksum"),
        (lambda r: r.pop("xxh3"), "does not have the fields"),
        (lambda r: r.update(extra=1), "does not have the fields"),
    ],
)
def test_a_record_that_lies_is_refused_by_name(container: Path, tmp_path: Path, change: Change, sentence: str) -> None:
    folder = tmp_path / "hostile"
    shutil.copytree(container, folder)
    shard = next(s for s in sorted(folder.glob("*.safetensors")) if b"q_proj" in s.read_bytes())
    header = read_header(shard)
    key = next(key for key in header.metadata if key.endswith("q_proj.weight"))
    fields = json.loads(header.metadata[key])
    change(fields)
    rewrite_metadata(shard, {**header.metadata, key: json.dumps(fields)})
    with pytest.raises(FormatError, match=sentence) as caught:
        Container.open(folder)
    assert key.removeprefix(METADATA_PREFIX) in str(caught.value)


def rewrite_metadata(shard: Path, metadata: dict[str, str]) -> None:
    whole = shard.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    fields = json.loads(whole[8 : 8 + length])
    fields["__metadata__"] = metadata
    text = json.dumps(fields, separators=(",", ":")).encode()
    shard.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])


@pytest.mark.parametrize(
    ("version", "sentence"),
    [('{"format_version":2}', "upgrade"), ('{"format_version":"1"}', "version"), ("[]", "version"), ("{", "version")],
)
def test_a_newer_or_unreadable_version_is_refused(container: Path, tmp_path: Path, version: str, sentence: str) -> None:
    folder = tmp_path / "newer"
    shutil.copytree(container, folder)
    shard = sorted(folder.glob("*.safetensors"))[0]
    rewrite_metadata(shard, {**read_header(shard).metadata, "tilepress": version})
    with pytest.raises(FormatError, match=sentence):
        Container.open(folder)


def test_a_missing_shard_a_stray_tensor_and_a_lost_record_are_refused(container: Path, tmp_path: Path) -> None:
    shards = sorted(container.glob("*.safetensors"))
    folder = tmp_path / "missing"
    shutil.copytree(container, folder)
    (folder / shards[0].name).unlink()
    with pytest.raises(FormatError, match=rf"{shards[0].name}: is missing"):
        Container.open(folder)
    folder = tmp_path / "lost"
    shutil.copytree(container, folder)
    metadata = dict(read_header(folder / shards[0].name).metadata)
    lost = next(key for key in metadata if key.startswith(METADATA_PREFIX))
    del metadata[lost]
    rewrite_metadata(folder / shards[0].name, metadata)
    with pytest.raises(FormatError, match="no record says what it is"):
        Container.open(folder)


def test_an_ordinary_checkpoint_is_no_container(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not compressed by tilepress"):
        Container.open(llama)
    with pytest.raises(FormatError, match="no such folder"):
        Container.open(tmp_path / "nothing")


@pytest.mark.parametrize("folder", sorted(GOLDEN.glob("*")), ids=lambda folder: folder.name)
def test_golden_containers_still_decode_to_the_same_values(folder: Path) -> None:
    opened = Container.open(folder)
    expected = {}
    with safe_open(folder / "expected" / "decoded.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            expected[name] = file.get_tensor(name)
    assert set(expected) == set(opened.records)
    for name, tensor in expected.items():
        assert not verify_tensor(opened, name).problem
        assert same_bits(opened.tensor(name), tensor), name


def test_there_is_a_golden_file_of_every_codec() -> None:
    from tilepress.kernels import CODECS

    seen = {record.params.codec for folder in GOLDEN.glob("*") for record in Container.open(folder).records.values()}
    assert seen == set(CODECS)


def test_a_record_reads_back_what_it_writes(container: Path) -> None:
    for name, record in Container.open(container).records.items():
        assert Record.from_json(name, record.to_json(), "here") == record


def test_parts_decode_to_the_tensor(container: Path, llama: Path) -> None:
    opened, source = Container.open(container), open_checkpoint(llama)
    for name, record in opened.records.items():
        weight, dense = source.tensor(name), decode(opened.encoded(name))
        assert (dense.shape, dense.dtype) == (weight.shape, weight.dtype)
        difference = (dense.double() - weight.double()).abs().max().item()
        assert difference == record.error.max_abs
        assert torch.equal(opened.tensor(name), dense)
