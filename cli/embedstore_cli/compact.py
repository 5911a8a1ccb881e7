"""embedstore compact: merge segments into few."""

from __future__ import annotations

from typing import Annotated

import typer

from embedstore_cli import options


def compact(
    spaces: Annotated[
        list[str] | None, typer.Argument(metavar="[SPACE...]", help="Names or ids. Default: all.", show_default=False)
    ] = None,
    store: options.StorePlace = None,
    sign_with: options.SignWith = None,
    json: options.Json = False,
) -> None:
    """Merge the segments of spaces into few; others may read and fill meanwhile.

    Fills do this by themselves when there are many small segments. What was merged is removed by `gc`.
    Exit code 1 if a segment or a space cannot be read and was left as it is.
    """
    from embedstore.library import open_store
    from embedstore.upkeep import compact
    from embedstore_cli import places
    from embedstore_cli.output import count, notice, size, write_json, write_line

    opened = open_store(store, sign_with=sign_with, upstream=())
    chosen = [opened.space(name) for name in spaces] if spaces else opened.spaces()
    reports = list(places.of_each_space(opened, chosen, compact))
    if json:
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
