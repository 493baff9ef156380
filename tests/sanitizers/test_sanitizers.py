"""The kernels under AddressSanitizer with UndefinedBehaviorSanitizer, and under ThreadSanitizer: no finding at all.

That the sanitizers watch is shown by mistakes that are planted for them in code built as the kernels are.
"""

from __future__ import annotations

import subprocess

import pytest

from .sanitizers import SANITIZERS, Sanitizer, build, run, why_not

PYTEST = ("-m", "pytest", "-p", "instrumented", "-p", "no:cacheprovider", "-q", "-x", "--capture=sys")
BACKENDS = "tests/kernels/test_backends.py"


@pytest.fixture(scope="module", params=SANITIZERS.values(), ids=SANITIZERS, autouse=True)
def sanitizer(request: pytest.FixtureRequest) -> Sanitizer:
    sanitizer: Sanitizer = request.param
    if reason := why_not(sanitizer):
        pytest.skip(reason)
    return sanitizer


def watched(sanitizer: Sanitizer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(sanitizer, arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def assert_clean(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout[-20_000:]


@pytest.mark.parametrize(
    ("finder", "call", "finding"),
    [
        ("address", "read_past_the_end(16)", "heap-buffer-overflow"),
        ("address", "shift_too_far(40)", "shift exponent 40 is too large"),
        ("thread", "count_without_a_lock()", "data race"),
    ],
)
def test_a_planted_mistake_is_found(sanitizer: Sanitizer, finder: str, call: str, finding: str) -> None:
    library = next(build(sanitizer).glob("libplanted.*"))
    done = watched(sanitizer, "-c", f"import ctypes; ctypes.CDLL({str(library)!r}).{call}; print('unseen')")
    if sanitizer.name == finder:
        assert done.returncode != 0
        assert finding in done.stdout
    else:
        assert "unseen" in done.stdout, "a sanitizer finds what it is for, and nothing else"


def test_the_instrumented_extension_is_the_one_that_runs(sanitizer: Sanitizer) -> None:
    program = "import instrumented; from tilepress.kernels import _native; print(_native.__file__)"
    assert f"sanitize-{sanitizer.name}" in watched(sanitizer, "-c", program).stdout


def test_a_short_pass_is_clean(sanitizer: Sanitizer) -> None:
    chosen = {
        "address": "bit_identical or random_bytes or flipped or do_not_fit",
        "thread": "threads and portable and (lossless or rate or abs or nf4)",
    }[sanitizer.name]
    assert_clean(watched(sanitizer, *PYTEST, "-m", "not slow", "-k", chosen, BACKENDS))


@pytest.mark.slow
def test_every_case_of_the_kernels_is_clean(sanitizer: Sanitizer) -> None:
    # ThreadSanitizer has nothing to say of what one thread does: of its cases, many have none but one.
    cases = {"address": ("tests/kernels",), "thread": ("-m", "not slow", BACKENDS)}[sanitizer.name]
    assert_clean(watched(sanitizer, *PYTEST, *cases))
