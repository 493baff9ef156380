"""Fuzz native code: atheris mutates what `target` and `attention_target` describe, guided by the coverage of the native
code, with AddressSanitizer and UndefinedBehaviorSanitizer watching.

    python tests/fuzz/fuzz.py SECONDS [NAME...]

A name is that of a codec, or `attention`; without one, all have their turn. The first input that crashes, hangs, asks
for more than a gigabyte or raises what it should not ends a turn and is kept in out/fuzz/NAME; inputs that reach new
code are collected in out/fuzz/NAME/corpus, from where those worth keeping go to tests/fuzz/corpus/NAME.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path += [str(FOLDER), str(FOLDER.parent / "kernels"), str(FOLDER.parent / "sanitizers")]

from sanitizers import ADDRESS, Sanitizer, run  # noqa: E402
from specs import FUZZED  # noqa: E402


def fuzz(name: str, seconds: str) -> None:
    """Fuzz one target in this process, which has the instrumented extension in place. Does not return."""
    importlib.import_module("instrumented")  # before anything of tilepress
    import atheris

    module, specs = FUZZED[name]
    target = importlib.import_module(module)
    found = FOLDER.parents[1] / "out" / "fuzz" / name
    corpus = found / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds(specs)):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [
        *(f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=4096", "-malloc_limit_mb=1024"),
        *(f"-artifact_prefix={found}/", "-max_len=16384", "-use_value_profile=1", "-print_final_stats=1"),
    ]
    folders = [str(folder) for folder in (corpus, FOLDER / "corpus" / name) if folder.is_dir()]
    atheris.Setup([name, *options, *folders], lambda data: target.check(specs, data))
    atheris.Fuzz()


def fuzzer() -> Sanitizer:
    """clang's AddressSanitizer and what of UndefinedBehaviorSanitizer its runtime holds, with atheris's libFuzzer."""
    spec = importlib.util.find_spec("atheris")
    if shutil.which("clang++") is None or spec is None or spec.origin is None:
        raise SystemExit(
            "fuzzing needs clang and atheris: apt-get install clang libclang-rt-14-dev; pip install atheris"
        )
    undefined = "alignment,bool,bounds,null,pointer-overflow,shift,signed-integer-overflow"
    return Sanitizer(
        "fuzz",
        f"fuzzer-no-link,address,{undefined}",
        str(Path(spec.origin).parents[1] / "asan_with_fuzzer.so"),
        ADDRESS.environment,
        compiler="clang++",
    )


def main() -> None:
    """Give every target its turn in a process of its own."""
    seconds, *names = sys.argv[1:]
    with_fuzzer = fuzzer()
    failed = []
    for name in names or FUZZED:
        print(f"== fuzz: {name}, {seconds} seconds", flush=True)
        if run(with_fuzzer, [__file__, seconds, name]).returncode:
            failed.append(name)
    raise SystemExit(f"findings in {', '.join(failed)}: see out/fuzz" if failed else 0)


if __name__ == "__main__":
    if "TILEPRESS_INSTRUMENTED" in os.environ:
        fuzz(sys.argv[2], sys.argv[1])
    else:
        main()
