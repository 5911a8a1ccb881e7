"""Look at a store: init (make one), ls, info (what it holds), pin (keep what it holds now), rm (remove)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedstore_cli.arguments import sequence_files
from embedstore_cli.context import LOOKING_UP, Context, shared
from embedstore_cli.output import (
    confirm,
    count,
    duration,
    list_rejections,
    notice,
    of_each_space,
    short,
    size,
    write_facts,
    write_json,
    write_line,
    write_table,
)

if TYPE_CHECKING:
    from embedstore.identity import Molecule
    from embedstore.library import Store
    from embedstore.records import Keys, Rejection
    from embedstore.sharing.tiers import Upstream
    from embedstore.store import Space


class Format(StrEnum):
    """How segments are written."""

    zarr = "zarr"
    hdf5 = "hdf5"


@shared([])
def init(
    context: Context,
    path: Annotated[str, typer.Argument(metavar="PATH|URL", help="Nothing, or an empty folder.", show_default=False)],
    segment_format: Annotated[
        Format,
        typer.Option("--format", help="hdf5 makes one file a segment: fewer of them for file systems that count."),
    ] = Format.zarr,
    shared: Annotated[
        bool,
        typer.Option("--shared", help="Let the folder's group write, whatever the umask of its members (setgid)."),
    ] = False,
) -> None:
    """Make a store.

    To share it with a group: mkdir STORE, chgrp GROUP STORE, embedstore init --shared STORE.
    """
    from embedstore.doctor.storage import ranges_findings
    from embedstore.library import make_store
    from embedstore.storage.listing import ROOT_NAME

    store = make_store(path, segment_format=segment_format.value, shared=shared)
    notice(f"Store at {store.location}: segments will be written as {store.segment_format}.")
    for finding in ranges_findings(store.storage, ROOT_NAME):
        if finding.state != "ok":
            notice(f"The server {finding.found}. {finding.advice}")


@shared(LOOKING_UP, ["json"])
def ls(context: Context) -> None:
    """List the spaces of the store and its upstream stores.

    A space keeps the name that it was made with: the name is part of its sealed document.
    """
    from embedstore.library import overview

    opened = context.open()
    spaces = list(of_each_space(opened, opened.local_spaces(), overview))
    for each in opened.tiers.upstream:
        spaces += each.ask(partial(_overviews, each), [])
    if context.json:
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


@shared(["store", "pin", "require_signed", "json"])
def info(
    context: Context,
    space: Annotated[str | None, typer.Argument(metavar="SPACE", help="Name or id.", show_default=False)] = None,
) -> None:
    """Show all about a space, or the store.

    What it holds, how that was computed and what it cost; without SPACE, for all spaces of the store.
    """
    from embedstore.library import details

    opened = context.open_own()
    if space is not None:
        found = details(opened.space(space))
        if context.json:
            write_json(found)
        else:
            write_facts(_facts(found))
        return
    about = {"location": opened.location, "id": opened.id, "segment_format": opened.segment_format}
    spaces = list(of_each_space(opened, opened.spaces(), details))
    if context.json:
        write_json({**about, "spaces": spaces})
        return
    write_facts([("store", opened.location), ("id", opened.id), ("segments as", opened.segment_format)])
    for found in spaces:
        print()
        write_facts(_facts(found))


def _facts(found: dict[str, Any]) -> list[tuple[str, str]]:
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


@shared(["store", "require_signed", "json"])
def pin(
    context: Context,
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Name of the pin.", show_default=False),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the pin; `gc` removes what only it kept.")] = False,
) -> None:
    """Keep what the store holds now under a name.

    For a paper: `--pin NAME` reads it bit for bit. Without NAME: list the pins.
    """
    from embedstore.store.pins import read_pins
    from embedstore.upkeep import pin, unpin

    opened = context.open_own()
    if name is None:
        if remove:
            raise typer.BadParameter("expected the name of the pin to remove")
        pins = [_described(each.name, each.spaces) for each in read_pins(opened.storage)]
        if context.json:
            write_json(pins)
        for each in pins if not context.json else []:
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
    if context.json:
        write_json(made)
    else:
        notice(f"Pinned {len(made['spaces'])} spaces as {name}; read them with --pin {name}.")


def _described(name: str, spaces: Any) -> dict[str, Any]:
    return {"name": name, "spaces": {space: list(commits) for space, commits in spaces.items()}}


@shared(["store", "sign_with", "require_signed", "yes", "json"])
def rm(
    context: Context,
    spaces: Annotated[
        list[str] | None,
        typer.Argument(metavar="SPACE", help="Names or ids; with --sequences the default is all.", show_default=False),
    ] = None,
    sequences: Annotated[
        list[str] | None,
        typer.Option(
            "--sequences",
            metavar="INPUT",
            help="Remove only these sequences, whatever their ids: a file or folder as for `fill`; may be given "
            "several times.",
            show_default=False,
            callback=sequence_files,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be removed.")] = False,
) -> None:
    """Remove spaces, or single sequences from spaces.

    What is removed is gone for good.

    All spaces are found before anything is removed. A space cannot be renamed: its name is part of its sealed document.
    """
    opened = context.open_own()
    if not spaces and sequences is None:
        raise typer.BadParameter("expected SPACE, or --sequences INPUT")
    found = list({space.id: space for space in (map(opened.space, spaces) if spaces else opened.spaces())}.values())
    if sequences is None:
        _remove_spaces(context, opened, found, dry_run=dry_run)
    else:
        _remove_sequences(context, opened, found, sequences, dry_run=dry_run)


def _remove_spaces(context: Context, store: Store, spaces: Sequence[Space], *, dry_run: bool) -> None:
    from embedstore.upkeep import remove_space

    rows = {space.id: len(space) for space in spaces}
    what = {
        space.id: f"{count(rows[space.id])} vectors of space {space.name} ({short(space.id)}…) from {store.location}"
        for space in spaces
    }
    if not dry_run and not context.yes:
        confirm(f"Remove {', '.join(what.values())}")
    for space in spaces:
        if not dry_run:
            remove_space(store, space)
        if not context.json:
            notice(f"{'Would remove' if dry_run else 'Removed'} {what[space.id]}.")
    if context.json:
        _write_removed(spaces, rows, dry_run=dry_run)


def _remove_sequences(
    context: Context, store: Store, spaces: Sequence[Space], inputs: Sequence[str], *, dry_run: bool
) -> None:
    from embedstore.upkeep import remove_sequences

    keys, rejected = _keys_of(inputs, {space.molecule for space in spaces})
    rows = {space.id: int(space.contains(keys[space.molecule]).sum()) for space in spaces}
    holding = [space for space in spaces if rows[space.id]]
    what = ", ".join(f"{count(rows[space.id])} vectors of space {space.name}" for space in holding) or "0 vectors"
    if holding and not dry_run:
        if not context.yes:
            confirm(f"Remove {what} from {store.location}")
        rows |= {space.id: remove_sequences(space, keys[space.molecule]) for space in holding}
    if context.json:
        _write_removed(spaces, rows, dry_run=dry_run)
    else:
        list_rejections(rejected, "rejected")
        notice(f"{'Would remove' if dry_run else 'Removed'} {what} from {store.location}.")
    raise typer.Exit(3 if rejected else 0)


def _keys_of(inputs: Sequence[str], molecules: set[Molecule]) -> tuple[dict[Molecule, Keys], list[Rejection]]:
    """Return the distinct keys of the sequences as each molecule, and the records that are no sequence of any."""
    from embedstore.errors import SequenceError
    from embedstore.identity import key_array, sequence_key
    from embedstore.records import Record, Rejection
    from embedstore.sequences import read

    keys: dict[Molecule, dict[bytes, None]] = {molecule: {} for molecule in molecules}
    rejected = []
    for record in read(inputs):
        if not isinstance(record, Record):
            rejected.append(record)
            continue
        reasons = []
        for molecule in sorted(molecules):
            try:
                keys[molecule][sequence_key(record.sequence, molecule)] = None
            except SequenceError as error:
                reasons.append(str(error))
        if reasons and len(reasons) == len(molecules):
            rejected.append(Rejection(record.file, record.line, record.id, reasons[0]))
    return {molecule: key_array(list(found)) for molecule, found in keys.items()}, rejected


def _write_removed(spaces: Sequence[Space], rows: Mapping[str, int], *, dry_run: bool) -> None:
    removed = [{"space": space.name, "id": space.id, "rows": rows[space.id]} for space in spaces]
    write_json({"dry_run": dry_run, "spaces": removed})
