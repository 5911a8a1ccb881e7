"""embedstore pin: keep exactly what the store holds now."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from embedstore_cli import options


def pin(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Of the new pin. Without it: list pins.", show_default=False)
    ] = None,
    store: options.StorePlace = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the pin; its vectors stay as long as live.")] = False,
    json: options.Json = False,
) -> None:
    """Keep what the store holds now under a name, bit for bit, for a paper: read it with `--pin NAME`."""
    from embedstore.library import open_store
    from embedstore.store.pins import read_pins
    from embedstore.upkeep import pin, unpin
    from embedstore_cli.output import notice, write_json, write_line

    opened = open_store(store, upstream=())
    if name is None:
        if remove:
            raise typer.BadParameter("expected the name of the pin to remove")
        pins = [_described(each.name, each.spaces) for each in read_pins(opened.storage)]
        if json:
            write_json(pins)
        for each in pins if not json else []:
            write_line(
                f"{each['name']}: {len(each['spaces'])} spaces, {sum(map(len, each['spaces'].values()))} segments"
            )
        return
    if remove:
        unpin(opened, name)
        notice(f"Removed pin {name}.")
        return
    made = _described(name, pin(opened, name).spaces)
    for error in opened.unreadable.values():
        notice(f"Not pinned: {error}")
    if json:
        write_json(made)
    else:
        notice(f"Pinned {len(made['spaces'])} spaces as {name}; read them with --pin {name}.")


def _described(name: str, spaces: Any) -> dict[str, Any]:
    return {"name": name, "spaces": {space: list(commits) for space, commits in spaces.items()}}
