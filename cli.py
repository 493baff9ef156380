"""The command line: `tilepress compress | decompress | inspect | verify | compare | generate | codecs | doctor`.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 a defect of tilepress,
2 bad input or a failed check, 130 interrupted.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, ParamSpec

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

app = typer.Typer(
    name="tilepress",
    help="Compress Transformers checkpoints, run them compressed, and see what it costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Arguments = ParamSpec("Arguments")

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


def command(function: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Register a command whose errors become one sentence and an exit code."""

    @functools.wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except KeyboardInterrupt:
            _fail("interrupted; run the same command again to go on", INTERRUPTED)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except OSError as problem:
            _fail(f"{problem.filename or 'a file'}: {problem.strerror or problem}", BAD_INPUT)
        except Exception as defect:
            # Imported here because it brings in PyTorch, which takes seconds.
            from tilepress.kernels.errors import TilepressError

            if isinstance(defect, TilepressError):
                _fail(str(defect), BAD_INPUT)
            if os.environ.get("TILEPRESS_DEBUG"):
                raise
            what = f"{type(defect).__name__}: {defect}"
            _fail(f"this is a defect of tilepress ({what}); TILEPRESS_DEBUG=1 shows where", DEFECT)

    return app.command()(run)


def _fail(sentence: str, code: int) -> NoReturn:
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"tilepress: {sentence}", markup=False)
    raise typer.Exit(code)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> None:
    """A table whose first `text_columns` columns are left-aligned words, the others right-aligned figures."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < text_columns else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    _console().print(table, markup=False)


@contextmanager
def _progress(title: str, quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
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


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


@command
def compress(
    source: SourceArgument,
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write; must not exist yet.")],
    codec: Annotated[
        str | None, typer.Option(help="Codec spec for the matrices of the blocks. Default: int:bits=4.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="File of rules, `pattern: codec spec`, instead of --codec.")
    ] = None,
    embeddings: Annotated[
        str | None,
        typer.Option(
            help="Codec spec for embeddings and head. Default: int:bits=8, or the codec if it is exact or bounded."
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Most bytes of the result, as 100MB, instead of --codec.")
    ] = None,
    bits: Annotated[float | None, typer.Option(help="Most bits per weight, instead of --codec.")] = None,
    max_kl: Annotated[
        float | None, typer.Option(help="Most KL divergence from the original, nats a token, instead of --codec.")
    ] = None,
    codecs: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Codecs that may be chosen for a budget, as int,trellis.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Tensors encoded at the same time. Default: processors, at most 4.")
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="Size of a shard, as 500MB or 5GB.")] = "5GB",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw an unfinished conversion away.")] = False,
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text of the kind that the model is for: a better result.")
    ] = None,
    calibration_tokens: Annotated[
        int | None, typer.Option(min=2, help="Most tokens of that text to use. Default: 16384.")
    ] = None,
    statistics: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the text's statistics are looked for, and kept.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compress a checkpoint. Run it again after an interruption: it goes on where it stopped."""
    from tilepress.compress.budget.budget import Budget
    from tilepress.compress.budget.candidates import competing
    from tilepress.compress.budget.conversion import BudgetCompressor
    from tilepress.compress.calibration.calibration import DEFAULT_CALIBRATION_TOKENS, Calibration
    from tilepress.compress.plan import make_plan
    from tilepress.compress.recipe import Recipe
    from tilepress.compress.sizes import parse_size
    from tilepress.formats.checkpoint import open_checkpoint

    rules = Recipe.read(recipe) if recipe is not None else None
    checkpoint = open_checkpoint(source)
    prepared = None
    if calibration is not None:
        tokens = calibration_tokens or DEFAULT_CALIBRATION_TOKENS
        prepared = Calibration.prepare(checkpoint, calibration, tokens, statistics)
    elif calibration_tokens is not None or statistics is not None:
        _fail("--calibration-tokens and --statistics belong to --calibration; name a text", BAD_INPUT)
    settings = _Settings(workers, restart, dry_run, as_json, quiet)
    shard_bytes = parse_size(max_shard_size)
    if size is not None or bits is not None or max_kl is not None:
        if codec is not None or recipe is not None or embeddings is not None:
            _fail("a budget chooses the codecs; leave out --codec, --recipe and --embeddings", BAD_INPUT)
        budget = Budget(parse_size(size) if size is not None else None, bits, max_kl)
        compressor = BudgetCompressor(
            checkpoint, budget, competing(codecs), calibration=prepared, max_shard_bytes=shard_bytes
        )
        measure = _divergence_from(source, prepared, calibration) if max_kl is not None else None
        _compress_to_budget(compressor, destination, measure, settings)
        return
    if codecs is not None:
        _fail("--codecs belongs to a budget: --size, --bits or --max-kl", BAD_INPUT)
    stage = prepared.stage if prepared else None
    plan = make_plan(checkpoint, codec, rules, embeddings, shard_bytes, stage)
    _compress_as_planned(checkpoint, plan, destination, prepared, settings)


