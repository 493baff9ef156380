"""Headers of safetensors files: the library's own files are read, hostile ones are refused."""

from __future__ import annotations

import json
import math
import os
import warnings
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tilepress.formats.safetensors_header import (
    DTYPE_CODES,
    DTYPES,
    MAX_HEADER_BYTES,
    Entry,
    map_tensor,
    read_header,
)
from tilepress.kernels import FormatError

from .attacks.hostile_safetensors import ATTACKS, entry, pack

MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SHAPES = st.lists(st.integers(0, 5), max_size=4)
TENSORS = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=20).filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(sorted(DTYPES)), SHAPES),
    max_size=6,
)
METADATA = st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")), max_size=3)


def random_tensor(code: str, shape: list[int]) -> torch.Tensor:
    dtype = DTYPES[code]
    flat = torch.randint(0, 2 if code == "BOOL" else 256, (math.prod(shape) * dtype.itemsize,), dtype=torch.uint8)
    return flat.view(dtype).reshape(shape)


def as_bytes(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b""


def resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


@MANY
@given(drawn=TENSORS, metadata=METADATA)
def test_what_the_library_writes_is_read_bit_for_bit(
    tmp_path: Path, drawn: dict[str, tuple[str, list[int]]], metadata: dict[str, str]
) -> None:
    # A scalar can't hold a pair of values.
    tensors = {
        name: random_tensor(code, [*shape, 2] if code == "F4" else shape) for name, (code, shape) in drawn.items()
    }
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, metadata or None)
    header = read_header(path)
    theirs = load_file(path)
    assert set(header.entries) == set(tensors) == set(theirs)
    assert header.metadata == metadata
    assert path.read_bytes()[: header.size] == header.raw
    for name, tensor in tensors.items():
        mapped = map_tensor(path, header.entries[name])
        assert (mapped.dtype, mapped.shape) == (theirs[name].dtype, theirs[name].shape) == (tensor.dtype, tensor.shape)
        assert as_bytes(mapped) == as_bytes(tensor) == as_bytes(theirs[name])


@MANY
@given(
    position=st.integers(0, 400),
    value=st.integers(0, 255),
    cut=st.integers(0, 400),
)
def test_a_changed_or_shortened_file_is_read_as_the_library_reads_it_or_refused(
    tmp_path: Path, position: int, value: int, cut: int
) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.arange(12.0).reshape(3, 4), "bias": torch.arange(5)}, path, {"format": "pt"})
    raw = bytearray(path.read_bytes())
    raw[position % len(raw)] = value
    path.write_bytes(raw[: len(raw) - (cut if cut < 20 else 0)])
    try:
        header = read_header(path)
    except FormatError as problem:
        assert str(path) in str(problem)
        return
    theirs = load_file(path)
    for name, place in header.entries.items():
        assert as_bytes(map_tensor(path, place)) == as_bytes(theirs[name])


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_is_refused_and_the_file_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(ATTACKS[name])
    with pytest.raises(FormatError) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < len(str(path)) + 500


def test_what_the_library_refuses_is_an_attack_and_the_attacks_we_add_are_few(tmp_path: Path) -> None:
    """Every attack that the library reads all the same is one that is refused here on purpose."""
    accepted = set()
    for name, content in ATTACKS.items():
        path = tmp_path / "hostile.safetensors"
        path.write_bytes(content)
        try:
            with safe_open(path, "pt") as file:
                file.keys()
        except Exception:  # Whatever it raises, it refuses.
            continue
        accepted.add(name)
    assert accepted <= {
        "65 dimensions",
        "a million dimensions",
        "entry is a list",
        "tensor twice",
        "metadata key twice",
        "metadata twice",
        "dtype that no PyTorch has",
        "empty but for strides that overflow",
        "header starts with a space",
    }


