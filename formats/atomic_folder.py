"""A folder that appears under its name only when it is complete, and errors of the disk as one sentence."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tilepress.kernels import RecipeError, TilepressError

PARTIAL_SUFFIX = ".partial"


def partial_folder(destination: Path) -> Path:
    """Where the content of `destination` is collected until it is complete.

    Raises:
        RecipeError: a destination that exists and isn't an empty folder, or that has no name of its own.
    """
    if destination.name in ("", ".", ".."):
        raise RecipeError(f"{destination}: is not a folder that could be written")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise RecipeError(f"{destination}: exists already; choose another name or remove it")
    return destination.with_name(destination.name + PARTIAL_SUFFIX)


def publish(folder: Path, destination: Path) -> None:
    """Flush everything in `folder` to the disk and give it its final name."""
    for path in sorted(folder.rglob("*")):
        _sync(path)
    _sync(folder)
    if destination.exists():
        destination.rmdir()
    folder.rename(destination)
    _sync(destination.parent)


@contextmanager
def atomic_folder(destination: Path) -> Iterator[Path]:
    """Collect a folder's content, and publish it on leaving; on an error everything is removed.

    Raises:
        RecipeError: as `partial_folder`.
        TilepressError: the disk is full, or its permissions don't allow it.
    """
    with explained_os_errors(destination, "nothing is left behind: make room or choose another place and try again"):
        folder = partial_folder(destination)
        if folder.exists():
            raise RecipeError(f"{folder}: exists, perhaps from a conversion that is not finished; remove it first")
        folder.mkdir(parents=True)
        try:
            yield folder
            publish(folder, destination)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


@contextmanager
def explained_os_errors(path: Path, advice: str) -> Iterator[None]:
    """Turn errors of the operating system into one sentence that ends with `advice`."""
    try:
        yield
    except OSError as problem:
        what = problem.filename or path
        raise TilepressError(f"{what}: can't be written ({problem.strerror}); {advice}") from problem


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
