"""Peak memory of `compress` above its imports, against the bound that the project promises.

    python benchmarks/memory.py [--only smollm2|synthetic] [--gigabytes 4] [--json OUT]

    peak of a conversion - peak of importing the same modules  <=  4 x largest tensor in float32 x workers + 200 MB

Each conversion runs in a process of its own. The peak is the largest resident set, so pages of the source that are
mapped while a tensor is read count as well. One checkpoint is real, SmolLM2-135M; the other is a random LLaMA of 4 GB
in shards, with a few large tensors and many small ones. The exit code is 1 if a conversion misses the bound.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from smollm2_wheel import CACHE

MB = 1_000_000
TENSORS_ALLOWED = 4
BYTES_ALLOWED = 200 * MB
CODECS = ("int:bits=4", "lossless", "zfp:rate=8")
WORKERS = (1, 2)
SHARD_BYTES = 500 * MB


@dataclass(frozen=True)
class Row:
    """One conversion.

    Attributes:
        checkpoint: what was converted.
        codec: its spec.
        workers: tensors encoded at the same time.
        seconds: of the conversion.
        peak_bytes: above the imports.
        allowed_bytes: the bound.
    """

    checkpoint: str
    codec: str
    workers: int
    seconds: float
    peak_bytes: int
    allowed_bytes: int

    @property
    def is_met(self) -> bool:
        """Whether the peak is within the bound."""
        return self.peak_bytes <= self.allowed_bytes


def peak_bytes() -> int:
    """Largest resident set of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # Unlike ru_maxrss, which a process inherits from its parent, this begins anew with the program.
        (line,) = (line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def convert(source: str, destination: str, codec: str, workers: str) -> dict[str, object]:
    """Compress, in this process: seconds, peak, and the modules that it took."""
    import tilepress

    begin = time.monotonic()
    tilepress.compress(source, destination, codec=codec, workers=int(workers))
    return {"seconds": time.monotonic() - begin, "peak": peak_bytes(), "modules": sorted(sys.modules)}


def import_all(names: Sequence[str]) -> dict[str, object]:
    """Import modules by name, in this process: the peak."""
    import tilepress  # noqa: F401  # First, as in a conversion.

    for name in names:
        try:
            __import__(name)
        except Exception:  # Some modules appear under names that can't be imported by themselves.
            continue
    return {"peak": peak_bytes()}


def child(*arguments: str, standard_input: str = "") -> dict[str, object]:
    """Run this file in a process of its own; what it prints last is its result."""
    command = [sys.executable, __file__, "--child", *arguments]
    with tempfile.TemporaryDirectory() as nowhere:
        done = subprocess.run(
            command, input=standard_input, stdout=subprocess.PIPE, text=True, cwd=nowhere, check=False
        )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: failed, see above")
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_child(kind: str, arguments: Sequence[str]) -> None:
    """Be the process that `child` starts."""
    result = convert(*arguments) if kind == "convert" else import_all(json.load(sys.stdin))
    print(json.dumps(result))


def measure(name: str, source: Path, codec: str, workers: int) -> Row:
    """Convert a checkpoint in a process of its own, and import the same modules in another."""
    from tilepress.formats.checkpoint import open_checkpoint

    largest = max(4 * info.size_bytes // info.dtype.itemsize for info in open_checkpoint(source).infos.values())
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        conversion = child("convert", str(source), str(Path(folder, "out")), codec, str(workers))
    imports = child("import", standard_input=json.dumps(conversion["modules"]))
    return Row(
        name,
        codec,
        workers,
        float(str(conversion["seconds"])),
        int(str(conversion["peak"])) - int(str(imports["peak"])),
        TENSORS_ALLOWED * largest * workers + BYTES_ALLOWED,
    )


def write_synthetic(folder: Path, size_bytes: int) -> None:
    """Write a random bfloat16 LLaMA of about `size_bytes`, tensor by tensor."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tilepress.formats.checkpoint_writer import write_checkpoint
    from tilepress.formats.tensor_info import TensorInfo

    hidden, intermediate, vocabulary = 2048, 5632, 32_000
    layer_bytes = 2 * (4 * hidden * hidden + 3 * hidden * intermediate + 2 * hidden)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=max(1, (size_bytes - 4 * vocabulary * hidden) // layer_bytes),
        num_attention_heads=16,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in LlamaForCausalLM(config).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    write_checkpoint(
        folder,
        [TensorInfo(name, shape, torch.bfloat16) for name, shape in shapes.items()],
        lambda name: torch.randn(shapes[name], generator=generator).mul_(0.02).to(torch.bfloat16),
        config.to_dict(),
        {},
        max_shard_bytes=SHARD_BYTES,
    )


@contextmanager
def checkpoint(name: str, gigabytes: float, smollm2: Path | None) -> Iterator[Path]:
    """A checkpoint to convert; the synthetic one is removed afterwards."""
    if name == "smollm2":
        folder = smollm2 or CACHE / "smollm2"
        if not folder.exists():
            maker = Path(__file__).with_name("make_smollm2.py")
            subprocess.run([sys.executable, str(maker), str(folder)], check=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "synthetic")
        print(f"writing a random checkpoint of {gigabytes} GB into {place}", flush=True)
        write_synthetic(folder, int(gigabytes * 1e9))
        yield folder


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=("smollm2", "synthetic"), help="one checkpoint instead of both")
    parser.add_argument("--gigabytes", type=float, default=4, help="size of the synthetic checkpoint [default: 4]")
    parser.add_argument("--smollm2", type=Path, help="what make_smollm2.py wrote [default: let it write one]")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the rows as JSON")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run_child(arguments.child[0], arguments.child[1:])
        return
    rows = []
    print(f"{'checkpoint':<11}{'codec':<12}{'workers':>8}{'seconds':>9}{'peak MB':>9}{'allowed MB':>12}")
    for name in [arguments.only] if arguments.only else ["smollm2", "synthetic"]:
        with checkpoint(name, arguments.gigabytes, arguments.smollm2) as source:
            for codec in CODECS:
                for workers in WORKERS:
                    row = measure(name, source, codec, workers)
                    rows.append(row)
                    figures = f"{row.seconds:>9.1f}{row.peak_bytes / MB:>9.0f}{row.allowed_bytes / MB:>12.0f}"
                    verdict = "" if row.is_met else "  MISSED"
                    print(f"{name:<11}{codec:<12}{workers:>8}{figures}{verdict}", flush=True)
    if arguments.json:
        content = [asdict(row) | {"is_met": row.is_met} for row in rows]
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if not all(row.is_met for row in rows):
        raise SystemExit("a conversion needed more memory than promised")


if __name__ == "__main__":
    main()
