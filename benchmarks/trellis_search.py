"""How close searches of trellis codes come to the rate-distortion bound, and how fast they are.

    python benchmarks/trellis_search.py [--rows N] [--columns N] [codec spec ...]

One thread; Gaussian weights, rotated over the columns. The loss is in bits a weight, codes and scales counted: so much
fewer would do for the same mean squared error at the bound. Seconds are those of the processor for all of `encode`.
"""

from __future__ import annotations

import argparse
import math
import time

import torch

# Transformers takes any module `kernels` on the path for a package that it can use, and imports it: this one must not
# import Transformers then.
if __name__ == "__main__":
    from tilepress.compress.codecs import encode
    from tilepress.kernels import decode
    from tilepress.kernels.cpu.instruction_set import instruction_set

SPECS = (
    *(f"trellis:bits={bits},effort={effort}" for bits in (2, 3, 4, 5) for effort in ("exact", "normal", "fast")),
    "trellis:bits=4,window=12",
)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="*", default=SPECS, metavar="codec spec")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--columns", type=int, default=4096)
    options = parser.parse_args()
    torch.set_num_threads(1)
    weight = torch.randn(options.rows, options.columns, generator=torch.Generator().manual_seed(0))
    print(f"{options.rows} x {options.columns} weights, instruction set {instruction_set()}")
    print(f"{'codec':32} {'loss, bits':>10} {'weights/s':>10}")
    for spec in options.specs:
        begin = time.process_time()
        encoded = encode(weight, f"{spec},rotate=columns")
        seconds = time.process_time() - begin
        mean_squared = float((decode(encoded) - weight).square().mean())
        counted = encoded.parts["codes"].nbytes + encoded.parts["scales"].nbytes
        loss = 8 * counted / weight.numel() + math.log2(mean_squared) / 2
        print(f"{spec:32} {loss:10.3f} {weight.numel() / seconds / 1e3:8.0f} k", flush=True)


if __name__ == "__main__":
    main()
