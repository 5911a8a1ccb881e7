"""embedstore rm: remove a space."""

from __future__ import annotations

from typing import Annotated

import typer

from embedstore_cli import options


def rm(
    space: Annotated[str, typer.Argument(metavar="SPACE", help="Name or id.", show_default=False)],
    store: options.StorePlace = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a space and all its vectors, at once and for good."""
    from embedstore.library import open_store
    from embedstore.maintenance import remove_space
    from embedstore_cli.output import confirm, count, notice, short

    opened = open_store(store)
    found = opened.space(space)
    what = f"{count(len(found))} vectors of space {found.name} ({short(found.id)}…) from {opened.location}"
    if not yes:
        confirm(f"Remove {what}")
    remove_space(opened, found)
    notice(f"Removed {what}.")
