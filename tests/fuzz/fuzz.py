"""Fuzz decoders: atheris mutates what `target` describes, guided by the coverage of the native code, with
AddressSanitizer and UndefinedBehaviorSanitizer watching.

    python tests/fuzz/fuzz.py SECONDS [CODEC...]

Without a name, every codec of the registry has its turn. The first input that crashes, hangs, asks for more than a
gigabyte or raises anything but `CodecError` ends a codec's turn and is kept in out/fuzz/CODEC; inputs that reach new
code are collected in out/fuzz/CODEC/corpus, from where those worth keeping go to tests/fuzz/corpus/CODEC.
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
from specs import SPECS_OF  # noqa: E402


def fuzz(codec: str, seconds: str) -> None:
    """Fuzz one decoder in this process, which has the instrumented extension in place. Does not return."""
    importlib.import_module("instrumented")  # before anything of tilepress
    import atheris
    import target

    found = FOLDER.parents[1] / "out" / "fuzz" / codec
    corpus = found / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    specs = SPECS_OF[codec]
    for number, seed in enumerate(target.seeds(specs)):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [
        *(f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=4096", "-malloc_limit_mb=1024"),
        *(f"-artifact_prefix={found}/", "-max_len=16384", "-use_value_profile=1", "-print_final_stats=1"),
    ]
    folders = [str(folder) for folder in (corpus, FOLDER / "corpus" / codec) if folder.is_dir()]
    atheris.Setup([codec, *options, *folders], lambda data: target.check(specs, data))
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
    """Give every codec its turn in a process of its own."""
    seconds, *codecs = sys.argv[1:]
    with_fuzzer = fuzzer()
    failed = []
    for codec in codecs or SPECS_OF:
        print(f"== fuzz: {codec}, {seconds} seconds", flush=True)
        if run(with_fuzzer, [__file__, seconds, codec]).returncode:
            failed.append(codec)
    raise SystemExit(f"findings in {', '.join(failed)}: see out/fuzz" if failed else 0)


if __name__ == "__main__":
    if "TILEPRESS_INSTRUMENTED" in os.environ:
        fuzz(sys.argv[2], sys.argv[1])
    else:
        main()
