"""A decoder's native step against its definition in PyTorch, in the dtype that it computes in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

from tilepress.compress.codecs import encode
from tilepress.kernels import CodecError, Encoded, backend_of, decode

if backend_of("int", "cpu").name != "cpu":
    pytest.skip("there are no native kernels", allow_module_level=True)

from tilepress.kernels.cpu.decoder import Decoder, DenseCache, Description, Layer, Projection

HEADS, KEY_HEADS, SIZE, HIDDEN, INNER, VOCABULARY = 6, 2, 32, 72, 100, 57
SPECS = ("int:bits=4", "trellis:bits=4,window=12", "lossless", "zfp:rate=12", "none")
ACTIVATIONS = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 0.06, torch.float16: 0.01}


def description(dtype: torch.dtype, specs: tuple[str, ...] = SPECS, activation: str = "silu") -> Description:
    """Two layers whose weights have these codecs in turns, with all that a layer may have."""
    generator = torch.Generator().manual_seed(1)
    count = 0

    def values(*shape: int, around: float = 0.0) -> torch.Tensor:
        return (around + torch.randn(shape, generator=generator) / shape[-1] ** 0.5).to(dtype)

    def weight(rows: int, columns: int) -> Encoded | torch.Tensor:
        nonlocal count
        count += 1
        spec = specs[count % len(specs)]
        return values(rows, columns) if spec == "none" else encode(values(rows, columns), spec)

    def projection(rows: int, columns: int) -> Projection:
        return Projection(weight(rows, columns), values(rows))

    def layer() -> Layer:
        return Layer(
            input_norm=values(HIDDEN, around=1.0),
            query=projection(HEADS * SIZE, HIDDEN),
            key=projection(KEY_HEADS * SIZE, HIDDEN),
            value=projection(KEY_HEADS * SIZE, HIDDEN),
            query_norm=values(SIZE, around=1.0),
            key_norm=values(SIZE, around=1.0),
            output=projection(HIDDEN, HEADS * SIZE),
            middle_norm=values(HIDDEN, around=1.0),
            gate=projection(INNER, HIDDEN),
            up=projection(INNER, HIDDEN),
            down=projection(HIDDEN, INNER),
        )

    return Description(
        dtype=dtype,
        embedding=encode(values(VOCABULARY, HIDDEN), "int:bits=8"),
        layers=[layer(), layer()],
        norm=values(HIDDEN, around=1.0),
        head=projection(VOCABULARY, HIDDEN),
        epsilon=1e-5,
        activation=activation,
        scaling=0.2,
        heads=HEADS,
        key_heads=KEY_HEADS,
        head_size=SIZE,
    )


def dense(weight: Encoded | torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return decode(weight, dtype=dtype) if isinstance(weight, Encoded) else weight


def definition(
    of: Description, cache: DenseCache, tokens: list[int], cached: int, angles: torch.Tensor
) -> torch.Tensor:
    """Logits of the step, [sequences, vocabulary]; adds to the cache."""
    cosines, sines = (function(angles).to(of.dtype)[:, None] for function in (torch.cos, torch.sin))

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        exact = x.float()
        return (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + of.epsilon)).to(of.dtype) * weight

    def project(x: torch.Tensor, projection: Projection) -> torch.Tensor:
        bias = projection.bias
        exact = x.float() @ dense(projection.weight, of.dtype).float().T
        return (exact if bias is None else exact + bias.float()).to(of.dtype)

    def rotated(x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, -1)
        return x * cosines + torch.cat([-right, left], -1) * sines

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (-1, SIZE))

    hidden = dense(of.embedding, of.dtype)[tokens]
    for layer, keys, values in zip(of.layers, cache.keys, cache.values, strict=True):
        x = norm(hidden, layer.input_norm)
        query, key = heads(project(x, layer.query)), heads(project(x, layer.key))
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = norm(query, layer.query_norm), norm(key, layer.key_norm)
        keys[:, :, cached], values[:, :, cached] = rotated(key), heads(project(x, layer.value))
        seen = [
            states[:, :, : cached + 1].float().repeat_interleave(HEADS // KEY_HEADS, 1) for states in (keys, values)
        ]
        scores = torch.softmax((rotated(query).float()[:, :, None] @ seen[0].mT) * of.scaling, -1)
        hidden = hidden + project((scores @ seen[1]).flatten(1).to(of.dtype), layer.output)
        x = norm(hidden, layer.middle_norm)
        inner = ACTIVATIONS[of.activation](project(x, layer.gate)) * project(x, layer.up)
        hidden = hidden + project(inner, layer.down)
    return project(norm(hidden, of.norm), of.head)


def states(sequences: int, room: int, dtype: torch.dtype) -> DenseCache:
    generator = torch.Generator().manual_seed(room)
    shape = (sequences, KEY_HEADS, room, SIZE)
    keys, values = ([torch.randn(shape, generator=generator).to(dtype) for _ in range(2)] for _ in range(2))
    return DenseCache(keys, values)


def copied(cache: DenseCache) -> DenseCache:
    return DenseCache(*([some.clone() for some in both] for both in (cache.keys, cache.values)))


def angles(sequences: int) -> torch.Tensor:
    return torch.linspace(0.0, 9.0, sequences * SIZE).reshape(sequences, SIZE)


def step(of: Description, cache: DenseCache, tokens: list[int], cached: int, **options: Any) -> torch.Tensor:
    of_tokens = angles(len(tokens))
    return Decoder(of).step(
        cache, tokens, cached, of_tokens.cos().to(of.dtype), of_tokens.sin().to(of.dtype), **options
    )


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("sequences", "cached"), [(1, 0), (1, 40), (3, 9), (8, 2), (2, 600)])
def test_a_step_is_what_it_is_defined_to_be(dtype: torch.dtype, sequences: int, cached: int) -> None:
    of, cache, tokens = description(dtype), states(sequences, cached + 3, dtype), list(range(5, 5 + sequences))
    other = copied(cache)
    wanted = definition(of, other, tokens, cached, angles(sequences)).float()
    found = step(of, cache, tokens, cached).float()
    assert (found - wanted).abs().max() <= TOLERANCES[dtype] * wanted.abs().max()
    for mine, others in zip((*cache.keys, *cache.values), (*other.keys, *other.values), strict=True):
        assert (mine.float() - others.float()).abs().max() <= TOLERANCES[dtype] * others.float().abs().max()
        assert torch.equal(mine[:, :, cached + 1 :], others[:, :, cached + 1 :])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_pytorch_s(activation: str) -> None:
    of, cache = description(torch.float32, activation=activation), states(1, 4, torch.float32)
    wanted = definition(of, copied(cache), [3], 2, angles(1))
    assert torch.allclose(step(of, cache, [3], 2), wanted, atol=1e-4)


@pytest.mark.parametrize("spec", SPECS)
def test_threads_share_a_step_without_changing_it(spec: str) -> None:
    of, cache = description(torch.bfloat16, (spec,)), states(2, 603, torch.bfloat16)
    alone = step(of, copied(cache), [1, 2], 600)
    torch.set_num_threads(3)
    assert torch.equal(step(of, cache, [1, 2], 600), alone)


def test_a_table_of_rotated_rows_is_looked_up_outside() -> None:
    of = description(torch.float32)
    table = encode(dense(of.embedding, torch.float32), "trellis:bits=8,window=12,rotate=both")
    decoder = Decoder(replace(of, embedding=table))
    assert not decoder.embeds
    embedded, cache = decode(table)[[4]], states(1, 4, torch.float32)
    wanted = definition(replace(of, embedding=decode(table)), copied(cache), [4], 2, angles(1))
    found = decoder.step(cache, [4], 2, angles(1).cos(), angles(1).sin(), embedded)
    assert torch.allclose(found, wanted, atol=1e-4)


def test_what_does_not_fit_is_refused() -> None:
    of = description(torch.float32)
    decoder, cache = Decoder(of), states(1, 4, torch.float32)
    cosines, sines = angles(1).cos(), angles(1).sin()
    for tokens, cached, room in (
        ([VOCABULARY], 0, cache),
        ([-1], 0, cache),
        ([1, 2], 0, cache),
        ([1], 4, cache),
        ([1], -1, cache),
        ([1], 0, DenseCache(cache.keys[:1], cache.values[:1])),
        ([1], 0, states(2, 4, torch.float32)),
        ([1], 0, states(1, 4, torch.bfloat16)),
    ):
        with pytest.raises(CodecError, match="a decoder's step"):
            decoder.step(room, tokens, cached, cosines, sines)
    longer = states(1, 5, torch.float32)
    with pytest.raises(CodecError, match="different sizes"):
        DenseCache([cache.keys[0], longer.keys[1]], [cache.values[0], longer.values[1]])
    with pytest.raises(CodecError, match="rotary"):
        decoder.step(cache, [1], 0, cosines[:, :16], sines)
    with pytest.raises(CodecError, match="embeddings"):
        Decoder(replace(of, embedding=encode(dense(of.embedding, torch.float32), "trellis:rotate=both"))).step(
            cache, [1], 0, cosines, sines
        )


@pytest.mark.parametrize(
    "change",
    [
        {"heads": 5},
        {"head_size": 24},
        {"activation": "relu"},
        {"norm": torch.ones(HIDDEN + 1)},
        {"norm": torch.ones(HIDDEN, dtype=torch.bfloat16)},
        {"layers": []},
        {"head": Projection(torch.ones(9, HIDDEN + 1))},
        {"embedding": torch.ones(9, HIDDEN + 1)},
    ],
    ids=str,
)
def test_a_decoder_of_other_sizes_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CodecError):
        Decoder(replace(description(torch.float32), **change))
