"""embedstore ls: list the spaces of a store."""

from __future__ import annotations

from embedstore_cli import options


def ls(
    store: options.StorePlace = None,
    pin: options.Pin = None,
    require_signed: options.RequireSigned = None,
    json: options.Json = False,
) -> None:
    """List the spaces of the store."""
    from embedstore.library import open_store, overview
    from embedstore_cli.output import count, notice, short, size, write_json, write_table

    opened = open_store(store, pin=pin)
    spaces = [overview(space) for space in opened.spaces()]
    if json:
        write_json(spaces)
        return
    if not spaces:
        notice(f"No spaces yet in {opened.location}; `embedstore fill` makes them.")
        return
    write_table(
        ("name", "id", "molecule", ">dim", "dtype", ">rows", ">size", ">segments"),
        (
            [
                space["name"],
                short(space["id"]),
                space["molecule"],
                count(space["dim"]),
                space["dtype"],
                count(space["rows"]),
                size(space["bytes"]),
                count(space["segments"]),
            ]
            for space in spaces
        ),
    )
