"""The store of a layer in graphs of torch.compile: the same results as without, from operators that keep their word."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from tilepress.kernels import CodecError, kv_operators
from tilepress.kernels.kv_store import KvStore, store_of
from tilepress.kernels.layout.kv import parse_kv_spec
from tilepress.kernels.reference.attention import Attention

HEADS, SIZE = 4, 32


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def states(tokens: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return random(1, 2, tokens, SIZE, seed=seed), random(1, 2, tokens, 48, seed=seed + 1)


def store(tokens: int = 0, spec: str = "int:bits=4,group=32") -> KvStore:
    empty = KvStore(parse_kv_spec(spec), window=16)
    if tokens:
        empty.append(*states(tokens))
    return empty


def layer(
    mine: KvStore, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention as a layer of a model computes it, from tiles, and something that reads all keys."""
    kv_operators.append(mine, keys, values, first_seen=mine.first + mine.tokens - 100)
    found = kv_operators.attend(query, mine, values.shape[3], Attention(0.2, sinks=query[0, :, 0, 0]))
    if torch.compiler.is_compiling():
        return found, kv_operators.decoded(mine, keys, are_keys=True).sum(2)
    return found, mine.dense_keys().sum(2)


def test_a_layer_is_one_graph_for_any_number_of_tokens() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    mine, other = store(40), store(40)
    for step, tokens in enumerate((2, 70, *[5] * 12)):
        new = random(1, HEADS, tokens, SIZE, seed=step), *states(tokens, seed=step)
        for found, wanted in zip(compiled(mine, *new), layer(other, *new), strict=True):
            assert torch.equal(found, wanted)
        counts = mine.first, mine.encoded_tokens, mine.dense_tokens
        assert counts == (other.first, other.encoded_tokens, other.dense_tokens)
    assert mine.first > 0
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 5


def test_keys_that_nobody_reads_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KvStore, "dense_keys", lambda self: pytest.fail("all keys were decoded"))

    def number_of(mine: KvStore, keys: torch.Tensor) -> torch.Tensor:
        decoded = kv_operators.decoded(mine, keys, are_keys=True)
        return keys.sum() + decoded.shape[2]

    torch._dynamo.reset()
    compiled = torch.compile(number_of, fullgraph=True, backend="aot_eager")
    assert compiled(store(50), torch.ones(1, 2, 1, SIZE)) == 2 * SIZE + 50


def test_a_graph_breaks_where_a_gradient_is_needed() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda query, mine: kv_operators.attend(query, mine, 48, Attention(0.2)), backend="eager")
    query = random(1, HEADS, 1, SIZE).requires_grad_()
    compiled(query, store(80)).sum().backward()
    assert query.grad is not None
    assert bool(query.grad.ne(0).any())


@pytest.mark.parametrize("spec", ["int:bits=4,group=32", "none"])
def test_operators_pass_opcheck(spec: str) -> None:
    operators, mine, growing = torch.ops.tilepress, store(80, spec), store(80, spec)
    torch.library.opcheck(operators.kv_append.default, (growing.handle, *states(3), 0))
    for are_keys, like in zip((True, False), states(1), strict=True):
        torch.library.opcheck(operators.kv_states.default, (mine.handle, like, 80, are_keys))
    query, mask = random(1, HEADS, 3, SIZE), random(1, 1, 3, 80) > 0
    extras = 0.2, True, 50, mask, torch.ones(HEADS), 3.0, torch.ones(HEADS)
    torch.library.opcheck(operators.kv_attend.default, (query, mine.handle, 48, *extras))


def test_a_copy_of_a_store_has_a_handle_of_its_own() -> None:
    mine = store(80)
    for other in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        assert store_of(other.handle) is other
        torch.ops.tilepress.kv_append(other.handle, *states(3), 0)
        assert (mine.tokens, other.tokens) == (80, 83)
    assert store_of(mine.handle) is mine


def test_a_handle_without_a_store_is_refused() -> None:
    handle = store(80).handle
    with pytest.raises(CodecError, match="no longer"):
        torch.ops.tilepress.kv_states(handle, states(1)[0], 80, True)
