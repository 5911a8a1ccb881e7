"""Collecting what nothing needs any more, in two steps with a grace period between them.

1. What is unneeded now is condemned: written down, by name, in the space's `gc/`. What a writer may still be writing
   is left until it is older than the grace period.
2. What was condemned a grace period ago, by the storage's clock, and is still unneeded, is removed: first indexes that
   name dead commits, then dead commits (a replaced one before what replaces it, so that it never comes back to life),
   then data.

Commits and pins are listed again between the two. A writer looks at what is condemned before and after its commit, so
the grace period need not be longer than a write takes: it is for readers who have files open, and for listings that
lag behind. On a full disk what is due goes first, and makes room for the document.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from embedstore.errors import StorageError
from embedstore.storage.local import TEMPORARY_PREFIX
from embedstore.storage.protocol import Entry, Storage
from embedstore.store.commits import condemn
from embedstore.store.documents import commit_file, commit_in, space_folders
from embedstore.store.index import is_index
from embedstore.store.pins import pinned_commits
from embedstore.store.signing import Members
from embedstore.strict_json import facts
from embedstore.upkeep.inventory import Inventory, in_order_of_removal, stale_indexes, take_inventory

DEFAULT_GRACE_S = 7 * 86_400.0


@dataclass(slots=True)
class CollectReport:
    """What a collection found and did.

    Attributes
    ----------
    removed_files : gone now.
    removed_bytes : of these.
    waiting_files : unneeded; a collection after the grace period removes them.
    waiting_bytes : of these.
    evicted_rows : removed because they were too old, or the store too large.
    evicted_bytes : of these.
    damaged : commits and documents of spaces that cannot be read, damaged or of a newer version; nothing that they may
        need was removed.
    dry_run : nothing was changed; the numbers say what would be.
    """

    dry_run: bool = False
    removed_files: int = 0
    removed_bytes: int = 0
    waiting_files: int = 0
    waiting_bytes: int = 0
    evicted_rows: int = 0
    evicted_bytes: int = 0
    damaged: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; the keys are a contract."""
        return facts(self)


def collect(
    storage: Storage,
    *,
    grace_s: float = DEFAULT_GRACE_S,
    older_than_s: float | None = None,
    max_size_bytes: int | None = None,
    dry_run: bool = False,
    members: Members | None = None,
) -> CollectReport:
    """Remove what nothing needs from a store.

    Parameters
    ----------
    storage : of the store.
    grace_s : how long something stays after it was first found unneeded. With 0 nobody else may be using the store.
    older_than_s : also evict rows that were computed longer ago, unless they are pinned.
    max_size_bytes : also evict the oldest rows until what is live is not larger, by the real sizes of its files, unless
        they are pinned.
    dry_run : only say what would be done.
    members : what they have signed is unneeded only when what replaces it is signed by one of them.
    """
    report = CollectReport(dry_run=dry_run)
    pinned = pinned_commits(storage)
    folders = space_folders(storage)
    if older_than_s is not None or max_size_bytes is not None:
        inventories = {folder: take_inventory(storage, folder, _of(pinned, folder), members) for folder in folders}
        now_ns = time.time_ns() if dry_run else _now_ns(storage, storage.list(""))
        for folder, commits in _evicted(inventories, now_ns, older_than_s, max_size_bytes).items():
            _evict(storage, folder, inventories[folder], commits, report)
    for folder in folders:
        collect_space(storage, folder, grace_s, report, members)
    for folder in ("", "pins/", "spaces/"):
        _remove_temporary(storage, folder, grace_s, report)
    return report


