"""Copying between stores: push, pull, sync. Only what is missing goes over, checked on the way; stopping loses nothing.

Spaces are matched by their ids, which stand for recipes; what another store says of a space beyond its recipe, its name
and its canaries, is not taken on trust. How one is copied is in `space_copier`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from embedstore.errors import (
    CorruptStoreError,
    FormatVersionError,
    InputError,
    SpaceConflictError,
    SpaceNotFoundError,
    StoreError,
)
from embedstore.filling import canaries
from embedstore.sharing.space_copier import (
    CopyReport,
    Direction,
    OnCopied,
    SourceSpace,
    SpaceCopier,
    SpaceCopy,
    count_missing,
    read_documents,
)
from embedstore.store.documents import SpaceDocument
from embedstore.store.store import SpaceStore
from embedstore.store.verification import Problem, reason

_MIN_ID_PREFIX = 8


def push(
    near: SpaceStore,
    far: SpaceStore,
    spaces: Sequence[str] = (),
    *,
    dry_run: bool = False,
    on_copied: OnCopied | None = None,
) -> CopyReport:
    """Copy what is missing in the far store from the near one; arguments and errors are those of `copied`."""
    return copied(near, far, ("push",), spaces, dry_run=dry_run, on_copied=on_copied)


def pull(
    near: SpaceStore,
    far: SpaceStore,
    spaces: Sequence[str] = (),
    *,
    dry_run: bool = False,
    on_copied: OnCopied | None = None,
) -> CopyReport:
    """Copy what is missing in the near store from the far one; arguments and errors are those of `copied`."""
    return copied(near, far, ("pull",), spaces, dry_run=dry_run, on_copied=on_copied)


def sync(
    near: SpaceStore,
    far: SpaceStore,
    spaces: Sequence[str] = (),
    *,
    dry_run: bool = False,
    on_copied: OnCopied | None = None,
) -> CopyReport:
    """Copy in both directions what is missing in either store; arguments and errors are those of `copied`."""
    return copied(near, far, ("pull", "push"), spaces, dry_run=dry_run, on_copied=on_copied)


def copied(
    near: SpaceStore,
    far: SpaceStore,
    directions: Sequence[Direction],
    spaces: Sequence[str] = (),
    *,
    dry_run: bool = False,
    on_copied: OnCopied | None = None,
) -> CopyReport:
    """Copy between two stores what is missing.

    Parameters
    ----------
    near : the store at hand.
    far : the other one.
    directions : "push" to the far store, "pull" from it, in this order.
    spaces : names or ids; none: all.
    dry_run : only count.
    on_copied : called after each segment.

    Raises
    ------
    SpaceNotFoundError : a space that was named is not there.
    StorageError : a storage refuses, or cannot be reached.
    InputError : both are the same store, or what is copied to is read as it was pinned.
    """
    started = time.monotonic()
    given = near, far
    near, far = near.local, far.local  # what their upstream stores have is not theirs
    if near.location == far.location:  # not by their ids, which a store shares with its copies
        raise InputError(f"Cannot copy from {near.location} to itself. Name another store.")
    ways = [(near, far, each) if each == "push" else (far, near, each) for each in directions]
    for _, destination, _ in ways:
        if destination.pinned is not None:
            raise InputError(f"Cannot copy to {destination.location} as it was pinned. Open the store itself.")
    _refuse_unknown(spaces, [source for source, _, _ in ways])
    done: list[SpaceCopy] = []
    for source, destination, direction in ways:
        for document, copy in _wanted(source, direction, spaces):
            if document is not None:
                _copy_space(SourceSpace(source, document), destination, copy, on_copied, dry_run=dry_run)
            done.append(copy)
    for space in [space for store in given if store.tiers for space in store.local_spaces()]:
        with suppress(StoreError):  # the next reader is told
            space.refresh()
    seconds = time.monotonic() - started
    return CopyReport(near.location, far.location, tuple(done), seconds, dry_run)


def _refuse_unknown(names: Sequence[str], stores: Sequence[SpaceStore]) -> None:
    """Refuse names of spaces that none of some stores has."""
    if not names:
        return
    there = [found for store in stores for found in read_documents(store)]
    for name in names:
        if not any(_is_called(name, *found) for found in there):
            known = sorted({document.name for _, document in there if isinstance(document, SpaceDocument)})
            places = " and ".join(store.location for store in stores)
            raise SpaceNotFoundError(f"No space {name!r} in {places}; spaces there: {', '.join(known) or 'none yet'}.")


def _is_called(name: str, space_id: str, document: SpaceDocument | Problem) -> bool:
    if isinstance(document, SpaceDocument) and document.name == name:
        return True
    return len(name) >= _MIN_ID_PREFIX and space_id.startswith(name)


def _wanted(
    source: SpaceStore, direction: Direction, spaces: Sequence[str]
) -> Iterator[tuple[SpaceDocument | None, SpaceCopy]]:
    """Yield the spaces that were named, all if none was; None for a document that cannot be read."""
    for space_id, document in read_documents(source):
        if spaces and not any(_is_called(name, space_id, document) for name in spaces):
            continue
        if isinstance(document, SpaceDocument):
            yield document, SpaceCopy(document.name, space_id, direction)
        else:
            yield None, SpaceCopy(space_id, space_id, direction, problems=[document])


def _copy_space(
    source: SourceSpace, destination: SpaceStore, done: SpaceCopy, on_copied: OnCopied | None, *, dry_run: bool
) -> None:
    document = source.document
    try:
        there = destination.find_space(document.recipe, canaries.adopted_name(document))
        if dry_run:
            count_missing(source, there, done)
            return
        if there is None:
            adopted = canaries.adopted(document)
            there = destination.create_space(adopted.recipe, adopted.name, adopted.canaries)
    except (SpaceConflictError, CorruptStoreError, FormatVersionError) as error:
        done.problems.append(Problem(f"{source.folder}space.json", reason(error)))
        return
    SpaceCopier(source, there, destination.trust, done, on_copied).run()
