"""Time the whole command `tilepress compress` against what it can't do without: imports, and a copy of the checkpoint.

    python benchmarks/command.py CHECKPOINT [--codec SPEC] [--workers N] [--runs N] [--json OUT]

Each step is a process of its own; the fastest of several runs counts, taken in turns. Seconds of the processors say
what a step costs where other work runs on the machine.

    imports    the modules that the command imports, those of the checkpoint's model among them
    plan       the command with --dry-run: imports, headers, and what each tensor is to the model
    copy       the checkpoint's files, read and written
    command    the whole command
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

IMPORTS = """
import sys
from transformers import AutoConfig, AutoModelForCausalLM
import tilepress.cli, tilepress.conversion, tilepress.compress.pipeline
AutoModelForCausalLM._model_mapping[type(AutoConfig.from_pretrained(sys.argv[1]))]
"""
COMMAND = (sys.executable, "-c", "from tilepress.cli import app; app()", "compress")


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: of the step.
        seconds: on the clock.
        processor_seconds: of all threads.
    """

    name: str
    seconds: float
    processor_seconds: float


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--codec", default="int:bits=4")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    arguments = (*COMMAND, str(options.checkpoint), "DST", "--codec", options.codec, "--quiet")
    actions: dict[str, Callable[[Path], None]] = {
        "imports": partial(run, (sys.executable, "-c", IMPORTS, str(options.checkpoint.absolute()))),
        "plan": partial(run, (*arguments, "--dry-run")),
        "copy": partial(copy, options.checkpoint),
        "command": partial(run, (*arguments, "--workers", str(options.workers))),
    }
    steps = measure(actions, options.runs)
    for step in steps:
        print(f"{step.name:8} {step.seconds:7.2f} s {step.processor_seconds:7.2f} s of processors")
    seconds = {step.name: step.seconds for step in steps}
    ratio = seconds["command"] / (seconds["imports"] + seconds["copy"])
    print(f"command / (imports + copy) = {ratio:.2f}; after the plan {seconds['command'] - seconds['plan']:.2f} s")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(step) for step in steps], indent=2) + "\n", encoding="utf-8")


def measure(actions: dict[str, Callable[[Path], None]], runs: int) -> list[Step]:
    """The fastest run of each action, in turns; each is given a path that is free to write to."""
    best = dict.fromkeys(actions, (float("inf"), float("inf")))
    for _ in range(runs):
        for name, action in actions.items():
            with tempfile.TemporaryDirectory() as folder:
                begin, before = time.perf_counter(), sum(os.times()[:4])
                action(Path(folder, "target"))
                found = time.perf_counter() - begin, sum(os.times()[:4]) - before
            best[name] = min(best[name][0], found[0]), min(best[name][1], found[1])
    return [Step(name, *figures) for name, figures in best.items()]


def copy(checkpoint: Path, target: Path) -> None:
    """Copy the checkpoint's files."""
    shutil.copytree(checkpoint, target)


def run(command: tuple[str, ...], target: Path) -> None:
    """Run a command that writes to `target`, which stands as DST in it."""
    words = [str(target) if word == "DST" else word for word in command]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd=target.parent)


if __name__ == "__main__":
    main()
