"""embedstore gc: remove what nothing needs."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from embedstore_cli import options, quantities


def gc(
    store: options.StorePlace = None,
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
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Evict without asking.")] = False,
    json: options.Json = False,
) -> None:
    """Remove what nothing needs: merged segments, what stopped processes left.

    The first run after something became unneeded notes it, a run after the grace period removes it.
    """
    from embedstore.library import open_store
    from embedstore.upkeep import collect
    from embedstore_cli.output import confirm, count, size, write_json, write_line

    opened = open_store(store, upstream=())
    collected = partial(
        collect,
        opened.storage,
        grace_s=quantities.seconds(grace),
        older_than_s=None if older_than is None else quantities.seconds(older_than),
        max_size_bytes=None if max_size is None else quantities.size_bytes(max_size),
        members=opened.trust.members,
    )
    if not dry_run and not yes and max_size is not None:
        evicted = collected(dry_run=True)
        if evicted.evicted_rows:
            confirm(f"Evict {count(evicted.evicted_rows)} vectors, {size(evicted.evicted_bytes)}")
    report = collected(dry_run=dry_run)
    if json:
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
