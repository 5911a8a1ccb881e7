"""Removing what is damaged, so that the next fill computes it, and keeping what is whole beside it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embedstore.maintenance.inventory import Inventory, take_inventory
from embedstore.store.documents import ROOT_NAME, Commit, Root, commit_id, is_commit
from embedstore.store.merging import some_rows
from embedstore.store.open_files import OpenFiles
from embedstore.store.publishing import publish
from embedstore.store.segments import Segment
from embedstore.store.signatures import NO_TRUST, CommitSignatures, Trust
from embedstore.store.space import Space
from embedstore.store.storage import Storage
from embedstore.store.store import SpaceStore
from embedstore.store.verification import Problem, verify


@dataclass(slots=True)
class RepairReport:
    """What a repair found and did.

    Attributes
    ----------
    removed : files, with what was wrong with them.
    rows_lost : vectors that nothing whole is left of; the next fill computes them.
    rows_kept : of damaged segments, written anew.
    left : what is still wrong afterwards, for a person to decide.
    """

    removed: list[Problem] = field(default_factory=list)
    rows_lost: int = 0
    rows_kept: int = 0
    left: list[Problem] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "removed": [problem._asdict() for problem in self.removed],
            "rows_lost": self.rows_lost,
            "rows_kept": self.rows_kept,
            "left": [problem._asdict() for problem in self.left],
        }


def repair(storage: Storage, trust: Trust = NO_TRUST) -> RepairReport:
    """Check every byte of a store, remove what is damaged, and keep all rows that are whole.

    Parameters
    ----------
    trust : who signs the segments that are written anew.

    Raises
    ------
    StorageError : the storage refused.
    """
    report = RepairReport()
    found = verify(storage, deep=True)
    if found.clean:
        return report
    damaged = {problem.file: problem for problem in found.problems}
    if ROOT_NAME in damaged:
        _renew_root(storage, report, damaged[ROOT_NAME])
    for folder in [entry.name for entry in storage.list("spaces/") if entry.name.endswith("/")]:
        here = {name: problem for name, problem in damaged.items() if name.startswith(folder)}
        if here:
            _remove_documents(storage, folder, here, report)
    for space in SpaceStore(storage, trust=trust).spaces():
        commits = take_inventory(storage, space.folder, set()).commits
        replaced = {old for commit in commits.values() for old in commit.replaces}
        for name, commit in commits.items():
            files = [damaged[path] for file in commit.files if (path := f"{space.folder}{file}") in damaged]
            if files and name not in replaced:
                segment = Segment(OpenFiles(storage), space.folder, name, commit, space.dim * space.dtype.itemsize)
                _salvage(space, segment, files, trust, report)
    report.left = verify(storage, deep=True).problems
    return report


def _renew_root(storage: Storage, report: RepairReport, problem: Problem) -> None:
    hdf5 = any(entry.name.endswith(".h5") for entry in storage.walk("spaces/"))
    storage.delete(ROOT_NAME)
    storage.write(ROOT_NAME, [Root(uuid.uuid4().hex, "hdf5" if hdf5 else "zarr").to_bytes()])
    report.removed.append(problem)


def _remove_documents(storage: Storage, folder: str, damaged: dict[str, Problem], report: RepairReport) -> None:
    """Remove damaged documents of a space. What a removed commit had replaced comes back to life where it is there.

    A removed space document comes back with the next fill of the same model, and with it all vectors.
    """
    inventory = take_inventory(storage, folder, set())
    names = {name for name in damaged if name.removeprefix(folder) in inventory.files}
    documents = sorted(name for name in names if not name.startswith(f"{folder}data/"))
    commits = {name for name in damaged if is_commit(name)}
    if commits:  # first: they name commits that are gone, or will be
        for name in inventory.files:
            if name.startswith("index/"):
                storage.delete(f"{folder}{name}")
    for name in documents:
        report.rows_lost += _rows_needing(inventory, name.removeprefix(folder))
        storage.delete(name)
        report.removed.append(damaged[name])
    report.removed += [damaged[name] for name in sorted(commits - set(documents))]


def _rows_needing(inventory: Inventory, name: str) -> int:
    """Rows of a commit that is not of this space; those of one that cannot be read are not known."""
    commit = inventory.commits.get(commit_id(name)) if is_commit(name) else None
    return commit.rows if commit is not None else 0


def _salvage(space: Space, segment: Segment, problems: Sequence[Problem], trust: Trust, report: RepairReport) -> None:
    """Put the whole rows of a damaged segment into a new one that replaces it."""
    if not space.mergeable([segment])[0]:
        return  # it is signed, and we do not sign: it is left as it is
    whole = np.flatnonzero(segment.whole_rows())
    old = segment.commit

    def write() -> Commit:
        files, arrays = space.write_files(some_rows(segment, whole, space.dim, space.dtype))
        return Commit(
            space_id=space.id,
            nonce=files.nonce,
            layout=space.segment_format,
            rows=len(whole),
            created_ns=old.created_ns,
            arrays=arrays,
            files=files.facts,
            replaces=(segment.commit_id,),
            provenance={**old.provenance, "repaired": True},
        )

    if len(whole):
        publish(space.storage, space.folder, write, CommitSignatures(space.storage, space.folder, trust).sign)
    else:
        for entry in space.storage.list(f"{space.folder}index/"):
            space.storage.delete(entry.name)
        space.storage.delete(f"{space.folder}commits/{segment.commit_id}.json")
    report.removed += problems
    report.rows_lost += len(segment) - len(whole)
    report.rows_kept += len(whole)
