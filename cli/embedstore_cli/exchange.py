"""Share a store: push, pull, sync (copy what is missing), publish-index (let a web server show the store)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from embedstore_cli.context import OUTPUT, Context, shared
from embedstore_cli.output import count, notice, size, write_json, write_table
from embedstore_cli.progress import Lines

if TYPE_CHECKING:
    from embedstore.sharing import CopyReport, SpaceCopy

_COPYING = ("store", "sign_with", "require_signed", *OUTPUT)

FarStore = Annotated[str, typer.Argument(metavar="PATH|URL", help="The far store.", show_default=False)]
Spaces = Annotated[
    list[str] | None,
    typer.Option(
        "--space", metavar="NAME", help="Only this space; may be given several times. Default: all.", show_default=False
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count what is missing.")]


@shared(_COPYING)
def push(context: Context, far: FarStore, space: Spaces = None, dry_run: DryRun = False) -> None:
    """Copy to another store what is missing from it.

    Everything is checked on the way. To go on after a stop, start the same command again.
    """
    _copy("push", context, far, space, dry_run=dry_run)


@shared(_COPYING)
def pull(context: Context, far: FarStore, space: Spaces = None, dry_run: DryRun = False) -> None:
    """Copy from another store what is missing from yours.

    Everything is checked on the way. To go on after a stop, start the same command again.
    """
    _copy("pull", context, far, space, dry_run=dry_run)


@shared(_COPYING)
def sync(context: Context, far: FarStore, space: Spaces = None, dry_run: DryRun = False) -> None:
    """Copy in both directions what is missing.

    Everything is checked on the way. To go on after a stop, start the same command again.
    """
    _copy("sync", context, far, space, dry_run=dry_run)


@shared(["store", "json"])
def publish_index(context: Context) -> None:
    """Write index.json, so that any web server can show it.

    Then the store can be read by its URL. Run it again after each fill.
    """
    from embedstore import library

    published = library.publish_index(context.store)
    if context.json:
        write_json(published.to_json())
    else:
        notice(f"Listed {count(published.files)} files, {size(published.listed_bytes)}, in {published.location}.")


def _copy(
    direction: Literal["push", "pull", "sync"],
    context: Context,
    far: str,
    spaces: list[str] | None,
    *,
    dry_run: bool,
) -> None:
    """Copy, say what was copied, and end the command: with exit code 1 if something could not be.

    What is copied to is made where it is not there, in the format of what is copied from.
    """
    from embedstore import sharing

    if direction == "push":
        near = context.open_own()
        there = context.open_at(far, create=not dry_run, segment_format=near.segment_format)
    else:
        there = context.open_at(far)
        near = context.open_own(create=not dry_run, segment_format=there.segment_format)
    lines = Lines(quiet=context.quiet)

    def show(space: SpaceCopy) -> None:
        lines.show(f"{space.direction} {space.name}: {count(space.copied)} vectors, {size(space.size_bytes)}")

    copy = {"push": sharing.push, "pull": sharing.pull, "sync": sharing.sync}[direction]
    report = copy(near, there, spaces or (), dry_run=dry_run, on_copied=show)
    if context.json:
        write_json(report.to_json())
    else:
        if not context.quiet:
            _write_copied(report)
        for space in report.spaces:
            for problem in space.problems:
                notice(f"not copied ({space.direction} {space.name}): {problem.file}: {problem.reason}")
    raise typer.Exit(0 if report.complete else 1)


def _write_copied(report: CopyReport) -> None:
    copied = ">to copy" if report.dry_run else ">copied"
    rows = [
        [space.direction, space.name, count(space.copied), count(space.skipped), size(space.size_bytes)]
        for space in report.spaces
    ]
    if rows:
        write_table(("", "space", copied, ">there already", ">size"), rows)
    else:
        notice("There is nothing to copy: no spaces yet.")