def collect_space(
    storage: Storage,
    folder: str,
    grace_s: float,
    report: CollectReport | None = None,
    members: Members | None = None,
) -> CollectReport:
    """Remove what nothing needs from one space, `spaces/<id>/`; see `collect`.

    Parameters
    ----------
    storage : of the store.
    folder : `spaces/<id>/`.
    grace_s : see `collect`.
    report : is added to; None: a new one.
    members : see `collect`.
    """
    report = report or CollectReport()
    inventory = take_inventory(storage, folder, _of(pinned_commits(storage), folder), members)
    report.damaged += _unreadable(folder, inventory)
    indexes = stale_indexes(storage, folder, inventory)
    unneeded = inventory.unneeded()
    if not report.dry_run:
        _remove_empty_folders(storage, folder, inventory)
    if not unneeded and not indexes and not inventory.condemned:
        return report
    now_ns = time.time_ns() if report.dry_run else _now_ns(storage, inventory.files.values(), folder)
    grace_ns = round(grace_s * 1e9)
    settled = _settled(inventory, unneeded, now_ns, grace_ns)
    if report.dry_run:
        due = _due(inventory, now_ns, grace_ns) | (settled if grace_ns == 0 else set())
        due = inventory.removable(unneeded & due)
        _count(report, inventory, due | set(indexes), unneeded - due)
        return report
    # What stands in a document from the future is condemned again: nobody knows when it was written.
    known = [each for each in inventory.condemned if each.since_ns <= now_ns]
    newly = settled - {name for each in known for name in each.files}
    postponed = _is_postponed(storage, folder, newly)
    # Listed again: what came before somebody could see it condemned must be seen here.
    inventory = take_inventory(storage, folder, _of(pinned_commits(storage), folder), members)
    unneeded = inventory.unneeded()
    due = inventory.removable(_due(inventory, now_ns, grace_ns) & unneeded)
    for name in [*stale_indexes(storage, folder, inventory), *in_order_of_removal(inventory, due)]:
        storage.delete(f"{folder}{name}")
        due.add(name)
    _count(report, inventory, due, () if postponed else unneeded - due)
    for each in inventory.condemned:
        if not (set(each.files) & unneeded) - due:
            storage.delete(each.name)
    if postponed:  # now there may be room
        next(noted(storage, folder, sorted(newly)))
        return collect_space(storage, folder, grace_s, report, members)
    return report


def _remove_empty_folders(storage: Storage, folder: str, inventory: Inventory) -> None:
    """Remove what stopped processes left of folders; a writer whose folder vanishes makes it again."""
    used = {"/".join(name.split("/")[:2]) for name in inventory.files}
    for entry in storage.list(f"{folder}data/"):
        if entry.name.endswith("/") and entry.name[len(folder) : -1] not in used:
            storage.delete(entry.name)


