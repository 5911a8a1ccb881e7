"""Removing a space for good, and removing single sequences from a space.

Single sequences: the segments that hold them are written again without those rows, and the new commits replace the
old ones, as in a compaction. A commit has at least one row, so a segment of which nothing is left is merged into a
neighbour in age. After publishing we look again: a key may stand in several segments, and others may have merged the
old ones meanwhile. No row that stays is ever at risk: what replaces a segment has all its other rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import InputError, StorageError, StoreError
from embedstore.records import Keys
from embedstore.store.commits import is_document
from embedstore.store.pins import read_pins
from embedstore.store.segment_files import as_strings
from embedstore.store.segments import Segment
from embedstore.store.space import Space
from embedstore.store.store import SpaceStore
from embedstore.upkeep.collection import noted, remove_indexes
from embedstore.upkeep.compaction import rewritten
from embedstore.upkeep.inventory import in_order_of_removal, take_inventory

_MOST_LOOKS = 5


def remove_sequences(space: Space, keys: Keys) -> int:
    """Remove the vectors of some sequences from a space; nobody who looks afterwards finds them there.

    Only the segments that hold them are rewritten. Stopped halfway, some of the sequences are removed, and calling it
    again removes the rest.

    What this does not do:

    - A pin keeps what it has pinned: who reads the pinned view still finds the vectors, until `unpin`.
    - The files that held them stay until `collect` removes them, a grace period later.
    - Other stores keep their copies. A pull or a sync from one, a pull-through from an upstream store, and the next
      fill of the same sequences bring the vectors back.
    - Nothing is locked. Somebody else who merges or removes rows of the same segments, and publishes at the very same
      moment, may bring vectors back. Look with `contains` if that matters, and remove them again.

    Parameters
    ----------
    space : of a store that is open for writing; of a space with upstream stores, what lies in the store itself.
    keys : (k, 24) uint8, in any order, repeated or not; those without a vector are skipped.

    Returns
    -------
    Number of sequences removed.

    Raises
    ------
    InputError : nothing would be left of the space, or it is read as it was pinned.
    StoreError : the segments that hold them are signed by somebody else.
    CorruptStoreError : a row that stays is damaged.
    StorageError : the storage refuses, or others rewrite the same segments again and again.
    """
    space.refresh()
    wanted = np.unique(as_strings(keys[space.contains(keys)]))
    removed: set[bytes] = set()
    for _ in range(_MOST_LOOKS):
        segments = space.segments()
        try:
            found = [_rows_of(segment, wanted) for segment in segments]
        except FileNotFoundError:  # merged away and collected meanwhile
            continue
        if not any(map(len, found)):
            if removed:
                space.optimise()
            return len(removed)
        for group in _groups(space, segments, [len(rows) for rows in found]):
            gone = [segments[number].keys_at(found[number]) for number in group]
            facts = {"removed_rows": sum(map(len, gone))}
            if rewritten(space, [segments[number] for number in group], facts, np.concatenate(gone)) is not None:
                removed.update(key.tobytes() for some in gone for key in some)
    raise StorageError(
        f"Cannot remove all of {len(wanted)} sequences from space {space.name}: others rewrote its segments "
        f"{_MOST_LOOKS} times meanwhile. {len(removed)} are removed; try again."
    )


def _rows_of(segment: Segment, wanted: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """Return the rows of a segment that hold some sorted keys, ascending."""
    strings = as_strings(segment.keys)
    rows = np.searchsorted(strings, wanted).astype(np.int64)
    inside = rows < len(strings)
    found: NDArray[np.int64] = rows[inside][strings[rows[inside]] == wanted[inside]]
    return found


def _groups(space: Space, segments: Sequence[Segment], removed: Sequence[int]) -> list[list[int]]:
    """Choose which segments are rewritten as one, each group neighbours in age: one alone, or one of which a row is
    left and its neighbours of which none is.

    Parameters
    ----------
    removed : how many rows of each segment are to go.
    """
    left = [len(segment) - count for segment, count in zip(segments, removed, strict=True)]
    allowed = space.mergeable(segments)
    if not any(left):
        raise InputError(
            f"Cannot remove all {len(space)} sequences of space {space.name}: nothing would be left of it. "
            f"Remove the space itself: `embedstore rm {space.name}`."
        )
    owner = {number: number for number, count in enumerate(removed) if count and left[number]}
    empty = [number for number, count in enumerate(left) if not count]
    for run in np.split(np.array(empty, np.int64), np.flatnonzero(np.diff(empty) > 1) + 1) if empty else []:
        beside = [number for number in (run[0] - 1, run[-1] + 1) if 0 <= number < len(left) and allowed[number]]
        if not beside:
            raise _refused(space, len(run))
        # One that is rewritten anyway, else the smaller one.
        chosen = min(beside, key=lambda number: (number not in owner, len(segments[number])))
        owner[chosen] = chosen
        owner.update((number, chosen) for number in run.tolist())
    refused = [number for number in owner if not allowed[number]]
    if refused:
        raise _refused(space, len(refused))
    return [[number for number in sorted(owner) if owner[number] == chosen] for chosen in sorted(set(owner.values()))]


def _refused(space: Space, segments: int) -> StoreError:
    if space.signatures.trust.signer is None:
        advice = "they are signed. Give the key that signed them (--sign-with FILE)"
    else:
        advice = "no signature on them is one that this key may replace. Use the key that signed them, if any"
    return StoreError(
        f"Cannot remove sequences from space {space.name}: {segments} of its segments would have to be written again, "
        f"and {advice}."
    )


def remove_space(store: SpaceStore, space: Space) -> None:
    """Remove a space and all its vectors, at once. Who fills it at this moment gets an error.

    Stopped halfway, the space is gone, and collecting removes the rest.

    Parameters
    ----------
    store : open for writing.
    space : one of its spaces.

    Raises
    ------
    StoreError : a pin needs it.
    """
    storage, folder = store.storage, space.folder
    _refuse_pinned(store, space)
    inventory = take_inventory(storage, folder, set())
    names = in_order_of_removal(inventory, inventory.own_files())
    try:
        _remove(store, space, names)
    except StorageError as error:
        try:
            document = storage.read(f"{folder}space.json")
        except FileNotFoundError:  # it had begun
            raise error from None
        storage.delete(f"{folder}space.json")  # on a disk so full that only this makes room for what is noted first
        try:
            _remove(store, space, names)
        except StoreError:
            storage.write(f"{folder}space.json", [document])
            raise
    for entry in storage.list(f"{folder}gc/"):
        if is_document(entry.name[len(folder) :]):
            storage.delete(entry.name)


def _remove(store: SpaceStore, space: Space, ordered: Sequence[str]) -> None:
    for names in noted(store.storage, space.folder, ordered):
        _refuse_pinned(store, space)  # a pin made from now on sees what is condemned
        store.storage.delete(f"{space.folder}space.json")
        remove_indexes(store.storage, space.folder)
        for name in names:
            store.storage.delete(f"{space.folder}{name}")


def _refuse_pinned(store: SpaceStore, space: Space) -> None:
    needing = [pin.name for pin in read_pins(store.storage) if pin.spaces.get(space.id)]
    if needing:
        raise StoreError(
            f"Cannot remove space {space.name}: it is pinned as {', '.join(needing)}. "
            "Remove the pin first, if nobody needs it."
        )
