"""embedstore ls: list the spaces of a store."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from embedstore_cli import options

if TYPE_CHECKING:
    from embedstore.sharing.tiers import Upstream


def ls(
    store: options.StorePlace = None,
    upstream: options.Upstream = None,
    pin: options.Pin = None,
    require_signed: options.RequireSigned = None,
    json: options.Json = False,
) -> None:
    """List the spaces of the store, and of its upstream stores."""
    from embedstore.library import overview
    from embedstore_cli import places
    from embedstore_cli.output import count, notice, short, size, write_json, write_table

    opened = places.opened(store, pin=pin)
    spaces = list(places.of_each_space(opened, opened.local_spaces(), overview))
    for each in opened.tiers.upstream:
        spaces += each.ask(partial(_overviews, each), [])
    if json:
        write_json(spaces)
        return
    if not spaces:
        notice(f"No spaces yet in {opened.location}; `embedstore fill` makes them.")
        return
    spaces_text = "1 space" if len(spaces) == 1 else f"{count(len(spaces))} spaces"
    total = f"{spaces_text}, {count(sum(space['rows'] for space in spaces))} vectors"
    notice(f"{opened.location}: {total}, {size(sum(space['bytes'] for space in spaces))}")
    stores = ["store"] if opened.tiers.upstream else []
    write_table(
        ("name", "id", "molecule", ">dim", "dtype", ">rows", ">size", ">segments", *stores),
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
                *[space.get(key, opened.location) for key in stores],
            ]
            for space in spaces
        ),
    )


def _overviews(upstream: Upstream) -> list[dict[str, Any]]:
    from embedstore.library import overview

    return [{**overview(space), "store": upstream.location} for space in upstream.spaces()]
