"""The space that is copied from, read commit by commit, so that one damaged segment does not hide the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from embedstore.errors import CorruptStoreError, FormatVersionError, MissingDependencyError, StorageError
from embedstore.store import SpaceStore
from embedstore.store.commits import CommitLog
from embedstore.store.documents import SpaceDocument, space_folders
from embedstore.store.open_files import OpenFiles
from embedstore.store.segments import Segment
from embedstore.store.signatures import CommitSignatures, Signature, signature_files
from embedstore.store.verification import Problem, reason


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
        self._log = CommitLog(store.storage, self.folder)
        self._signatures = CommitSignatures(store.storage, self.folder, store.trust)

    def segments(self) -> tuple[list[Segment], list[Problem]]:
        """Return what is live now, older first, and which commits are damaged."""
        commits = self._log.read(self._signatures.trusted(self._log.ids()))
        problems = [Problem(self._log.file(commit), reason(error)) for commit, error in commits.unreadable.items()]
        segments = []
        for name in commits.live:
            try:
                segments.append(Segment(self._files, self.folder, name, commits.readable[name], self.row_bytes))
            except CorruptStoreError as error:
                problems.append(Problem(error.file, error.reason))
        return segments, problems

    def is_live(self, commit: str) -> bool:
        """Tell whether a commit is still there, and nothing replaces it."""
        return commit in self._log.read().live

    def vouching(self, segment: Segment) -> list[Signature]:
        """Return the signatures of a segment that vouch for it; those that are damaged, or false, are left out.

        Where cryptography is not installed nobody can tell, and all go along: whoever reads them checks them.
        """
        found = []
        for file in signature_files(self.storage, self.folder).get(segment.commit_id, []):
            with suppress(CorruptStoreError, FormatVersionError, FileNotFoundError):
                signature = self._signatures.read(file)
                if _may_be_valid(signature):
                    found.append(signature)
        return found


def _may_be_valid(signature: Signature) -> bool:
    try:
        return signature.valid
    except MissingDependencyError:
        return True


def read_documents(store: SpaceStore) -> Iterator[tuple[str, SpaceDocument | Problem]]:
    """Yield the id and the document of every space of a store, or what is wrong with it."""
    for folder in space_folders(store.storage):
        file, space_id = f"{folder}space.json", folder.split("/")[1]
        try:
            yield space_id, SpaceDocument.from_bytes(file, store.storage.read(file))
        except FileNotFoundError:  # being made just now, or removed
            continue
        except (CorruptStoreError, FormatVersionError, StorageError) as error:
            yield space_id, Problem(file, reason(error))
