"""embedstore audit: does the model give the vectors that are stored?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options

if TYPE_CHECKING:
    from embedstore.auditing import AuditReport

_SHOWN = 20
_ID_SHOWN = 80


def audit(
    inputs: options.Inputs,
    model: options.Model,
    sample: Annotated[int, typer.Option("--sample", metavar="N", min=1, help="Sequences to compute again.")] = 100,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", min=0, help="Same seed, same sample. Default: drawn anew.", max=2**32 - 1),
    ] = None,
    store: options.StorePlace = None,
    name: options.Name = None,
    weights: options.Weights = None,
    precision: options.PrecisionChoice = None,
    long: options.LongChoice = None,
    max_length: options.MaxLength = None,
    pooling: options.PoolingChoice = None,
    device: options.Device = None,
    any_molecule: options.AnyMolecule = False,
    require_signed: options.RequireSigned = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compute some stored vectors again, and compare.

    Of the input's sequences that the store has, N are drawn. Exit code 1 if the model gives other vectors.
    """
    from embedstore.auditing import AuditOptions
    from embedstore.auditing import audit as audit_space
    from embedstore.library import open_store
    from embedstore.sequences import read
    from embedstore_cli.output import list_rejections, write_json

    records = read(inputs)
    choices = options.model_options(model, weights, precision, long, max_length, pooling)
    target = open_store(store).target(model, name=name, options=choices)
    report = audit_space(records, target, AuditOptions(sample, seed, device, any_molecule))
    if json:
        write_json(report.to_json())
    else:
        list_rejections(report.rejected, "rejected")
        list_rejections(report.failed, "the model has no vector for")
        _write_text(report, quiet=quiet)
    raise typer.Exit(0 if report.clean else 1)


def _write_text(report: AuditReport, *, quiet: bool) -> None:
    from embedstore.errors import plain
    from embedstore_cli.output import count, duration, notice, short, write_facts, write_line

    for each in report.differing[:_SHOWN]:
        signed = f", signed by {', '.join(each.signed_by)}" if each.signed_by else ""
        write_line(
            f"{plain(each.id, _ID_SHOWN) or each.key}: differs by {each.difference:.3g}, allowed {each.allowed:.3g} "
            f"(commit {short(each.commit)} of {each.created}{signed})"
        )
    if len(report.differing) > _SHOWN:
        notice(f"… and {len(report.differing) - _SHOWN:,} more; --json lists all")
    if quiet:
        return
    space = report.space
    write_facts(
        [
            ("space", f"{space.name} {short(space.id)} ({space.dim} × {space.dtype})"),
            ("sampled", f"{count(report.sampled)} of {count(report.held)} stored, seed {report.seed}"),
            ("matching", count(report.matching)),
            ("differing", count(len(report.differing))),
            ("largest difference", f"{report.largest_difference:.2g} of the vector's largest value"),
            ("took", duration(report.seconds)),
        ]
    )
