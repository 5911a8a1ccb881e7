"""Copying one space from a store to another.

    segment by segment, older first ─▶ which of its rows are missing at the destination?
        all, and nothing speaks against it ─▶ its files as they are, each against its SHA-256, then its commit
        some                               ─▶ those rows, each against its checksum, appended as a new segment

A segment that is copied as it is gets files of new names, since a collector may be about to remove what once had the
old ones. Its commit says which it is a copy of, so who signed that still vouches for it. But a commit makes others dead
by naming them, and at the destination those may hold rows that it does not have itself (after a repair). So one that
replaces others goes over as it is only if it is signed and they are not there; one that is not signed goes without that
list.

Vectors that are not finite, and keys that are not in order, do not go over.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import CorruptStoreError, InputError, StorageError
from embedstore.filling.intake import DistinctKeys
from embedstore.sharing.files import PassingFile
from embedstore.sharing.report import OnCopied, SpaceCopy
from embedstore.sharing.source import SourceSpace
from embedstore.store.commits import CommitLog
from embedstore.store.documents import COSTS, Commit
from embedstore.store.rows import as_strings
from embedstore.store.segments import CRC_BYTES, Segment
from embedstore.store.signatures import CommitSignatures, Trust
from embedstore.store.space import Space
from embedstore.store.storage import side_by_side
from embedstore.store.verification import Problem
from embedstore.types import KEY_BYTES, EmbeddingBatch

_WINDOW_ROWS = 1 << 18
_APPENDED_BYTES = 128 << 20
_FILES_AT_ONCE = 4
_SEGMENTS_A_REFRESH = 16
_MAX_PASSES = 5


def count_missing(source: SourceSpace, destination: Space | None, done: SpaceCopy) -> None:
    """Count what would be copied, each key once.

    Parameters
    ----------
    destination : None: it has no such space.
    """
    segments, done.problems = source.segments()
    total = 0
    with DistinctKeys() as distinct:
        for segment in segments:
            try:
                missing = _missing(segment, destination)
                for some in _windows(missing, _WINDOW_ROWS):
                    distinct.add(segment.keys_at(some))
            except (CorruptStoreError, FileNotFoundError) as error:
                done.problems.append(_problem(error, source))
                continue
            total += len(segment)
            done.size_bytes += _size_bytes(segment, len(missing))
        done.copied = distinct.count()
    done.skipped = total - done.copied


class SpaceCopier:
    """Copies what one space lacks.

    Parameters
    ----------
    trust : of the destination: what nobody vouches for there is appended by who copies, who signs it.
    done : brought up to date as it goes.
    """

    def __init__(
        self, source: SourceSpace, destination: Space, trust: Trust, done: SpaceCopy, on_copied: OnCopied | None
    ) -> None:
        self._source = source
        self._trusted_there = CommitSignatures(source.storage, source.folder, Trust(members=trust.members))
        self._there = destination
        self._done = done
        self._on_copied = on_copied
        self._log = CommitLog(destination.storage, destination.folder)
        self._known: set[str] = set()
        """Commits at the destination, dead ones too."""
        self._published: set[str] = set()
        self._since_refresh = 0

    def run(self) -> None:
        """Copy all segments; again, where some were merged away meanwhile or met a commit that replaces them."""
        for _ in range(_MAX_PASSES):
            vanished = self._pass()
            if not vanished and self._has_arrived():
                break
        self._there.refresh()
        self._there.optimise()

    def _has_arrived(self) -> bool:
        """Tell whether what was published is there, and nobody has replaced it meanwhile."""
        storage, folder = self._there.storage, self._there.folder
        try:
            storage.entry(f"{folder}space.json")
        except FileNotFoundError:
            raise StorageError(f"Cannot copy space {self._done.name}: it was removed there meanwhile.") from None
        try:  # asked one by one, since a listing may be older than they are
            for commit in self._published:
                storage.entry(self._log.file(commit))
        except FileNotFoundError:
            return False
        return self._published.isdisjoint(self._log.read().replaced)

    def _pass(self) -> bool:
        """Go through the segments once, and tell whether one vanished meanwhile."""
        self._look()
        segments, self._done.problems = self._source.segments()
        total = uncopied = 0
        vanished = False
        for segment in segments:
            total += len(segment)
            try:
                self._copy(segment)
            except FileNotFoundError as error:
                uncopied += len(segment)
                if self._source.is_live(segment.commit_id):
                    self._done.problems.append(_problem(error, self._source))
                else:
                    vanished = True
            except (CorruptStoreError, InputError) as error:
                uncopied += self._count_missing(segment)
                self._done.problems.append(_problem(error, self._source, segment))
            self._done.skipped = max(0, total - self._done.copied - uncopied)
            if self._on_copied is not None:
                self._on_copied(self._done)
        return vanished

    def _look(self) -> None:
        """See what is at the destination now."""
        self._there.refresh()
        self._known = self._log.ids()
        self._published = set()
        self._since_refresh = 0

    def _copy(self, segment: Segment) -> None:
        if self._since_refresh >= _SEGMENTS_A_REFRESH:  # looking costs a listing, and their keys once more
            self._there.refresh()
            self._there.optimise()
            self._since_refresh = 0
        missing = _missing(segment, self._there)
        if not len(missing):
            return
        if len(missing) == len(segment) and self._copy_whole(segment):
            self._done.copied += len(segment)
            self._done.size_bytes += segment.commit.size_bytes
            self._since_refresh += 1
        else:
            self._append(segment, missing)

    def _copy_whole(self, segment: Segment) -> bool:
        """Copy a segment as it is; False where it must not be."""
        commit, signatures = segment.commit, self._source.vouching(segment)
        if signatures and (commit.id != segment.commit_id or not self._known.isdisjoint(commit.replaces)):
            return False
        if not self._trusted_there.trusted({segment.commit_id}):
            return False

        def write() -> Commit:
            copy = commit.copied(uuid.uuid4().hex, signed=bool(signatures))
            names = list(zip(commit.files, copy.files, strict=True))
            for _ in side_by_side(partial(self._copy_file, commit), names, at_once):
                pass
            return copy

        def sign(copy: Commit) -> None:
            for signature in signatures:
                self._there.signatures.add(copy, signature)

        at_once = min(_FILES_AT_ONCE, max(self._source.storage.requests_at_once, self._there.storage.requests_at_once))
        published = self._log.publish(write, sign)
        assert published is not None  # noqa: S101 - what writes always has a commit
        self._published.add(published.id)
        return True

    def _copy_file(self, commit: Commit, names: tuple[str, str]) -> None:
        source, destination = names
        places = [
            (part.offset, part.offset + part.rows * self._source.row_bytes)
            for part in commit.arrays["vectors"]
            if part.file == source
        ]
        file = PassingFile(
            self._source.storage, f"{self._source.folder}{source}", commit.files[source], places, self._source.dtype
        )
        file.copy_to(self._there.storage, f"{self._there.folder}{destination}")

    def _append(self, segment: Segment, rows: NDArray[np.int64]) -> None:
        for some in _windows(rows, max(1, _APPENDED_BYTES // segment.row_bytes)):
            keys = segment.keys_at(some)
            vectors = segment.read_rows(some, keys).view(self._source.dtype.newbyteorder("<"))
            added = self._there.append(EmbeddingBatch(keys, vectors), self._provenance(segment, len(some)))
            self._done.copied += added
            self._done.size_bytes += _size_bytes(segment, added)

    def _provenance(self, segment: Segment, rows: int) -> dict[str, Any]:
        """What is known of some rows of a segment; their share of what it cost."""
        known = segment.commit.provenance
        share = rows / len(segment)
        costs = {name: known[name] * share for name in COSTS if name in known}
        if "letters" in costs:
            costs["letters"] = round(costs["letters"])
        return {**known, **costs, "copied_from": {"store": self._source.store_id, "commit": segment.commit_id}}

    def _count_missing(self, segment: Segment) -> int:
        try:
            return len(_missing(segment, self._there))
        except (CorruptStoreError, FileNotFoundError):
            return len(segment)


def _missing(segment: Segment, destination: Space | None) -> NDArray[np.int64]:
    """Rows of a segment whose keys a space has not: ascending int64.

    Raises
    ------
    CorruptStoreError : its keys are not in order, so that some of them could not be found.
    """
    rows = np.arange(len(segment))
    absent = [rows[:0]]
    last = as_strings(np.zeros((0, KEY_BYTES), np.uint8))
    for some in _windows(rows, _WINDOW_ROWS):
        keys = segment.keys_at(some)
        strings = np.concatenate([last, as_strings(keys)])
        if not (strings[:-1] < strings[1:]).all():
            raise CorruptStoreError(segment.commit.arrays["key"][0].file, "its keys are not sorted and distinct")
        last = strings[-1:]
        absent.append(some if destination is None else some[~destination.contains(keys)])
    return np.concatenate(absent)


def _windows(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _size_bytes(segment: Segment, rows: int) -> int:
    """Bytes of some rows of a segment; of all, those of its files."""
    return segment.commit.size_bytes if rows == len(segment) else rows * (segment.row_bytes + KEY_BYTES + CRC_BYTES)


def _problem(error: Exception, source: SourceSpace, segment: Segment | None = None) -> Problem:
    if isinstance(error, CorruptStoreError):
        return Problem(error.file, error.reason)
    if isinstance(error, FileNotFoundError):
        name = str(error.filename or "").partition(source.folder)[2]
        return Problem(f"{source.folder}{name}", "it is gone, and a live commit needs it")
    return Problem(f"{source.folder}commits/{segment.commit_id if segment else ''}.json", str(error))
