"""Collecting what nothing needs any more, in two steps with a grace period between them.

1. What is unneeded now is condemned: written down, by name, in the space's `gc/`. What a writer may still be at work on
   is left until it is older than the grace period.
2. What was condemned a grace period ago, by the storage's clock, and is still unneeded, is removed: first indexes that
   name dead commits, then dead commits (a replaced one before what replaces it, so that it never comes back to life),
   then data.

Commits and pins are listed anew between the two. A writer looks at what is condemned before and after its commit, so
the grace period need not be longer than a write takes: it is for readers who have files open, and for listings that
lag behind.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Set
from dataclasses import dataclass, field
from typing import Any

from embedstore.maintenance.inventory import Inventory, stale_indexes, take_inventory
from embedstore.store.condemned import condemn
from embedstore.store.documents import commit_id, is_commit
from embedstore.store.local import TEMPORARY_PREFIX
from embedstore.store.pins import pinned_commits
from embedstore.store.signing_keys import Members
from embedstore.store.storage import Entry, Storage

DEFAULT_GRACE_S = 7 * 86_400.0


@dataclass(slots=True)
class CollectReport:
    """What a collection found and did.

    Attributes
    ----------
    removed_files, removed_bytes : gone now.
    waiting_files, waiting_bytes : unneeded, and removed by a collection after the grace period.
    evicted_rows, evicted_bytes : rows that were given up because they were too old, or the store too large.
    damaged : commits that cannot be read; nothing that they may need was removed.
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
        return {
            "dry_run": self.dry_run,
            "removed_files": self.removed_files,
            "removed_bytes": self.removed_bytes,
            "waiting_files": self.waiting_files,
            "waiting_bytes": self.waiting_bytes,
            "evicted_rows": self.evicted_rows,
            "evicted_bytes": self.evicted_bytes,
            "damaged": self.damaged,
        }


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
    grace_s : how long something stays after it was first found unneeded. With 0 nobody else may be at work.
    older_than_s : also give up rows that were computed longer ago, unless they are pinned.
    max_size_bytes : also give up the oldest rows until what is live is not larger, unless they are pinned.
    dry_run : only say what would be done.
    members : what they have signed is unneeded only when what replaces it is signed by one of them.
    """
    report = CollectReport(dry_run=dry_run)
    pinned = pinned_commits(storage)
    folders = [entry.name for entry in storage.list("spaces/") if entry.name.endswith("/")]
    if older_than_s is not None or max_size_bytes is not None:
        inventories = {folder: take_inventory(storage, folder, _of(pinned, folder), members) for folder in folders}
        now_ns = time.time_ns() if dry_run else _now_ns(storage)
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
    """Remove what nothing needs from one space, `spaces/<id>/`; see `collect`."""
    report = report or CollectReport()
    inventory = take_inventory(storage, folder, _of(pinned_commits(storage), folder), members)
    report.damaged += [f"{folder}{name}" for name in inventory.damaged]
    indexes = stale_indexes(storage, folder, inventory)
    unneeded = inventory.unneeded()
    if not unneeded and not indexes and not inventory.condemned:
        return report
    now_ns = time.time_ns() if report.dry_run else _now_ns(storage, folder)
    grace_ns = round(grace_s * 1e9)
    mentioned = {name for each in inventory.condemned for name in each.files}
    # What belongs to a commit was live once; on the rest a writer may be at work.
    dead = {file for commit in inventory.commits.values() for file in commit.files}
    dead |= {f"commits/{name}.json" for name in inventory.commits}
    settled = {name for name in unneeded if name in dead or inventory.age_ns(name, now_ns) >= grace_ns}
    if report.dry_run:
        due = {name for each in inventory.condemned if now_ns - each.since_ns >= grace_ns for name in each.files}
        due |= settled if grace_ns == 0 else set()
        _count(report, inventory, unneeded & due | set(indexes), unneeded - due)
        return report
    if settled - mentioned:
        condemn(storage, folder, settled - mentioned)
    # Listed anew: what came before somebody could see it condemned must be seen here.
    inventory = take_inventory(storage, folder, _of(pinned_commits(storage), folder), members)
    now_ns = max([now_ns, *(each.since_ns for each in inventory.condemned)])
    unneeded = inventory.unneeded()
    due = {name for each in inventory.condemned if now_ns - each.since_ns >= grace_ns for name in each.files}
    due &= unneeded
    for name in [*stale_indexes(storage, folder, inventory), *in_order_of_removal(inventory, due)]:
        storage.delete(f"{folder}{name}")
        due.add(name)
    _count(report, inventory, due, unneeded - due)
    for each in inventory.condemned:
        if not (set(each.files) & unneeded) - due:
            storage.delete(each.name)
    return report


def in_order_of_removal(inventory: Inventory, names: Collection[str]) -> list[str]:
    """Sort commits first, each before the one that replaces it, then all other files."""
    commits = {commit_id(name) for name in names if is_commit(name)}
    others = sorted(name for name in names if not is_commit(name))
    replaced = {name: commit.replaces for name, commit in inventory.commits.items()}
    ordered: list[str] = []

    def visit(commit: str) -> None:
        stack = [(commit, False)]
        while stack:
            current, done = stack.pop()
            if done:
                ordered.append(f"commits/{current}.json")
            elif current in commits:
                commits.discard(current)
                stack.append((current, True))
                stack += [(old, False) for old in replaced.get(current, ())]

    for commit in sorted(commits):
        visit(commit)
    return ordered + others


def _count(report: CollectReport, inventory: Inventory, removed: Collection[str], waiting: Collection[str]) -> None:
    report.removed_files += len(removed)
    report.removed_bytes += sum(inventory.files[name].size_bytes for name in removed)
    report.waiting_files += len(waiting)
    report.waiting_bytes += sum(inventory.files[name].size_bytes for name in waiting)


def _evicted(
    inventories: dict[str, Inventory], now_ns: int, older_than_s: float | None, max_size_bytes: int | None
) -> dict[str, list[str]]:
    """Choose commits to give up, by the folder of their space."""
    candidates = sorted(
        (int(commit.provenance.get("newest_ns", commit.created_ns)), folder, name)
        for folder, inventory in inventories.items()
        for name, commit in inventory.commits.items()
        if name in inventory.live and name not in inventory.pinned
    )
    size_bytes = sum(
        inventory.commits[name].size_bytes for inventory in inventories.values() for name in inventory.live
    )
    chosen: dict[str, list[str]] = {}
    for created_ns, folder, name in candidates:
        too_old = older_than_s is not None and now_ns - created_ns > older_than_s * 1e9
        too_large = max_size_bytes is not None and size_bytes > max_size_bytes
        if too_old or too_large:
            chosen.setdefault(folder, []).append(name)
            size_bytes -= inventories[folder].commits[name].size_bytes
    return chosen


def _evict(storage: Storage, folder: str, inventory: Inventory, commits: list[str], report: CollectReport) -> None:
    """Give up live commits, and those that they replaced, which would come back to life."""
    report.evicted_rows += sum(inventory.commits[name].rows for name in commits)
    report.evicted_bytes += sum(inventory.commits[name].size_bytes for name in commits)
    if report.dry_run:
        return
    given_up: set[str] = set()
    pending = list(commits)
    while pending:
        name = pending.pop()
        if name in inventory.commits and name not in given_up and name not in inventory.pinned:
            given_up.add(name)
            pending += inventory.commits[name].replaces
    files = {file for name in given_up for file in inventory.commits[name].files}
    condemn(storage, folder, files | {f"commits/{name}.json" for name in given_up})
    given_up -= _of(pinned_commits(storage), folder)  # whoever pins from now on sees what is condemned
    for entry in storage.list(f"{folder}index/"):
        storage.delete(entry.name)
    for name in in_order_of_removal(inventory, {f"commits/{name}.json" for name in given_up}):
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
    now_ns = time.time_ns() if report.dry_run else _now_ns(storage)
    old: list[Entry] = [entry for entry in left if now_ns - entry.modified_ns >= grace_s * 1e9]
    for entry in old:
        if not report.dry_run:
            storage.delete(entry.name)
    report.removed_files += len(old)
    report.removed_bytes += sum(entry.size_bytes for entry in old)


def _now_ns(storage: Storage, folder: str = "") -> int:
    """Ask for the time by the storage's own clock: that of a file written just now."""
    name = f"{folder}{TEMPORARY_PREFIX}clock-{uuid.uuid4().hex}"
    try:
        return storage.write(name, []).modified_ns
    finally:
        storage.delete(name)


def _of(pinned: dict[str, set[str]], folder: str) -> Set[str]:
    return pinned.get(folder.split("/")[1], set())
