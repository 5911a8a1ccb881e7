"""Pinning: keeping what a store holds now, bit for bit, whatever is merged and collected later."""

from __future__ import annotations

from embedstore.errors import CorruptStoreError, FormatVersionError, InputError, StorageError
from embedstore.store.commits import are_safe
from embedstore.store.documents import commit_file
from embedstore.store.pins import Pin, pin_file, read_pin
from embedstore.store.space import Space
from embedstore.store.store import SpaceStore

_MAX_ATTEMPTS = 5


def pin(store: SpaceStore, name: str) -> Pin:
    """Keep all that the store holds now under a name; open the store with it to read exactly that.

    Spaces that cannot be read, damaged or of a newer version, are not in it; they are in the store's `unreadable`.

    Parameters
    ----------
    store : open for writing.
    name : of the pin, as a space may be called.

    Raises
    ------
    InputError : not a name, or taken.
    StorageError : the segments were merged away again and again meanwhile.
    """
    file = pin_file(name)
    if any(entry.name == file for entry in store.storage.list("pins/")):
        raise InputError(f"Cannot pin {name}: there is a pin of that name. Choose another, or remove it first.")
    for _ in range(_MAX_ATTEMPTS):
        live = _live(store)
        made = Pin(name, {space.id: commits for space, commits in live})
        content = made.to_bytes()
        store.storage.write(file, [content])
        if store.storage.read(file) != content:
            raise InputError(f"Cannot pin {name}: somebody else took that name at the same moment. Choose another.")
        # Collections from now on see the pin; what was condemned before may be removed at any time.
        if all(_is_safe(space, commits) for space, commits in live):
            return made
        store.storage.delete(file)
    raise StorageError(f"Cannot pin {name}: its commits were being collected {_MAX_ATTEMPTS} times. Try again.")


def _live(store: SpaceStore) -> list[tuple[Space, tuple[str, ...]]]:
    """List what is live in each space that can be read; the others are in the store's `unreadable`."""
    live = []
    for space in store.local_spaces():
        try:
            live.append((space, tuple(segment.commit_id for segment in space.segments())))
        except (CorruptStoreError, FormatVersionError) as error:
            store.unreadable[space.id] = error
    return live


def unpin(store: SpaceStore, name: str) -> None:
    """Remove a pin; what only it kept is collected later.

    Parameters
    ----------
    store : open for writing.
    name : of the pin.

    Raises
    ------
    SpaceNotFoundError : there is no pin of that name.
    """
    read_pin(store.storage, name)
    store.storage.delete(pin_file(name))


def _is_safe(space: Space, commits: tuple[str, ...]) -> bool:
    segments = {segment.commit_id: segment for segment in space.segments()}
    if not set(commits) <= segments.keys():  # merged away since
        return False
    files = [commit_file(commit) for commit in commits]
    for commit in commits:
        files += segments[commit].commit.files
    return are_safe(space.storage, space.folder, files)
