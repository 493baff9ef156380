"""The command `compress`: what it takes, and what it shows before, meanwhile and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tilepress.terminal import JsonOption, QuietOption, SourceArgument, megabytes, print_json, print_table, progress


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
    gradients: Annotated[
        bool, typer.Option("--gradients", help="Weight that text by what errors cost: better still.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compress a checkpoint. Run it again after an interruption: it goes on where it stopped."""
    from tilepress.compress.sizes import parse_size
    from tilepress.conversion import prepare

    job = prepare(
        source,
        codec,
        recipe=recipe,
        embeddings=embeddings,
        size=size,
        bits=bits,
        max_kl=max_kl,
        codecs=codecs,
        calibration=calibration,
        calibration_tokens=calibration_tokens,
        statistics=statistics,
        gradients=gradients,
        max_shard_bytes=parse_size(max_shard_size),
    )
    with progress("plan", quiet or as_json) as show:
        planned = job.plan(destination, restart=restart, show=lambda what, done, total: show(done, total, what))
    _tell(planned.notes, quiet)
    if not quiet and not as_json:
        seconds = job.predict_seconds(planned, workers)
        _tell([f"about {_duration(seconds)} on this machine"] if seconds is not None else [], quiet)
    if dry_run:
        _show_plan(planned.plan, as_json, planned.predicted_kl)
        return
    with progress("compress", quiet or as_json) as show:
        result = job.run(
            destination,
            planned,
            workers=workers,
            restart=restart,
            report=lambda step: show(
                step.done_bytes, step.total_bytes, step.name or f"(resuming, {megabytes(step.resumed_bytes)} were done)"
            ),
        )
    if max_kl is not None and result.measured_kl is not None:
        met = "as" if result.measured_kl <= max_kl else "NOT as"
        _tell([f"measured KL divergence {result.measured_kl:.4g}, {met} --max-kl {max_kl:g} asks"], quiet)
    _tell(planned.plan.advice, quiet)
    _show_conversion(result, as_json, quiet)


def _show_conversion(result: Any, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(vars(result) | {"path": str(result.path)})
    elif not quiet:
        share = 100 * result.size_bytes / max(1, result.source_bytes)
        typer.echo(
            f"{result.path}: {megabytes(result.size_bytes)}, {share:.1f} % of {megabytes(result.source_bytes)}"
            + (f" ({result.resumed} tensors were there from an interrupted run)" if result.resumed else "")
        )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _tell(notes: Sequence[str], quiet: bool) -> None:
    for note in notes if not quiet else ():
        typer.echo(f"note: {note}", err=True)


def _show_plan(plan: Any, as_json: bool, known: Mapping[str, float]) -> None:
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
        print_json({"source_bytes": plan.source_bytes, "predicted_bytes": plan.predicted_bytes, "tensors": rows})
        return
    print_table(
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
    typer.echo(f"{megabytes(plan.source_bytes)} -> about {megabytes(plan.predicted_bytes)} ({share:.1f} %)")
