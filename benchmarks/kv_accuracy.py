"""What a compressed KV cache costs in accuracy, and what it saves in memory.

    python benchmarks/kv_accuracy.py CHECKPOINT --text FILE [--tokens 2048] [--step 64] [--kv int:bits=8 int:bits=4 ...]

A text goes through the model in pieces of --step tokens, once with a dense cache and once with each codec. KL
divergence from the dense cache and agreement of the likeliest token are means over the tokens after the first piece,
which alone sees nothing of any cache; bytes are those of the whole cache at the end, against keys and values in
bfloat16.
"""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path

import torch

# Transformers takes any module `kernels` on the path for a package that it can use, and imports it: this one must not
# import Transformers then.
if __name__ == "__main__":
    from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

    from tilepress import TilepressCache, use_kv

SPECS = ("none", "int:bits=8", "fp8", "int:bits=4", "int:bits=2")


@torch.inference_mode()
def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--step", type=int, default=64)
    parser.add_argument("--kv", nargs="+", default=SPECS)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
    model = AutoModelForCausalLM.from_pretrained(options.checkpoint, dtype=options.dtype).eval()
    use_kv(model)
    ids = tokenizer(options.text.read_text(encoding="utf-8"), return_tensors="pt")["input_ids"][:, : options.tokens]
    name = "cache" if "cache" in inspect.signature(type(model).forward).parameters else "past_key_values"
    dense = DynamicCache(config=model.config)
    caches = {spec: TilepressCache(spec, config=model.config) for spec in options.kv}
    divergence, agreement = (dict.fromkeys(caches, 0.0) for _ in range(2))
    for piece in ids.split(options.step, dim=1):
        wanted = model(piece, **{name: dense}).logits[0].log_softmax(-1)
        for spec, cache in caches.items():
            found = model(piece, **{name: cache}).logits[0].log_softmax(-1)
            if cache.get_seq_length() > options.step:
                divergence[spec] += float((wanted.exp() * (wanted - found)).sum())
                agreement[spec] += float((wanted.argmax(-1) == found.argmax(-1)).sum())
    counted = ids.shape[1] - options.step
    bytes_of_dense = sum(2 * (layer.keys.numel() + layer.values.numel()) for layer in dense.layers)
    print(f"{options.checkpoint.name} in {options.dtype}, {ids.shape[1]} tokens in pieces of {options.step}")
    print(f"{'cache':14} {'KL divergence':>13} {'same top':>8} {'bytes':>12} {'of bfloat16':>11}")
    for spec, cache in caches.items():
        print(
            f"{spec:14} {divergence[spec] / counted:13.6f} {agreement[spec] / counted:8.1%} {cache.nbytes:12,} "
            f"{cache.nbytes / bytes_of_dense:11.1%}"
        )


if __name__ == "__main__":
    main()
