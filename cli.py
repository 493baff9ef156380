"""The command line: every command of `tilepress`; that of `compress` has a module of its own.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 a defect of tilepress,
2 bad input or a failed check, 130 interrupted.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

from tilepress.cli_compress import compress
from tilepress.terminal import (
    BAD_INPUT,
    DEFECT,
    INTERRUPTED,
    ContainerArgument,
    JsonOption,
    QuietOption,
    SourceArgument,
    fail,
    megabytes,
    print_json,
    print_table,
    progress,
)

app = typer.Typer(
    name="tilepress",
    help="Compress Transformers checkpoints, run them compressed, and see what it costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Arguments = ParamSpec("Arguments")


def command(function: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Register a command whose errors become one sentence and an exit code."""

    @functools.wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except KeyboardInterrupt:
            fail("interrupted; run the same command again to go on", INTERRUPTED)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except OSError as problem:
            fail(f"{problem.filename or 'a file'}: {problem.strerror or problem}", BAD_INPUT)
        except Exception as defect:
            # Imported here because it brings in PyTorch, which takes seconds.
            from tilepress.kernels.errors import TilepressError

            if isinstance(defect, TilepressError):
                fail(str(defect), BAD_INPUT)
            if os.environ.get("TILEPRESS_DEBUG"):
                raise
            what = f"{type(defect).__name__}: {defect}"
            fail(f"this is a defect of tilepress ({what}); TILEPRESS_DEBUG=1 shows where", DEFECT)

    return app.command()(run)


command(compress)


@command
def decompress(
    container: ContainerArgument,
    destination: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; must not exist yet.")],
    quiet: QuietOption = False,
) -> None:
    """Write an ordinary safetensors checkpoint again."""
    from tilepress.compress.decompress import decompress as run

    with progress("decompress", quiet) as show:
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
        print_json(summary.as_dict(tensors))
        return
    lines = summary.tensors if tensors else summary.specs
    plan = summary.plan if tensors else None
    print_table(
        (
            *(("tensor", "codec") if tensors else ("codec", "tensors")),
            *SUMMARY_HEADINGS,
            *(("predicted KL",) if plan else ()),
        ),
        [(*line.cells(), *((f"{plan.predicted_kl.get(line.name, 0.0):.2g}",) if plan else ())) for line in lines],
        text_columns=2 if tensors else 1,
    )
    typer.echo(
        f"{container}: {megabytes(summary.size_bytes)}, {summary.bits_per_weight:.3f} bits a weight "
        f"(tensors of two or more dimensions), {summary.ratio:.2f} times smaller than "
        f"{megabytes(summary.source_bytes)}"
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
    with progress("verify", quiet or as_json) as show:
        for name in opened:
            findings.append(verify_tensor(opened, name, source))
            done += opened.stored_bytes(name)
            show(done, total, name)
    if source is not None:
        findings += missing_from(opened, source)
    problems = [finding for finding in findings if finding.problem]
    if as_json:
        print_json({"tensors": len(opened.records), "problems": [vars(finding) for finding in problems]})
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
        fail(f"{json_out}: there is no folder {json_out.parent}", BAD_INPUT)
    with progress("compare", quiet) as show:
        rows = run(source, candidates, text=text, tokens=tokens, report=show)
    if json_out is not None:
        json_out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    if not quiet:
        print_table(headings(), table_rows(rows), text_columns=2)
        for note in notes(rows):
            typer.echo(note)


@command
def bench(
    models: Annotated[list[str], typer.Argument(metavar="DST...", help="Compressed or uncompressed checkpoints.")],
    peers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="llama.cpp: it runs the GGUF files among DST, or else files of 4 bits that it makes of the first one.",
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the processor. Default: PyTorch's.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Time models in turns: loading, a prompt, token after token; and see how much of a token is native code."""
    import torch

    from tilepress.runtime.bench import HEADINGS
    from tilepress.runtime.bench import bench as run

    _without_bars_of_transformers()
    if threads is not None:
        torch.set_num_threads(threads)
    with progress("bench", quiet or as_json) as show:
        rows = run(models, peers or (), show)
    if as_json:
        print_json([vars(row) for row in rows])
    elif not quiet:
        print_table(HEADINGS, [row.cells() for row in rows], text_columns=2)


@command
def generate(
    container: ContainerArgument,
    prompt: Annotated[str, typer.Option(help="Text to go on from.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to write.")] = 100,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: always the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of probability to draw from.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the random draws.")] = 0,
    chat: Annotated[bool, typer.Option("--chat", help="Apply the model's chat template.")] = False,
    kv: Annotated[str | None, typer.Option(metavar="SPEC", help="Codec of the KV cache, such as int:bits=4.")] = None,
) -> None:
    """Write text with a compressed model."""
    from tilepress.runtime.generation import open_for_generation, stream

    _without_bars_of_transformers()
    model, tokenizer = open_for_generation(container, kv)
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
        print_json([vars(line) for line in lines])
        return
    print_table(
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
        print_json(report)
        return
    for title, lines in report.items():
        print_table((title, ""), [(key, str(value)) for key, value in lines.items()], text_columns=2)
        typer.echo()