@dataclass(frozen=True)
class _Settings:
    """Options of `compress` that say how, not what."""

    workers: int | None
    restart: bool
    dry_run: bool
    as_json: bool
    quiet: bool

    @property
    def shows_nothing(self) -> bool:
        return self.quiet or self.as_json


def _compress_as_planned(checkpoint: Any, plan: Any, destination: Path, calibration: Any, settings: _Settings) -> None:
    from tilepress.compress.pipeline import run_plan

    _tell(plan.notes, settings.quiet)
    if settings.dry_run:
        _show_plan(plan, settings.as_json)
        return
    with _steps(settings) as report:
        result = run_plan(
            checkpoint,
            plan,
            destination,
            workers=settings.workers,
            restart=settings.restart,
            calibration=calibration,
            report=report,
        )
    _tell(plan.advice, settings.quiet)
    _show_conversion(result, settings)


def _compress_to_budget(
    compressor: Any, destination: Path, measure: Callable[[Path], float] | None, settings: _Settings
) -> None:
    with _progress("plan", settings.shows_nothing) as show:
        plan = compressor.plan(destination, settings.restart, lambda what, done, total: show(done, total, what))
    _tell(plan.notes, settings.quiet)
    if settings.dry_run:
        _show_plan(plan.plan, settings.as_json, plan.damages)
        return
    how: Any = {"workers": settings.workers, "restart": settings.restart}
    with _steps(settings) as report:
        if measure is None:
            result = compressor.convert(destination, plan, report=report, **how)
        else:
            found = compressor.convert_within_kl(destination, plan, measure, report=report, **how)
            result = found.conversion
    if measure is not None:
        met = "as" if found.is_within else "NOT as"
        _tell([f"measured KL divergence {found.measured_kl:.4g}, {met} {compressor.budget} asks"], settings.quiet)
    _show_conversion(result, settings)


@contextmanager
def _steps(settings: _Settings) -> Iterator[Callable[[Any], None]]:
    """Progress of a conversion, tensor by tensor."""
    with _progress("compress", settings.shows_nothing) as show:
        yield lambda step: show(
            step.done_bytes, step.total_bytes, step.name or f"(resuming, {_megabytes(step.resumed_bytes)} were done)"
        )


def _show_conversion(result: Any, settings: _Settings) -> None:
    if settings.as_json:
        _print_json(vars(result) | {"path": str(result.path)})
    elif not settings.quiet:
        share = 100 * result.size_bytes / max(1, result.source_bytes)
        typer.echo(
            f"{result.path}: {_megabytes(result.size_bytes)}, {share:.1f} % of {_megabytes(result.source_bytes)}"
            + (f" ({result.resumed} tensors were there from an interrupted run)" if result.resumed else "")
        )


def _tell(notes: Sequence[str], quiet: bool) -> None:
    for note in notes if not quiet else ():
        typer.echo(f"note: {note}", err=True)


