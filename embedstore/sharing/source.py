"""The space that is copied from, read commit by commit, so that one damaged segment does not hide the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from embedstore.errors import CorruptStoreError
from embedstore.store import SpaceStore
from embedstore.store.documents import Commit, SpaceDocument, commit_id, is_commit
from embedstore.store.open_files import OpenFiles
from embedstore.store.segments import Segment
from embedstore.store.signatures import CommitSignatures, signature_files
from embedstore.store.storage import Storage, side_by_side
from embedstore.store.verification import Problem


@dataclass(frozen=True, slots=True)
class Commits:
    """What lies in a space's folder of commits, by id; those that are damaged are problems."""

    readable: dict[str, Commit]
    problems: tuple[Problem, ...]

    @property
    def replaced(self) -> set[str]:
        """Ids of commits that others make dead."""
        return {old for commit in self.readable.values() for old in commit.replaces}


def read_commits(storage: Storage, folder: str, signatures: CommitSignatures | None = None) -> Commits:
    """Read all commits of a space.

    Parameters
    ----------
    folder : `spaces/<id>/`.
    signatures : leave out what they do not vouch for.
    """
    listed = {commit_id(entry.name) for entry in storage.list(f"{folder}commits/") if is_commit(entry.name)}
    wanted = sorted(listed if signatures is None else signatures.trusted(listed))

    def read(commit: str) -> Commit | Problem | None:
        name = f"{folder}commits/{commit}.json"
        try:
            found = Commit.from_bytes(name, storage.read(name))
        except CorruptStoreError as error:
            return Problem(error.file, error.reason)
        except FileNotFoundError:  # replaced and collected since the listing
            return None
        return found if f"spaces/{found.space_id}/" == folder else Problem(name, f"it is of space {found.space_id}")

    found = dict(zip(wanted, side_by_side(read, wanted, storage.requests_at_once), strict=True))
    return Commits(
        {commit: each for commit, each in found.items() if isinstance(each, Commit)},
        tuple(each for each in found.values() if isinstance(each, Problem)),
    )


class SourceSpace:
    """A space that is copied from."""

    def __init__(self, store: SpaceStore, document: SpaceDocument) -> None:
        self.store_id = store.id
        self.storage = store.storage
        self.document = document
        self.recipe = document.recipe
        self.folder = f"spaces/{document.recipe.id}/"
        self.dtype = np.dtype(document.recipe.dtype)
        self.row_bytes = document.recipe.dim * self.dtype.itemsize
        self._files = OpenFiles(store.storage, check_digests=store.trust.members is not None)
        self._signatures = CommitSignatures(store.storage, self.folder, store.trust)

    def segments(self) -> tuple[list[Segment], list[Problem]]:
        """Return what is live now, older first, and which commits are damaged."""
        commits = read_commits(self.storage, self.folder, self._signatures)
        problems = list(commits.problems)
        live = [(commit.created_ns, name) for name, commit in commits.readable.items() if name not in commits.replaced]
        segments = []
        for _, name in sorted(live):
            try:
                segments.append(Segment(self._files, self.folder, name, commits.readable[name], self.row_bytes))
            except CorruptStoreError as error:
                problems.append(Problem(error.file, error.reason))
        return segments, problems

    def is_live(self, commit: str) -> bool:
        """Tell whether a commit is still there, and nothing replaces it."""
        commits = read_commits(self.storage, self.folder)
        return commit in commits.readable and commit not in commits.replaced

    def signatures(self) -> dict[str, list[str]]:
        """Return the names of signature documents by commit."""
        return signature_files(self.storage, self.folder)


def read_documents(store: SpaceStore) -> Iterator[tuple[str, SpaceDocument | Problem]]:
    """Yield the id and the document of every space of a store, or what is wrong with it."""
    for entry in store.storage.list("spaces/"):
        if entry.name.endswith("/"):
            file = f"{entry.name}space.json"
            try:
                yield entry.name.split("/")[1], SpaceDocument.from_bytes(file, store.storage.read(file))
            except FileNotFoundError:  # being made just now, or removed
                continue
            except CorruptStoreError as error:
                yield entry.name.split("/")[1], Problem(error.file, error.reason)
