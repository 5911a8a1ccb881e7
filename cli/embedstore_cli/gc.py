"""embedstore gc: remove what nothing needs."""

from __future__ import annotations

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
            help="How long something stays after it was found to be needless: 12h, 7d. 0: only if nobody is at work.",
        ),
    ] = "7d",
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="DURATION", help="Give up vectors computed longer ago, unless pinned."),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option("--max-size", metavar="SIZE", help="Give up the oldest vectors beyond it, unless pinned: 500GB."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    json: options.Json = False,
) -> None:
    """Remove what nothing needs: merged segments, what stopped processes left.

    The first run after something became needless notes it, a run after the grace period removes it.
    """
    from embedstore.library import open_store
    from embedstore.maintenance import collect
    from embedstore_cli.output import count, size, write_json, write_line

    opened = open_store(store)
    report = collect(
        opened.storage,
        grace_s=quantities.seconds(grace),
        older_than_s=None if older_than is None else quantities.seconds(older_than),
        max_size_bytes=None if max_size is None else quantities.size_bytes(max_size),
        dry_run=dry_run,
        members=opened.trust.members,
    )
    if json:
        write_json(report.to_json())
        return
    would = "would be " if dry_run else ""
    if report.evicted_rows:
        write_line(f"{count(report.evicted_rows)} vectors {would}given up, {size(report.evicted_bytes)}.")
    write_line(f"{count(report.removed_files)} files {would}removed, {size(report.removed_bytes)}.")
    if report.waiting_files:
        write_line(f"{count(report.waiting_files)} wait for the end of the grace period, {size(report.waiting_bytes)}.")
    for damaged in report.damaged:
        write_line(f"{damaged} is damaged: nothing that it may need was removed. Run `embedstore verify --repair`.")