def _divergence_from(source: str, calibration: Any, text: Any) -> Callable[[Path], float]:
    """What measures a container's KL divergence from the source, on text that it was not calibrated with."""

    def measure(container: Path) -> float:
        from tilepress.runtime.comparison import divergence

        return divergence(source, container, calibration.held_out(text))

    return measure


def _show_plan(plan: Any, as_json: bool, predicted_kl: Mapping[str, float] | None = None) -> None:
    known = predicted_kl or {}
    rows = [
        {
            "name": tensor.slot.name,
            "codec": tensor.slot.params.spec(),
            "shape": list(tensor.slot.shape),
            "source_bytes": tensor.source_bytes,
            "predicted_bytes": tensor.predicted_bytes,
            "predicted_kl": known.get(tensor.slot.name),
        }
        for tensor in plan.tensors
    ]
    if as_json:
        _print_json({"source_bytes": plan.source_bytes, "predicted_bytes": plan.predicted_bytes, "tensors": rows})
        return
    _print_table(
        ("tensor", "codec", "shape", "source", "predicted", *(("predicted KL",) if known else ())),
        [
            (
                row["name"],
                row["codec"],
                " x ".join(map(str, row["shape"])),
                f"{row['source_bytes']:,}",
                f"{row['predicted_bytes']:,}",
                *((f"{known.get(row['name'], 0.0):.2g}",) if known else ()),
            )
            for row in rows
        ],
        text_columns=2,
    )
    share = 100 * plan.predicted_bytes / max(1, plan.source_bytes)
    typer.echo(f"{_megabytes(plan.source_bytes)} -> about {_megabytes(plan.predicted_bytes)} ({share:.1f} %)")


@command
def decompress(
    container: ContainerArgument,
    destination: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; must not exist yet.")],
    quiet: QuietOption = False,
) -> None:
    """Write an ordinary safetensors checkpoint again."""
    from tilepress.compress.decompress import decompress as run

    with _progress("decompress", quiet) as show:
        path = run(container, destination, lambda name, done, total: show(done, total, name))
    if not quiet:
        typer.echo(str(path))


