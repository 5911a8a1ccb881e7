"""What push, pull and sync share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli.output import count, notice, size, write_json, write_table

if TYPE_CHECKING:
    from embedstore.sharing import CopyReport, SpaceCopy

_LINE_EVERY_S = 30.0

FarStore = Annotated[str, typer.Argument(metavar="PATH|URL", help="The far store.", show_default=False)]
Spaces = Annotated[
    list[str] | None,
    typer.Option(
        "--space", metavar="NAME", help="Only this space; may be given several times. Default: all.", show_default=False
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count what is missing.")]


class Lines:
    """Says every now and then on standard error how far a copy is."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._said = time.monotonic()

    def show(self, space: SpaceCopy) -> None:
        now = time.monotonic()
        if not self._quiet and now - self._said >= _LINE_EVERY_S:
            self._said = now
            notice(f"{space.direction} {space.name}: {count(space.copied)} vectors, {size(space.size_bytes)}")


def write(report: CopyReport, *, json: bool, quiet: bool) -> None:
    """Say what was copied, and end the command: with exit code 1 if something could not be."""
    if json:
        write_json(report.to_json())
    else:
        if not quiet:
            _write_text(report)
        for space in report.spaces:
            for problem in space.problems:
                notice(f"not copied ({space.direction} {space.name}): {problem.file}: {problem.reason}")
    raise typer.Exit(0 if report.complete else 1)


def _write_text(report: CopyReport) -> None:
    copied = ">to copy" if report.dry_run else ">copied"
    rows = [
        [space.direction, space.name, count(space.copied), count(space.skipped), size(space.size_bytes)]
        for space in report.spaces
    ]
    if rows:
        write_table(("", "space", copied, ">there already", ">size"), rows)
    else:
        notice("There is nothing to copy: no spaces yet.")
