"""embedstore info: all about a store or a space."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from embedstore_cli import options


def info(
    space: Annotated[str | None, typer.Argument(metavar="[SPACE]", help="Name or id.", show_default=False)] = None,
    store: options.StorePlace = None,
    pin: options.Pin = None,
    require_signed: options.RequireSigned = None,
    json: options.Json = False,
) -> None:
    """Show all about a space, or the store.

    What it holds, how that was computed and what it cost; without SPACE, for all spaces of the store.
    """
    from embedstore.library import details, open_store
    from embedstore_cli import places
    from embedstore_cli.output import write_facts, write_json

    opened = open_store(store, pin=pin, upstream=())
    if space is not None:
        found = details(opened.space(space))
        if json:
            write_json(found)
        else:
            write_facts(_facts(found))
        return
    about = {"location": opened.location, "id": opened.id, "segment_format": opened.segment_format}
    spaces = list(places.of_each_space(opened, opened.spaces(), details))
    if json:
        write_json({**about, "spaces": spaces})
        return
    write_facts([("store", opened.location), ("id", opened.id), ("segments as", opened.segment_format)])
    for found in spaces:
        print()
        write_facts(_facts(found))


def _facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    from embedstore_cli.output import count, duration, size

    cost = f"{duration(found['compute_seconds'])} for {count(found['letters'])} residues or bases"
    ignored = found["ignored_commits"]
    recipe = [(f"  {field.replace('_', ' ')}", _plain(value)) for field, value in found["recipe"].items()]
    return [
        ("space", found["name"]),
        ("id", found["id"]),
        ("vectors", f"{count(found['rows'])} of {count(found['dim'])} {found['dtype']}"),
        ("size", f"{size(found['bytes'])} in {count(found['segments'])} segments"),
        ("computed in", cost),
        *([("ignored", f"{count(ignored)} commits that no member has signed")] if ignored else []),
        ("recipe", ""),
        *recipe,
    ]


def _plain(value: object) -> str:
    if value is None or value == []:
        return "–"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