@command
def inspect(
    container: ContainerArgument,
    tensors: Annotated[bool, typer.Option("--tensors", help="One line a tensor.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a compressed checkpoint holds, from its headers alone."""
    from tilepress.formats.summary import SUMMARY_HEADINGS, summarise

    summary = summarise(container)
    if as_json:
        _print_json(summary.as_dict(tensors))
        return
    lines = summary.tensors if tensors else summary.specs
    plan = summary.plan if tensors else None
    _print_table(
        (
            *(("tensor", "codec") if tensors else ("codec", "tensors")),
            *SUMMARY_HEADINGS,
            *(("predicted KL",) if plan else ()),
        ),
        [(*line.cells(), *((f"{plan.predicted_kl.get(line.name, 0.0):.2g}",) if plan else ())) for line in lines],
        text_columns=2 if tensors else 1,
    )
    typer.echo(
        f"{container}: {_megabytes(summary.size_bytes)}, {summary.bits_per_weight:.3f} bits a weight "
        f"(tensors of two or more dimensions), {summary.ratio:.2f} times smaller than "
        f"{_megabytes(summary.source_bytes)}"
    )
    if summary.plan is not None:
        _explain(summary.plan)


def _explain(plan: Any) -> None:
    """Say what a budget led to, and where the damage is."""
    total = sum(plan.predicted_kl.values())
    worst = sorted(plan.predicted_kl, key=lambda name: -plan.predicted_kl[name])[:3]
    shares = ", ".join(f"{name} {100 * plan.predicted_kl[name] / total:.0f} %" for name in worst) if total else "none"
    basis = f"predicted KL divergence {total:.3g} nats a token" if plan.is_measured else "planned without a text"
    typer.echo(
        f"made for {plan.budget}, {basis}; each byte went where it takes away most of it. Largest shares: {shares}"
    )


@command
def verify(
    container: ContainerArgument,
    against: Annotated[
        str | None, typer.Option(metavar="SRC", help="Also decode and compare with the original checkpoint.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check every byte against the checksums, and with --against every value against the original."""
    from tilepress.formats.checkpoint import open_checkpoint
    from tilepress.formats.container import Container
    from tilepress.formats.verification import missing_from, verify_headers, verify_tensor

    opened = Container.open(container)
    source = open_checkpoint(against) if against is not None else None
    findings = list(verify_headers(opened))
    total = sum(opened.stored_bytes(name) for name in opened)
    done = 0
    with _progress("verify", quiet or as_json) as show:
        for name in opened:
            findings.append(verify_tensor(opened, name, source))
            done += opened.stored_bytes(name)
            show(done, total, name)
    if source is not None:
        findings += missing_from(opened, source)
    problems = [finding for finding in findings if finding.problem]
    if as_json:
        _print_json({"tensors": len(opened.records), "problems": [vars(finding) for finding in problems]})
    elif not problems and not quiet:
        same = f", as it was made from {against}" if against is not None else ""
        typer.echo(f"{container}: all {len(opened.records)} tensors are whole{same}")
    for finding in problems if not as_json else []:
        typer.echo(f"tilepress: {finding.problem}", err=True)
    if problems:
        raise typer.Exit(BAD_INPUT)


def _without_bars_of_transformers() -> None:
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


@command
def compare(
    source: SourceArgument,
    candidates: Annotated[list[Path], typer.Argument(metavar="DST...", help="Compressed checkpoints.")],
    text: Annotated[
        Path | None, typer.Option(help="Text to predict. Default: Python's own language reference.")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Also write the rows as JSON.")] = None,
    tokens: Annotated[int | None, typer.Option(min=2, help="Most tokens to use.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Size against accuracy against speed, for the original and any number of compressed checkpoints."""
    from tilepress.runtime.comparison import compare as run
    from tilepress.runtime.comparison import headings, notes, table_rows

    _without_bars_of_transformers()
    if json_out is not None and not json_out.parent.is_dir():
        _fail(f"{json_out}: there is no folder {json_out.parent}", BAD_INPUT)
    with _progress("compare", quiet) as show:
        rows = run(source, candidates, text=text, tokens=tokens, report=show)
    if json_out is not None:
        json_out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    if not quiet:
        _print_table(headings(), table_rows(rows), text_columns=2)
        for note in notes(rows):
            typer.echo(note)


@command
def generate(
    container: ContainerArgument,
    prompt: Annotated[str, typer.Option(help="Text to go on from.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to write.")] = 100,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: always the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of probability to draw from.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the random draws.")] = 0,
    chat: Annotated[bool, typer.Option("--chat", help="Apply the model's chat template.")] = False,
) -> None:
    """Write text with a compressed model."""
    from tilepress.runtime.generation import open_for_generation, stream

    _without_bars_of_transformers()
    model, tokenizer = open_for_generation(container)
    pieces = stream(
        model,
        tokenizer,
        prompt,
        max_new_tokens,
        seed=seed,
        temperature=temperature,
        top_p=top_p,
        chat=chat,
    )
    for piece in pieces:
        typer.echo(piece, nl=False)
        sys.stdout.flush()
    typer.echo()


@command
def codecs(as_json: JsonOption = False) -> None:
    """List the codecs with their options."""
    from tilepress.kernels.catalogue import catalogue

    lines = catalogue()
    if as_json:
        _print_json([vars(line) for line in lines])
        return
    _print_table(
        ("codec", "options and defaults", "guarantee", "what it is"),
        [(line.name, line.options, line.guarantee, line.summary) for line in lines],
        text_columns=4,
    )


@command
def doctor(as_json: JsonOption = False) -> None:
    """Show versions, devices, and which kernel runs which codec on this machine."""
    from tilepress.runtime.doctor import examine

    report = examine()
    if as_json:
        _print_json(report)
        return
    for title, lines in report.items():
        _print_table((title, ""), [(key, str(value)) for key, value in lines.items()], text_columns=2)
        typer.echo()
