"""Check and clean up: verify, audit, doctor, selftest, compact, gc."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore.errors import plain
from embedstore_cli import arguments
from embedstore_cli.context import MODEL, OUTPUT, Context, shared
from embedstore_cli.output import (
    confirm,
    count,
    duration,
    list_rejections,
    notice,
    of_each_space,
    short,
    size,
    write_facts,
    write_json,
    write_line,
)

if TYPE_CHECKING:
    from embedstore.auditing import AuditReport
    from embedstore.doctor import Diagnosis, Finding

_SHOWN = 20
_ID_SHOWN = 80
_WIDTH = 100
_INDENT = " " * 8


@shared(["store", "sign_with", "require_signed", "json"])
def verify(
    context: Context,
    deep: Annotated[bool, typer.Option("--deep", help="Read and check every byte.")] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Remove what is damaged, keep the rest; the next fill computes what was lost."),
    ] = False,
) -> None:
    """Check that everything is there, and undamaged.

    Exit code 1 if something is missing or damaged.
    """
    from embedstore.library import verify_store

    if repair:
        _repair(context)
    report = verify_store(context.store, deep=deep, require_signed=context.require_signed)
    if context.json:
        write_json(report.to_json())
    else:
        for problem in report.problems:
            write_line(f"{problem.file}: {problem.reason}")
        for unchecked in report.unchecked:
            write_line(f"{unchecked.file}: not checked, {unchecked.reason}")
        for orphan in report.orphans:
            write_line(f"{orphan}: nothing refers to it (left by a stopped process; harmless)")
        state = "Clean" if report.clean else f"Problems: {count(len(report.problems))}"
        notice(f"{state}; checked {count(report.checked_files)} files, {size(report.checked_bytes)}.")
    raise typer.Exit(0 if report.clean else 1)


def _repair(context: Context) -> None:
    from embedstore.library import repair_store

    report = repair_store(context.store, sign_with=context.sign_with, require_signed=context.require_signed)
    if context.json:
        write_json(report.to_json())
    else:
        for problem in report.removed:
            write_line(f"removed {problem.file}: {problem.reason}")
        for problem in report.left:
            write_line(f"left {problem.file}: {problem.reason}")
        lost, kept = count(report.rows_lost), count(report.rows_kept)
        notice(f"{lost} vectors are lost, the next fill computes them; {kept} beside them were kept.")
    raise typer.Exit(1 if report.left else 0)


@shared(["store", "name"], MODEL, ["any_molecule", "require_signed"], OUTPUT)
def audit(
    context: Context,
    inputs: arguments.Inputs,
    model: arguments.Model,
    sample: Annotated[int, typer.Option("--sample", metavar="N", min=1, help="Sequences to compute again.")] = 100,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", min=0, help="Same seed, same sample. Default: a new one.", max=2**32 - 1),
    ] = None,
) -> None:
    """Compute some stored vectors again, and compare.

    Of the input's sequences that the store has, N are drawn. Exit code 1 if the model gives other vectors.
    """
    from embedstore.auditing import AuditOptions
    from embedstore.auditing import audit as audit_space
    from embedstore.sequences import read

    records = read(inputs)
    choices = context.model_options(model)
    target = context.open_own().target(model, name=context.name, options=choices)
    report = audit_space(records, target, AuditOptions(sample, seed, context.device, context.any_molecule))
    if context.json:
        write_json(report.to_json())
    else:
        list_rejections(report.rejected, "rejected")
        list_rejections(report.failed, "the model has no vector for")
        _write_audited(report, quiet=context.quiet)
    raise typer.Exit(0 if report.clean else 1)


def _write_audited(report: AuditReport, *, quiet: bool) -> None:
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


@shared(["store", "json"])
def doctor(
    context: Context,
    place: Annotated[
        str | None,
        typer.Argument(metavar="STORE", help="Folder or URL, in place of --store.", show_default=False),
    ] = None,
) -> None:
    """Look at a store, its file system and this machine.

    Says what is fine, what to note (warn) and what must be fixed first (fail). Exit code 1 if something fails.
    """
    from embedstore.doctor import diagnose
    from embedstore.library import default_place

    if place is not None and context.store is not None:
        raise typer.BadParameter("give STORE or --store, not both")
    store = context.store if place is None else place
    diagnosis = diagnose(default_place() if store is None else store)
    if context.json:
        write_json(diagnosis.to_json())
    else:
        _write_diagnosis(diagnosis)
    raise typer.Exit(0 if diagnosis.healthy else 1)


def _write_diagnosis(diagnosis: Diagnosis) -> None:
    """Write one page: a line a finding, what to do below it."""
    _write_findings(diagnosis.location, diagnosis.findings)
    states = [finding.state for finding in diagnosis.findings]
    looked = f"Looked at {len(states)} things in {duration(diagnosis.seconds)}"
    notice(f"{looked}: {states.count('warn')} to note, {states.count('fail')} to fix.")


def _write_findings(title: str, findings: Sequence[Finding]) -> None:
    write_line(title)
    for group in dict.fromkeys(finding.group for finding in findings):
        print(f"\n{plain(group)}")
        for finding in findings:
            if finding.group == group:
                _write_wrapped(f"  {finding.state:<4}  ", f"{finding.check}: {finding.found}")
                if finding.advice:
                    _write_wrapped(f"{_INDENT}→ ", finding.advice)


def _write_wrapped(start: str, text: str) -> None:
    from textwrap import wrap

    lines = wrap(plain(text), _WIDTH - len(start), break_long_words=False, break_on_hyphens=False)
    print(start + f"\n{' ' * len(start)}".join(lines))


@shared(["store", "require_signed", "weights", "device", "json"])
def selftest(context: Context, model: arguments.OptionalModel = None) -> None:
    """Try whether models compute right on this machine.

    For a new machine, and after an upgrade of torch or a driver. Runs two tiny models, and the one that is named:
    compares numbers, provokes what may go wrong, measures the speed. Exit code 1 if stores should not be filled here.
    """
    from embedstore.doctor.selftest import selftest as examine

    if model is None and context.weights:
        raise typer.BadParameter("give --model with --weights")
    weights = None if model is None else context.model_options(model).weights
    store = None if model is None else context.open_if_any()
    found = examine(context.device, model, weights, store=store)
    if context.json:
        write_json(found.to_json())
    else:
        _write_findings(found.device, found.findings)
        print()
        write_line(found.verdict)
        notice(f"Took {duration(found.seconds)}.")
    raise typer.Exit(0 if found.healthy else 1)


@shared(["store", "sign_with", "require_signed", "json"])
def compact(
    context: Context,
    spaces: Annotated[
        list[str] | None, typer.Argument(metavar="SPACE", help="Names or ids. Default: all.", show_default=False)
    ] = None,
) -> None:
    """Merge the segments of spaces into few.

    Others may read and fill meanwhile. Fills do this by themselves when there are many small segments. What was merged
    is removed by `gc`. Exit code 1 if a segment or a space cannot be read and was left as it is.
    """
    from embedstore.upkeep import compact

    opened = context.open_own()
    chosen = [opened.space(name) for name in spaces] if spaces else opened.spaces()
    reports = list(of_each_space(opened, chosen, compact))
    if context.json:
        write_json({"spaces": [report.to_json() for report in reports]})
    else:
        for report in reports:
            written = f"; {count(report.rows)} rows, {size(report.size_bytes)} written" if report.rows else ""
            write_line(
                f"{report.space}: {count(report.segments_before)} → {count(report.segments_after)} segments{written}"
            )
            for damaged in report.damaged:
                notice(damaged)
    untouched = len(reports) < len(chosen) or (not spaces and opened.unreadable)
    raise typer.Exit(1 if untouched or any(report.damaged for report in reports) else 0)


@shared(["store", "require_signed", "yes", "json"])
def gc(
    context: Context,
    grace: Annotated[
        str,
        typer.Option(
            "--grace",
            metavar="DURATION",
            help="How long something stays after it was found unneeded: 12h, 7d. 0: only if nobody is at work.",
        ),
    ] = "7d",
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="DURATION", help="Evict vectors computed longer ago, unless pinned."),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option("--max-size", metavar="SIZE", help="Evict the oldest vectors beyond it, unless pinned: 500GB."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove what nothing needs any more.

    Segments that were merged, and what stopped processes left. The first run after something
    became unneeded notes it, a run after the grace period removes it.
    """
    from embedstore.upkeep import collect

    opened = context.open_own()
    collected = partial(
        collect,
        opened.storage,
        grace_s=arguments.seconds(grace),
        older_than_s=None if older_than is None else arguments.seconds(older_than),
        max_size_bytes=None if max_size is None else arguments.size_bytes(max_size),
        members=opened.trust.members,
    )
    if not dry_run and not context.yes and max_size is not None:
        evicted = collected(dry_run=True)
        if evicted.evicted_rows:
            confirm(f"Evict {count(evicted.evicted_rows)} vectors, {size(evicted.evicted_bytes)}")
    report = collected(dry_run=dry_run)
    if context.json:
        write_json(report.to_json())
        return
    would = "would be " if dry_run else ""
    if report.evicted_rows:
        write_line(f"{count(report.evicted_rows)} vectors {would}evicted, {size(report.evicted_bytes)}.")
    write_line(f"{count(report.removed_files)} files {would}removed, {size(report.removed_bytes)}.")
    if report.waiting_files:
        write_line(f"{count(report.waiting_files)} wait for the end of the grace period, {size(report.waiting_bytes)}.")
    for damaged in report.damaged:
        write_line(f"{damaged} cannot be read: nothing that it may need was removed. Run `embedstore verify`.")