def noted(storage: Storage, folder: str, names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Condemn files, see `condemn`, and yield their names: all at once, or on a full disk in parts.

    Removing what was yielded makes room for the next part. For the first one the indexes of the space make room,
    which are derived.

    Parameters
    ----------
    storage : of the store.
    folder : `spaces/<id>/`.
    names : of files, from there, in the order in which they are to be removed.

    Raises
    ------
    StorageError : there is no room even for one name.
    """
    indexes = True
    size = len(names)
    while names:
        try:
            condemn(storage, folder, names[:size])
        except StorageError:
            if indexes:
                remove_indexes(storage, folder)
                indexes = False
            elif size == 1:
                raise
            else:
                size = min(size, len(names)) // 2
            continue
        yield names[:size]
        names = names[size:]
        size = len(names)


def remove_indexes(storage: Storage, folder: str) -> None:
    """Remove the indexes of a space; they are derived, and published again by the next writer.

    Parameters
    ----------
    storage : of the store.
    folder : `spaces/<id>/`.
    """
    for entry in storage.list(f"{folder}index/"):
        if is_index(entry.name[len(folder) :]):
            storage.delete(entry.name)


def _is_postponed(storage: Storage, folder: str, names: Collection[str]) -> bool:
    """Condemn files, or tell that there is no room for that before something is removed."""
    try:
        if names:
            condemn(storage, folder, names)
    except StorageError:
        return True
    return False


def _settled(inventory: Inventory, unneeded: Collection[str], now_ns: int, grace_ns: int) -> set[str]:
    """What may be condemned: what belongs to a commit was live once; the rest a writer may still be writing."""
    dead = {file for commit in inventory.commits.readable.values() for file in commit.files}
    dead |= {commit_file(name) for name in inventory.commits.readable}
    return {name for name in unneeded if name in dead or _is_over(inventory.age_ns(name, now_ns), grace_ns)}


def _due(inventory: Inventory, now_ns: int, grace_ns: int) -> set[str]:
    """What has stood condemned for the grace period."""
    return {
        name
        for each in inventory.condemned
        if _is_over(now_ns - inventory.condemned_ns(each), grace_ns)
        for name in each.files
    }


def _is_over(age_ns: int, grace_ns: int) -> bool:
    return grace_ns == 0 or age_ns >= grace_ns


def _unreadable(folder: str, inventory: Inventory) -> list[str]:
    documents = [f"{folder}space.json"] if inventory.unreadable_space is not None else []
    return documents + [f"{folder}{commit_file(name)}" for name in inventory.commits.unreadable]


def _count(report: CollectReport, inventory: Inventory, removed: Collection[str], waiting: Collection[str]) -> None:
    report.removed_files += len(removed)
    report.removed_bytes += sum(inventory.files[name].size_bytes for name in removed)
    report.waiting_files += len(waiting)
    report.waiting_bytes += sum(inventory.files[name].size_bytes for name in waiting)


def _evicted(
    inventories: dict[str, Inventory], now_ns: int, older_than_s: float | None, max_size_bytes: int | None
) -> dict[str, list[str]]:
    """Choose commits to evict, by the folder of their space."""
    readable = {folder: inventory.commits.readable for folder, inventory in inventories.items()}
    candidates = sorted(
        (int(readable[folder][name].provenance.get("newest_ns", readable[folder][name].created_ns)), folder, name)
        for folder, inventory in inventories.items()
        for name in inventory.live - inventory.pinned
    )
    size_bytes = sum(
        inventory.size_bytes(readable[folder][name])
        for folder, inventory in inventories.items()
        for name in inventory.live
    )
    chosen: dict[str, list[str]] = {}
    for created_ns, folder, name in candidates:
        too_old = older_than_s is not None and now_ns - created_ns > older_than_s * 1e9
        too_large = max_size_bytes is not None and size_bytes > max_size_bytes
        if too_old or too_large:
            chosen.setdefault(folder, []).append(name)
            size_bytes -= inventories[folder].size_bytes(readable[folder][name])
    return chosen


def _evict(storage: Storage, folder: str, inventory: Inventory, commits: list[str], report: CollectReport) -> None:
    """Evict live commits, and those that they replaced, which would come back to life."""
    known = inventory.commits.readable
    report.evicted_rows += sum(known[name].rows for name in commits)
    report.evicted_bytes += sum(inventory.size_bytes(known[name]) for name in commits)
    if report.dry_run:
        return
    evicted: set[str] = set()
    pending = list(commits)
    while pending:
        name = pending.pop()
        if name in known and name not in evicted and name not in inventory.pinned:
            evicted.add(name)
            pending += known[name].replaces
    files = sorted(file for name in evicted for file in known[name].files)
    ordered = in_order_of_removal(inventory, {commit_file(name) for name in evicted})
    for some in noted(storage, folder, [*ordered, *files]):
        kept = {commit_file(name) for name in _of(pinned_commits(storage), folder)}  # who pins later sees it condemned
        remove_indexes(storage, folder)
        for name in some:
            if commit_in(name) is not None and name not in kept:
                storage.delete(f"{folder}{name}")


def _remove_temporary(storage: Storage, folder: str, grace_s: float, report: CollectReport) -> None:
    """Remove what was half written beside the spaces; nothing ever refers to it."""
    left = [
        entry
        for entry in storage.list(folder)
        if not entry.name.endswith("/") and entry.name.removeprefix(folder).startswith(TEMPORARY_PREFIX)
    ]
    if not left:
        return
    now_ns = time.time_ns() if report.dry_run else _now_ns(storage, left)
    grace_ns = round(grace_s * 1e9)
    old: list[Entry] = [entry for entry in left if _is_over(now_ns - entry.modified_ns, grace_ns)]
    for entry in old:
        if not report.dry_run:
            storage.delete(entry.name)
    report.removed_files += len(old)
    report.removed_bytes += sum(entry.size_bytes for entry in old)


def _now_ns(storage: Storage, entries: Iterable[Entry], folder: str = "") -> int:
    """Ask for the time by the storage's own clock, that of a file written just now, or this computer's if it is
    earlier.

    So no clock that is ahead, for a moment or for good, makes anything older than it is. Where nothing can be written,
    the newest file says how late it is at least.
    """
    name = f"{folder}{TEMPORARY_PREFIX}clock-{uuid.uuid4().hex}"
    try:
        now_ns = storage.write(name, []).modified_ns
    except StorageError:
        now_ns = max((entry.modified_ns for entry in entries), default=0)
    finally:
        storage.delete(name)
    return min(now_ns, time.time_ns())


def _of(pinned: dict[str, set[str]], folder: str) -> Set[str]:
    return pinned.get(folder.split("/")[1], set())
