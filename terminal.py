"""What the commands of the command line share: options, tables, progress, and how they fail.

Results go to standard output, progress and errors to standard error.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

BAD_INPUT, DEFECT, INTERRUPTED = 2, 1, 130
_WIDE = 200
_SECONDS_BETWEEN_LINES = 5.0

SourceArgument = Annotated[
    str,
    typer.Argument(metavar="SRC", help="A folder with safetensors, a GGUF file, or a name on the Hugging Face Hub."),
]
ContainerArgument = Annotated[Path, typer.Argument(metavar="DST", help="A compressed checkpoint.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


def fail(sentence: str, code: int) -> NoReturn:
    """End the command with one sentence."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"tilepress: {sentence}", markup=False)
    raise typer.Exit(code)


def print_json(value: object) -> None:
    """Print for machines."""
    typer.echo(json.dumps(value, indent=2))


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> None:
    """Print a table whose first `text_columns` columns are left-aligned words, the others right-aligned figures."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < text_columns else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    _console().print(table, markup=False)


@contextmanager
def progress(title: str, quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function of (done, total, what): a bar on a terminal, a line now and then in a log, or nothing."""
    if quiet:
        yield lambda done, total, what: None
    elif sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total, what: bar.update(task, completed=done, total=total)
    else:
        yield _plain_lines(title)


def _plain_lines(title: str) -> Callable[[int, int, str], None]:
    begin = time.monotonic()
    first_done: int | None = None
    last = begin

    def show(done: int, total: int, what: str) -> None:
        nonlocal first_done, last
        now = time.monotonic()
        if first_done is None:
            first_done = done
        if now - last < _SECONDS_BETWEEN_LINES and done < total:
            return
        last = now
        fresh = done - first_done
        left = f", about {(now - begin) * (total - done) / fresh:.0f} s left" if fresh and done < total else ""
        typer.echo(f"{title}: {100 * done / max(1, total):.0f} %{left} {what}".rstrip(), err=True)

    return show


def megabytes(size: float) -> str:
    """Bytes as people read them."""
    return f"{size / 1e6:,.1f} MB"
