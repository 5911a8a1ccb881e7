"""embedstore rm: remove spaces."""

from __future__ import annotations

from typing import Annotated

import typer

from embedstore_cli import options


def rm(
    spaces: Annotated[list[str], typer.Argument(metavar="SPACE...", help="Names or ids.", show_default=False)],
    store: options.StorePlace = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove spaces and all their vectors, at once and for good.

    All of them are found before the first is removed.
    """
    from embedstore.library import open_store
    from embedstore.upkeep import remove_space
    from embedstore_cli.output import confirm, count, notice, short

    opened = open_store(store, upstream=())
    found = {space.id: space for space in map(opened.space, spaces)}.values()
    what = {
        space.id: f"{count(len(space))} vectors of space {space.name} ({short(space.id)}…) from {opened.location}"
        for space in found
    }
    if not yes:
        confirm(f"Remove {', '.join(what.values())}")
    for space in found:
        remove_space(opened, space)
        notice(f"Removed {what[space.id]}.")
