"""embedstore fill: compute and store what is missing from a space."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore.interruption import exit_code, uninterrupted
from embedstore_cli import options, workers

if TYPE_CHECKING:
    from embedstore.filling import FillReport


def fill(
    inputs: options.Inputs,
    model: options.Model,
    store: options.StorePlace = None,
    upstream: options.Upstream = None,
    pull_through: options.PullThrough = False,
    name: options.Name = None,
    weights: options.Weights = None,
    precision: options.PrecisionChoice = None,
    long: options.LongChoice = None,
    max_length: options.MaxLength = None,
    pooling: options.PoolingChoice = None,
    device: options.Device = None,
    any_molecule: options.AnyMolecule = False,
    count: workers.Count = None,
    scheduler: workers.Scheduler = None,
    cluster: workers.Cluster = None,
    shard: workers.ShardText = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what is missing, and estimate the time.")
    ] = False,
    sign_with: options.SignWith = None,
    require_signed: options.RequireSigned = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Embed the sequences that are missing from the store.

    What is stored already is not computed again: to go on after a stop, start the same command again.
    """
    from embedstore import filling
    from embedstore.sequences import read
    from embedstore_cli import places
    from embedstore_cli.output import write_json
    from embedstore_cli.progress import shown

    read(inputs)  # what cannot be opened is told before anything is made
    choices = options.model_options(model, weights, precision, long, max_length, pooling)
    compute, part = workers.chosen_fill(count, scheduler, cluster), workers.chosen_shard(shard, inputs)
    how = options.fill_options(device, any_molecule)
    if dry_run:
        target = filling.find_target(places.store_if_any(store), model, choices, name)
        preview = partial(filling.preview, any_molecule=any_molecule, device=device)
        report = workers.fill_input(preview, inputs, target, part, any_molecule)
    else:
        target = places.target_to_fill(store, model, choices, name, quiet=quiet)
        with shown(quiet=quiet, molecule=target.recipe.molecule) as on_progress:
            compute = partial(compute, options=how, on_progress=on_progress)
            report = workers.fill_input(compute, inputs, target, part, any_molecule)
    with uninterrupted():  # who is told to stop now gets the whole report
        if json:
            write_json(report.to_json())
        else:
            _write_text(report, quiet=quiet)
    if report.signal is not None:
        raise typer.Exit(exit_code(report.signal))
    raise typer.Exit(0 if report.complete else 3)


def _write_text(report: FillReport, *, quiet: bool) -> None:
    from embedstore_cli.output import count, duration, list_rejections, short, write_facts

    list_rejections(report.rejected, "rejected")
    list_rejections(report.failed, "failed")
    if quiet:
        return
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
        facts.append(("interrupted", f"by {report.signal}; what was computed is stored; the same command goes on"))
    write_facts(facts)