def test_a_truncated_file_says_how_many_bytes_are_there_and_how_many_are_expected(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.zeros(1000)}, path)
    whole = path.stat().st_size
    os.truncate(path, whole - 1)
    with pytest.raises(FormatError, match=f"truncated: {whole - 1} bytes are there, {whole} are expected"):
        read_header(path)


def test_the_tensor_at_fault_is_named_in_one_printable_line(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(pack({"layer.0\n\x1b[31mweight": entry([4], 0, 5)}, b"12345"))
    with pytest.raises(
        FormatError, match=r"tensor 'layer\.0\\n\\x1b\[31mweight': U8 of shape \[4\] takes 4 bytes, not 5"
    ):
        read_header(path)


def test_a_false_length_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(pack({}, length=MAX_HEADER_BYTES))
    before = resident_pages()
    with pytest.raises(FormatError, match="truncated"):
        read_header(path)
    assert resident_pages() - before < 1000


@pytest.mark.parametrize("kind", ("missing", "folder", "pipe"))
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.safetensors"
    if kind == "folder":
        path.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(FormatError, match=r"a\.safetensors"):
        read_header(path)


def test_entries_come_in_the_order_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(pack({"late": entry([4], 4, 8), "early": entry([4], 0, 4)}, b"12345678"))
    header = read_header(path)
    assert list(header.entries) == ["early", "late"]
    assert bytes(map_tensor(path, header.entries["late"]).numpy()) == b"5678"


@pytest.mark.parametrize("code", ("F64", "F32", "BF16", "I64", "C64"))
def test_a_tensor_that_is_not_aligned_can_be_used(tmp_path: Path, code: str) -> None:
    value = random_tensor(code, [3])
    data = as_bytes(value)
    path = tmp_path / "a.safetensors"
    path.write_bytes(pack({"odd": entry([1], 0, 1), "a": entry([3], 1, 1 + len(data), code)}, b"1" + data))
    mapped = map_tensor(path, read_header(path).entries["a"])
    assert mapped.data_ptr() % DTYPES[code].itemsize == 0
    assert as_bytes(mapped + 0) == as_bytes(value + 0)


def test_writing_to_a_mapped_tensor_leaves_the_file_alone_and_warns_nobody(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.arange(2000.0)}, path)
    before = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapped = map_tensor(path, read_header(path).entries["weight"])
    mapped.zero_()
    assert path.read_bytes() == before


def test_a_mapping_lives_as_long_as_its_tensor(tmp_path: Path) -> None:
    path = tmp_path / "mapped.safetensors"
    save_file({"weight": torch.arange(5000.0)}, path)

    def is_mapped() -> bool:
        return path.name in Path("/proc/self/maps").read_text()

    mapped = map_tensor(path, read_header(path).entries["weight"])
    part = mapped[10:20]
    del mapped
    assert is_mapped()
    assert part.tolist() == list(range(10, 20))
    del part
    assert not is_mapped()


def test_mapping_reads_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.zeros(16_000_000, dtype=torch.uint8)}, path)
    place = read_header(path).entries["weight"]
    before = resident_pages()
    mapped = map_tensor(path, place)
    assert resident_pages() - before < 500
    mapped.sum()
    assert resident_pages() - before > 3000


def test_a_file_that_shrinks_after_it_was_opened_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.zeros(5000)}, path)
    place = read_header(path).entries["weight"]
    os.truncate(path, 5000)
    with pytest.raises(FormatError, match="tensor weight: the file has 5000 bytes now"):
        map_tensor(path, place)


def test_codes_and_dtypes_are_one_to_one() -> None:
    assert len(DTYPE_CODES) == len(DTYPES)
    assert all(DTYPE_CODES[dtype] == code for code, dtype in DTYPES.items())


def test_an_entry_knows_its_bytes() -> None:
    assert Entry("a", torch.float32, (3,), 100, 112).size_bytes == 12


def test_fields_that_a_later_format_adds_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(pack(json.dumps({"a": {**entry([4], 0, 4), "comment": "x"}}).encode(), b"1234"))
    assert list(read_header(path).entries) == ["a"]
