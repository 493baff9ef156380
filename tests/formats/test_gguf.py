"""GGUF files as checkpoints: what Transformers makes of them, tensor by tensor; hostile files are refused."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import warnings
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType as Type
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilepress.formats import gguf_checkpoint, gguf_model
from tilepress.formats.checkpoint import open_checkpoint
from tilepress.formats.gguf_checkpoint import GgufCheckpoint
from tilepress.formats.gguf_header import read_gguf_header
from tilepress.kernels import FormatError, RecipeError

from .attacks.hostile_gguf import ATTACKS
from .gguf_files import HIDDEN, VOCABULARY, llama_settings, llama_tensors, write_gguf, write_llama


def unpackable() -> list[Type]:
    """Every type that the installed gguf package can unpack."""
    found = []
    for kind in Type:
        try:
            gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError:
            continue
        found.append(kind)
    return found


def transformers_reads(path: Path) -> dict[str, torch.Tensor]:
    """The parameters that Transformers' own loader gives, in float32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return dict(model.state_dict())


def assert_same_as_transformers(opened: GgufCheckpoint, path: Path) -> None:
    theirs = transformers_reads(path)
    assert set(theirs) - set(opened.infos) <= {"lm_head.weight"}
    for name, info in opened.infos.items():
        tensor = opened.tensor(name)
        assert (tuple(tensor.shape), tensor.dtype) == (info.shape, info.dtype)
        assert torch.equal(tensor, theirs[name].to(info.dtype)), name


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaMA of Q8_0, Q4_0, F16, BF16 and F32 matrices, and F32 norms."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_llama(path, [Type.Q8_0, Type.Q4_0, Type.F16, Type.BF16, Type.F32])
    return path


@pytest.fixture(scope="module")
def opened(mixed: Path) -> GgufCheckpoint:
    checkpoint = open_checkpoint(mixed)
    assert isinstance(checkpoint, GgufCheckpoint)
    return checkpoint


def test_tensors_are_those_that_transformers_reads(opened: GgufCheckpoint, mixed: Path) -> None:
    assert_same_as_transformers(opened, mixed)


def test_every_type_that_gguf_unpacks_is_read(tmp_path: Path) -> None:
    types = unpackable()
    assert len(types) > 20
    path = tmp_path / "all.gguf"
    layers = -(-len(types) // 7)
    write_llama(path, types, layers=layers)
    assert {tensor.type for tensor in read_gguf_header(path).tensors.values()} == set(types)
    assert_same_as_transformers(GgufCheckpoint(path), path)


def test_plain_types_keep_their_dtype_and_blocks_come_in_bfloat16(opened: GgufCheckpoint, mixed: Path) -> None:
    expected = {Type.Q8_0: torch.bfloat16, Type.Q4_0: torch.bfloat16, Type.F16: torch.float16}
    expected |= {Type.BF16: torch.bfloat16, Type.F32: torch.float32}
    file = read_gguf_header(mixed).tensors
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.0.ffn_gate.weight": "model.layers.0.mlp.gate_proj.weight",
    }
    names |= {"output.weight": "lm_head.weight", "blk.0.attn_q.weight": "model.layers.0.self_attn.q_proj.weight"}
    names |= {
        "blk.0.attn_k.weight": "model.layers.0.self_attn.k_proj.weight",
        "output_norm.weight": "model.norm.weight",
    }
    assert {file[name].type for name in names} == set(expected)
    for name, parameter in names.items():
        assert opened.infos[parameter].dtype == expected[file[name].type]


def test_tied_embeddings_are_given_once(tmp_path: Path) -> None:
    path = tmp_path / "tied.gguf"
    write_llama(path, [Type.F16], tied=True)
    opened = GgufCheckpoint(path)
    assert "lm_head.weight" not in opened.infos
    assert opened.config["tie_word_embeddings"] is True
    assert opened.config["dtype"] == "float16"
    assert_same_as_transformers(opened, path)


def gpt2_tensors() -> list[tuple[str, tuple[int, ...], Type]]:
    width, inner = 64, 256
    matrices = {"attn_qkv": (3 * width, width), "attn_output": (width, width)}
    matrices |= {"ffn_up": (inner, width), "ffn_down": (width, inner)}
    found = [("token_embd.weight", (VOCABULARY, width), Type.Q8_0), ("position_embd.weight", (1024, width), Type.F32)]
    for name, shape in matrices.items():
        found += [(f"blk.0.{name}.weight", shape, Type.Q8_0), (f"blk.0.{name}.bias", shape[:1], Type.F32)]
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        found += [(f"{name}.{part}", (width,), Type.F32) for part in ("weight", "bias")]
    return found


def bloom_tensors() -> list[tuple[str, tuple[int, ...], Type]]:
    found = [tensor for tensor in gpt2_tensors() if tensor[0] != "position_embd.weight"]
    return [*found, *((f"token_embd_norm.{part}", (64,), Type.F32) for part in ("weight", "bias"))]


