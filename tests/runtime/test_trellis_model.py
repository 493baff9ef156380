"""A whole model in trellis codes: embeddings, tied head and blocks."""

from __future__ import annotations

from pathlib import Path

import torch

from tilepress.conversion import compress
from tilepress.formats.container import Container
from tilepress.runtime.generation import open_for_generation, stream


def test_a_model_in_trellis_codes_loads_and_computes_what_its_decoded_weights_would(
    llama: Path, tmp_path: Path
) -> None:
    codec = "trellis:bits=6,window=12,effort=fast"
    compress(llama, tmp_path / "small", codec, embeddings=codec)
    records = Container.open(tmp_path / "small").records.values()
    assert sum(record.params.codec == "trellis" for record in records) >= 15
    model, tokenizer = open_for_generation(tmp_path / "small")
    assert len("".join(stream(model, tokenizer, "Once", 4))) > 0
    ids = torch.arange(12)[None]
    found = model(ids).logits.float()
    model.dequantize()
    wanted = model(ids).logits.float()
    assert float((found - wanted).norm() / wanted.norm()) < 0.05
