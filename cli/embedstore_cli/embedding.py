"""Embed and read: fill (compute and store what is missing), get (write vectors to a file)."""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore.interruption import exit_code, uninterrupted
from embedstore_cli.arguments import Inputs, Model
from embedstore_cli.context import FILLING, MODEL, OUTPUT, Context, shared
from embedstore_cli.output import count, duration, list_rejections, notice, short, write_facts, write_json
from embedstore_cli.progress import fill_shown

if TYPE_CHECKING:
    from embedstore.distributed import Shard
    from embedstore.filling import FillReport, SpaceTarget


@shared(FILLING, ["name"], MODEL, ["any_molecule"], OUTPUT)
def fill(
    context: Context,
    inputs: Inputs,
    model: Model,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="i/N", help="Only the i-th of N parts of the input, balanced: for job arrays."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what is missing, and estimate the time.")
    ] = False,
) -> None:
    """Embed the sequences that are missing from the store.

    What is stored already is not computed again: to go on after a stop, start the same command again. Several layers
    and poolings (--layer 6,20,-1 --pooling mean,max) are filled from one pass, each combination a space of its own.
    """
    from embedstore import filling
    from embedstore.sequences import read

    read(inputs)  # what cannot be opened is told before anything is made
    choices = context.options_of_levels(model)
    how, part = context.fill_options(any_molecule=context.any_molecule), _chosen_shard(shard, inputs)
    if dry_run:
        found = context.open_if_any()
        preview = partial(filling.preview, any_molecule=context.any_molecule, device=context.device)
        targets = [filling.find_target(found, model, each, context.name) for each in choices]
        reports = [_filled(preview, inputs, target, part, context.any_molecule) for target in targets]
    else:
        with fill_shown(quiet=context.quiet) as on_progress:
            targets = context.targets_to_fill(model)
            if len(targets) == 1:
                compute = partial(filling.fill, options=how, on_progress=on_progress)
                reports = [_filled(compute, inputs, targets[0], part, context.any_molecule)]
            elif part is not None:
                raise typer.BadParameter("--shard: expected one layer and one pooling")
            else:
                reports = filling.fill_together(read(inputs), targets, how, on_progress=on_progress)
    with uninterrupted():  # who is told to stop now gets the whole report
        _show(context, reports)
    if reports[0].signal is not None:
        raise typer.Exit(exit_code(reports[0].signal))
    raise typer.Exit(0 if all(report.complete for report in reports) else 3)


def _show(context: Context, reports: Sequence[FillReport]) -> None:
    """Write the report of each space; what was rejected or failed is the same for all, and listed once."""
    if context.json:
        documents = [report.to_json() for report in reports]
        write_json(documents[0] if len(documents) == 1 else {"spaces": documents})
        return
    list_rejections(reports[0].rejected, "rejected")
    list_rejections(reports[0].failed, "failed")
    if not context.quiet:
        for report in reports:
            _write_report(report)


def _chosen_shard(text: str | None, inputs: Sequence[str]) -> Shard | None:
    """Return the shard that the option names; its input must be such that it can be read twice."""
    if text is None:
        return None
    from embedstore.distributed import Shard
    from embedstore.errors import InputError

    shard = Shard.from_text(text)
    for name in inputs:
        if name == "-" or not stat.S_ISREG(Path(name).stat().st_mode):
            raise InputError(
                f"Cannot fill a shard of {'standard input' if name == '-' else name}: expected files, since a shard is "
                "found by reading the whole input twice, found a stream. Write it to a file first."
            )
    return shard


def _filled(
    fill: Callable[..., FillReport], inputs: Sequence[str], target: SpaceTarget, shard: Shard | None, any_molecule: bool
) -> FillReport:
    """Fill from all records of the input, or from those of a shard; `fill` takes records, the target, and `only`."""
    from embedstore.sequences import read

    if shard is None:
        return fill(read(inputs), target)
    from embedstore.distributed import fill_shard

    return fill_shard(
        lambda: read(inputs),
        target,
        shard,
        lambda records, only: fill(records, target, only=only),
        any_molecule=any_molecule,
    )


def _write_report(report: FillReport) -> None:
    space = report.space
    facts = [
        ("space", f"{space.name} {short(space.id)} ({space.dim} × {space.dtype})"),
        ("read", f"{count(report.read)} records, {count(report.unique)} distinct sequences"),
        ("stored before", count(report.hits)),
    ]
    if report.dry_run is not None:
        seconds = report.dry_run.estimated_seconds
        estimate = "unknown time" if seconds is None else f"about {duration(seconds)}"
        facts.append(("to compute", f"{count(report.dry_run.misses)}, {estimate}"))
    else:
        facts.append(("computed", f"{count(report.computed)} in {duration(report.compute_seconds)}"))
    if report.rejected or report.failed:
        facts.append(("rejected, failed", f"{count(len(report.rejected))}, {count(len(report.failed))} records"))
    facts.append(("took", duration(report.seconds)))
    if report.interrupted:
        facts.append(("interrupted", f"by {report.signal}; what was computed is stored; the same command continues"))
    write_facts(facts)


def _exportable(path: Path) -> Path:
    from embedstore.errors import plain
    from embedstore.export import SUFFIXES

    if path.suffix not in SUFFIXES:
        raise typer.BadParameter(f"{plain(path)} ends in none of {', '.join(SUFFIXES)}")
    return path


@shared(FILLING, ["pin", "name"], MODEL, ["any_molecule"], OUTPUT)
def get(
    context: Context,
    inputs: Inputs,
    model: Model,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="X.npz|.h5|.zarr", help="What to write: ids, keys, X.", callback=_exportable
        ),
    ],
    fill: Annotated[bool, typer.Option("--fill", help="First compute and store what is missing.")] = False,
) -> None:
    """Write the vectors of sequences to a file.

    A row a record, in the order of the input.
    """
    from embedstore.errors import InputError
    from embedstore.export import check_path, export
    from embedstore.retrieval import fill_and_retrieve, retrieve
    from embedstore.sequences import read

    check_path(output)
    records = read(inputs)
    choices, quiet = context.model_options(model), context.quiet
    if fill and context.pin is not None:
        raise InputError("Cannot fill what is read as it was pinned: leave out --fill or --pin.")
    if fill:
        with fill_shown(quiet=quiet) as on_progress:
            target = context.target_to_fill(model)
            how = context.fill_options(any_molecule=context.any_molecule)
            found = fill_and_retrieve(records, target, how, on_progress=on_progress)
    else:
        target = context.open().target(model, name=context.name, options=choices)
        found = retrieve(records, target, any_molecule=context.any_molecule)
    export(found, output)
    if context.json:
        write_json({"output": str(output), **found.to_json()})
    else:
        list_rejections(found.rejected, "rejected")
        list_rejections(found.failed, "failed")
        if not quiet:
            notice(f"Wrote {count(len(found))} × {count(found.recipe.dim)} {found.recipe.dtype} to {output}.")
    raise typer.Exit(3 if found.rejected or found.failed else 0)
