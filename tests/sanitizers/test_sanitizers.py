"""The kernels under AddressSanitizer with UndefinedBehaviorSanitizer, and under ThreadSanitizer: no finding at all.

That the sanitizers watch is shown by mistakes that are planted for them in code built as the kernels are.
"""

from __future__ import annotations

import dataclasses
import subprocess

import pytest

from .sanitizers import ADDRESS, SANITIZERS, THREAD, Sanitizer, build, run, why_not

PYTEST = ("-m", "pytest", "-p", "instrumented", "-p", "no:cacheprovider", "-q", "-x", "--capture=sys")
BACKENDS = "tests/kernels/test_backends.py"
DECODER = "tests/kernels/test_decoder.py"
ATTENTION = "tests/kernels/test_attention.py"
# For a short pass, what compiles quickly. Threads share the work in the same way in every unit, so that the one without
# vectors will do.
QUICK = {
    "address": dataclasses.replace(ADDRESS, name="address-quick", optimization="-O0"),
    "thread": dataclasses.replace(THREAD, name="thread-quick", optimization="-O0", instruction_sets="portable"),
}


@pytest.fixture(params=QUICK)
def finder(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if reason := why_not(QUICK[name]):
        pytest.skip(reason)
    return name


def watched(sanitizer: Sanitizer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(sanitizer, arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def assert_clean(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout[-20_000:]


@pytest.mark.parametrize(
    ("kind", "call", "finding"),
    [
        ("address", "read_past_the_end(16)", "heap-buffer-overflow"),
        ("address", "shift_too_far(40)", "shift exponent 40 is too large"),
        ("thread", "count_without_a_lock()", "data race"),
    ],
)
def test_a_planted_mistake_is_found(finder: str, kind: str, call: str, finding: str) -> None:
    library = next(build(QUICK[finder]).glob("libplanted.*"))
    done = watched(QUICK[finder], "-c", f"import ctypes; ctypes.CDLL({str(library)!r}).{call}; print('unseen')")
    if finder == kind:
        assert done.returncode != 0
        assert finding in done.stdout
    else:
        assert "unseen" in done.stdout, "a sanitizer finds what it is for, and nothing else"


def test_the_instrumented_extension_is_the_one_that_runs(finder: str) -> None:
    program = "import instrumented; from tilepress.kernels import _native; print(_native.__file__)"
    assert f"sanitize-{QUICK[finder].name}" in watched(QUICK[finder], "-c", program).stdout


def test_a_short_pass_is_clean(finder: str) -> None:
    chosen = {
        "address": "bit_identical or random_bytes or flipped or do_not_fit",
        "thread": "threads and (lossless or rate or abs or nf4 or caches)",
    }[finder]
    assert_clean(watched(QUICK[finder], *PYTEST, "-m", "not slow", "-k", chosen, BACKENDS, DECODER, ATTENTION))


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", SANITIZERS.values(), ids=SANITIZERS)
def test_every_case_of_the_kernels_is_clean(sanitizer: Sanitizer) -> None:
    if reason := why_not(sanitizer):
        pytest.skip(reason)
    # ThreadSanitizer has nothing to say of what one thread does: of its cases, many have none but one.
    cases = {"address": ("tests/kernels",), "thread": ("-m", "not slow", BACKENDS, DECODER, ATTENTION)}[sanitizer.name]
    assert_clean(watched(sanitizer, *PYTEST, *cases))