def mixture_tensors() -> list[tuple[str, tuple[int, ...], Type]]:
    # Transformers doesn't read the experts' width from the file: it takes Qwen3's own.
    width, inner, experts = 64, 768, 2
    matrices = {"attn_q": (128, width), "attn_k": (64, width), "attn_v": (64, width), "attn_output": (width, 128)}
    matrices |= {"ffn_gate_exps": (experts, inner, width), "ffn_up_exps": (experts, inner, width)}
    matrices |= {"ffn_down_exps": (experts, width, inner)}
    found = [(f"blk.0.{name}.weight", shape, Type.Q8_0) for name, shape in matrices.items()]
    found += [(f"blk.0.{name}.weight", (width,), Type.F32) for name in ("attn_norm", "ffn_norm")]
    found += [(f"blk.0.{name}_norm.weight", (32,), Type.F32) for name in ("attn_q", "attn_k")]
    found += [("blk.0.ffn_gate_inp.weight", (experts, width), Type.F32), ("output_norm.weight", (width,), Type.F32)]
    return [
        *found,
        ("token_embd.weight", (VOCABULARY, width), Type.F16),
        ("output.weight", (VOCABULARY, width), Type.F16),
    ]


SMALL = {"block_count": 1, "context_length": 128, "embedding_length": 64, "attention.head_count": 4}
OTHERS = {
    "gpt2": (gpt2_tensors, {**SMALL, "feed_forward_length": 256, "attention.layer_norm_epsilon": 1e-5}),
    "bloom": (bloom_tensors, {**SMALL, "feed_forward_length": 256, "attention.layer_norm_epsilon": 1e-5}),
    "qwen3moe": (
        mixture_tensors,
        {
            **SMALL,
            "feed_forward_length": 128,
            "attention.head_count_kv": 2,
            "attention.key_length": 32,
            "attention.layer_norm_rms_epsilon": 1e-6,
            "rope.freq_base": 10000.0,
            "expert_count": 2,
            "expert_used_count": 1,
        },
    ),
}


@pytest.mark.parametrize("architecture", OTHERS)
def test_transposed_reordered_and_merged_tensors_are_those_that_transformers_reads(
    tmp_path: Path, architecture: str
) -> None:
    tensors, values = OTHERS[architecture]
    path = tmp_path / "other.gguf"
    write_gguf(path, architecture, values, tensors())
    assert_same_as_transformers(GgufCheckpoint(path), path)


def test_the_loader_for_whole_models_gives_the_same(
    opened: GgufCheckpoint, mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_checkpoint, "assemble", lambda *_: None)
    whole = GgufCheckpoint(mixed)
    assert set(whole.infos) == set(opened.infos)
    assert whole.config == opened.config
    for name in opened.infos:
        # The file is quantized, so its few matrices of more than bfloat16 are rounded too: this path can't tell them.
        assert torch.equal(whole.tensor(name), opened.tensor(name).to(whole.infos[name].dtype)), name
        assert whole.infos[name].dtype == (torch.bfloat16 if len(opened.infos[name].shape) > 1 else torch.float32)


def test_config_and_tokenizer_load_by_themselves(opened: GgufCheckpoint) -> None:
    config = transformers.AutoConfig.from_pretrained(opened.path)
    assert json.loads((opened.path / "config.json").read_text()) == opened.config
    assert config.architectures == ["LlamaForCausalLM"]
    assert config.dtype == torch.bfloat16
    assert "quantization_config" not in opened.config
    assert config.hidden_size == HIDDEN
    names = {str(path) for path in opened.companions()}
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= names
    assert "config.json" not in names
    tokenizer = transformers.AutoTokenizer.from_pretrained(opened.path)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<start>", "<end>", "<pad>")
    tokens = tokenizer.encode("hehe é<end>")
    assert tokens[0] == tokens[1] == 256
    assert tokens[-1] == 259
    assert tokenizer.decode(tokens, skip_special_tokens=True) == "hehe é"
    assert tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "x"


def test_a_file_without_tokenizer_has_no_companions(tmp_path: Path) -> None:
    path = tmp_path / "bare.gguf"
    write_gguf(path, "llama", llama_settings(1), llama_tensors(1, [Type.F16]), tokenizer=False)
    assert GgufCheckpoint(path).companions() == []


