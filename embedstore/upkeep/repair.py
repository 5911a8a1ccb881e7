"""Removing what is damaged, so that the next fill computes it, and keeping what is whole beside it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embedstore.storage.listing import ROOT_NAME
from embedstore.storage.open_files import OpenFiles
from embedstore.storage.protocol import Storage
from embedstore.store.commits import CommitLog
from embedstore.store.documents import Commit, Root, commit_file, commit_in, is_data_file, space_folders
from embedstore.store.segment_files import as_strings
from embedstore.store.segments import Segment
from embedstore.store.signing import NO_TRUST, Trust
from embedstore.store.space import Space
from embedstore.store.store import SpaceStore
from embedstore.store.verification import NOT_CANONICAL, Problem, VerifyReport, verify
from embedstore.strict_json import facts
from embedstore.upkeep.collection import remove_indexes
from embedstore.upkeep.compaction import some_rows

_MOST_PASSES = 5


@dataclass(slots=True)
class RepairReport:
    """What a repair found and did.

    Attributes
    ----------
    removed : files, with what was wrong with them.
    rows_lost : vectors that nothing whole is left of; the next fill computes them.
    rows_kept : of damaged segments, written again.
    left : what is still wrong afterwards, for a person to decide.
    """

    removed: list[Problem] = field(default_factory=list)
    rows_lost: int = 0
    rows_kept: int = 0
    left: list[Problem] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; the keys are a contract."""
        return facts(self)


def repair(storage: Storage, trust: Trust = NO_TRUST) -> RepairReport:
    """Check every byte of a store, remove what is damaged, and keep all rows that are whole.

    Parameters
    ----------
    storage : of the store.
    trust : who signs the segments that are written again.

    Raises
    ------
    StorageError : the storage refused.
    """
    report = RepairReport()
    for _ in range(_MOST_PASSES):
        found = verify(storage, deep=True)
        report.left = found.problems
        removed = len(report.removed)
        _repair_what(found, storage, trust, report)
        if len(report.removed) == removed:
            return report
    report.left = verify(storage, deep=True).problems
    return report


def _repair_what(found: VerifyReport, storage: Storage, trust: Trust, report: RepairReport) -> None:
    """Repair what a check has found; not what comes back to life by that, since what replaced it is gone."""
    damaged = {problem.file: problem for problem in found.problems if _is_damage(problem, found)}
    if not damaged:
        return
    if ROOT_NAME in damaged:
        _renew_root(storage, report, damaged[ROOT_NAME])
    for folder in space_folders(storage):
        here = {name: problem for name, problem in damaged.items() if name.startswith(folder)}
        if here:
            _remove_documents(storage, folder, here, report)
    for space in SpaceStore(storage, trust=trust).spaces():
        commits = CommitLog(storage, space.folder).read(whatever_refuses=True)
        if commits.unreadable:
            continue  # it may have replaced what is damaged
        for name in commits.readable.keys() - commits.replaced:
            commit = commits.readable[name]
            files = [damaged[path] for file in commit.files if (path := f"{space.folder}{file}") in damaged]
            if files and found.refused.isdisjoint(f"{space.folder}{file}" for file in commit.files):
                segment = Segment(OpenFiles(storage), space.folder, name, commit, space.dim * space.dtype.itemsize)
                _salvage(space, segment, files, report)


def _is_damage(problem: Problem, found: VerifyReport) -> bool:
    """Tell damage from what can be read, and from what the storage only refuses: it may be whole."""
    return problem.reason != NOT_CANONICAL and problem.file not in found.refused


def _renew_root(storage: Storage, report: RepairReport, problem: Problem) -> None:
    hdf5 = any(entry.name.endswith(".h5") for entry in storage.walk("spaces/"))
    storage.delete(ROOT_NAME)
    storage.write(ROOT_NAME, [Root(uuid.uuid4().hex, "hdf5" if hdf5 else "zarr").to_bytes()])
    report.removed.append(problem)


def _remove_documents(storage: Storage, folder: str, damaged: dict[str, Problem], report: RepairReport) -> None:
    """Remove damaged documents of a space. What a removed commit had replaced comes back to life where it is there.

    A removed space document comes back with the next fill of the same model, and with it all vectors.
    """
    there = {entry.name for entry in storage.walk(folder)}
    documents = sorted(name for name in damaged.keys() & there if not is_data_file(name[len(folder) :]))
    commits = {name for name in damaged if commit_in(name[len(folder) :]) is not None}
    if commits:
        remove_indexes(storage, folder)  # first: they name commits that are gone, or will be
    for name in documents:
        storage.delete(name)
        report.removed.append(damaged[name])
    report.removed += [damaged[name] for name in sorted(commits - set(documents))]


def _salvage(space: Space, segment: Segment, problems: Sequence[Problem], report: RepairReport) -> None:
    """Put the whole rows of a damaged segment into a new one that replaces it."""
    if not space.mergeable([segment])[0]:
        return  # it is signed, and we do not sign: it is left as it is
    whole = np.flatnonzero(segment.whole_rows(space.dtype))
    _, first = np.unique(as_strings(segment.keys_at(whole)), return_index=True)
    whole = whole[first]  # sorted by key, each once
    old = segment.commit

    def write() -> Commit:
        files = space.write_files(some_rows(segment, whole, space.dim, space.dtype))
        return files.commit(space.id, old.created_ns, {**old.provenance, "repaired": True}, [segment.commit_id])

    if len(whole):
        CommitLog(space.storage, space.folder).publish(write, space.signatures.sign)
    else:
        remove_indexes(space.storage, space.folder)
        space.storage.delete(f"{space.folder}{commit_file(segment.commit_id)}")
    report.removed += problems
    report.rows_lost += len(segment) - len(whole)
    report.rows_kept += len(whole)