def test_a_folder_with_one_gguf_file_opens_and_its_other_files_are_not_mixed_in(mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").symlink_to(mixed)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    opened = open_checkpoint(tmp_path)
    assert opened.config["model_type"] == "llama"
    assert opened.weight_files == (tmp_path / "model.gguf",)
    assert str(opened.path).endswith("model.gguf")


def test_identity_follows_the_content(mixed: Path, tmp_path: Path, opened: GgufCheckpoint) -> None:
    raw = bytearray(mixed.read_bytes())
    other = tmp_path / mixed.name
    other.write_bytes(raw)
    assert GgufCheckpoint(other).identity() == opened.identity()
    raw[-1] ^= 1
    other.write_bytes(raw)
    assert GgufCheckpoint(other).identity() != opened.identity()


def test_the_temporary_folder_goes_with_the_checkpoint(mixed: Path) -> None:
    checkpoint = GgufCheckpoint(mixed)
    folder = checkpoint.path
    assert folder.is_dir()
    del checkpoint
    assert not folder.exists()


def test_one_tensor_at_a_time_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "layers.gguf"
    write_llama(path, [Type.Q8_0], layers=24)
    opened = GgufCheckpoint(path)
    largest = max(4 * info.shape[0] * HIDDEN for info in opened.infos.values())
    before = resident()
    for name in opened.infos:
        opened.tensor(name)
    assert resident() - before < 20 * largest < 4 * sum(info.size_bytes for info in opened.infos.values())


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_tensors_without_a_place_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "more.gguf"
    tensors = [*llama_tensors(1, [Type.F16]), ("rope_freqs.weight", (32,), Type.F32)]
    write_gguf(path, "llama", llama_settings(1), tensors)
    with pytest.warns(UserWarning, match=r"no place for 1 of its tensors \(rope_freqs\.weight\)"):
        GgufCheckpoint(path)


def refused(path: Path, *words: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(FormatError) as caught:
            open_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_is_refused_and_the_file_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(ATTACKS[name])
    refused(path)


def test_a_truncated_file_is_refused_wherever_it_was_cut(mixed: Path, tmp_path: Path) -> None:
    raw = mixed.read_bytes()
    header = read_gguf_header(mixed).size
    path = tmp_path / "cut.gguf"
    for cut in [*range(1, header, 97), *range(header, len(raw), len(raw) // 20), len(raw) - 1]:
        path.write_bytes(raw[:cut])
        refused(path)


def test_a_missing_tensor_is_refused_rather_than_left_random(tmp_path: Path) -> None:
    path = tmp_path / "hole.gguf"
    tensors = [tensor for tensor in llama_tensors(1, [Type.F16]) if "ffn_up" not in tensor[0]]
    write_gguf(path, "llama", llama_settings(1), tensors)
    refused(path, "model.layers.0.mlp.up_proj.weight")


def test_the_loader_for_whole_models_refuses_a_missing_tensor_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_checkpoint, "assemble", lambda *_: None)
    test_a_missing_tensor_is_refused_rather_than_left_random(tmp_path)


def test_shapes_that_contradict_the_metadata_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "narrow.gguf"
    write_gguf(path, "llama", {**llama_settings(1), "feed_forward_length": 512}, llama_tensors(1, [Type.F16]))
    refused(path, "contradicts")
    turned = [(name, shape[::-1], kind) for name, shape, kind in llama_tensors(1, [Type.F16])]
    write_gguf(path, "llama", llama_settings(1), turned)
    opened = open_checkpoint(path)
    with pytest.raises(FormatError, match=r"tensor model\.embed_tokens\.weight.*contradicts"):
        opened.tensor("model.embed_tokens.weight")


def test_an_architecture_that_transformers_lacks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "future.gguf"
    write_gguf(path, "nosuch", llama_settings(1), llama_tensors(1, [Type.F16]))
    refused(path, "Transformers", "nosuch")


def test_a_file_that_shrinks_after_it_was_opened_is_refused(mixed: Path, tmp_path: Path) -> None:
    path = tmp_path / "shrinking.gguf"
    path.write_bytes(mixed.read_bytes())
    opened = open_checkpoint(path)
    os.truncate(path, 5000)
    with pytest.raises(FormatError, match=r"shrinking\.gguf, tensor .*: the file has 5000 bytes now"):
        opened.tensor("lm_head.weight")


def test_no_room_for_temporary_files_is_one_sentence(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    with pytest.raises(RecipeError, match=r"No space left on device.*TMPDIR"):
        open_checkpoint(mixed)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 1), offset=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_damaged_header_is_refused_or_harmless(
    mixed: Path, tmp_path: Path, position: int, offset: int, value: int
) -> None:
    raw = bytearray(mixed.read_bytes())
    size = read_gguf_header(mixed).size
    # Half of the time in the first keys, where the model's shape stands, rather than in the vocabulary.
    raw[offset % (size if position else 500)] = value
    path = tmp_path / "damaged.gguf"
    path.write_bytes(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            opened = open_checkpoint(path)
            for name in opened.infos:
                opened.tensor(name)
        except FormatError as problem:
            assert str(path) in str(problem)


def test_the_newest_loader_is_not_asked_tensor_by_tensor() -> None:
    """Architectures of Transformers' newer loader, where there is one, must be loaded whole."""
    newer = pytest.importorskip("transformers.integrations.gguf")
    for architecture in newer.GGUF_ARCHS:
        assert gguf_model._piecewise_loader(architecture) is None
