"""Copying one space from a store to another, and what was copied.

    segment by segment, older first ─▶ which of its rows are missing at the destination?
        all, and nothing speaks against it ─▶ its files as they are, each against its SHA-256, then its commit
        some                               ─▶ those rows, each against its checksum, appended as a new segment

A segment that is copied as it is gets files of new names, since a collector may be about to remove what once had the
old ones. Its commit says which it is a copy of, so who signed that still vouches for it. But a commit makes others dead
by naming them, and at the destination those may hold rows that it does not have itself (after a repair). So one that
replaces others is copied as it is only if it is signed and they are not there; one that is not signed is copied without
that list.

The space that is copied from is read commit by commit, so that one damaged segment does not hide the others. Files are
digested as they pass by. Vectors that are not finite, rows without their checksum, and keys that are not in order are
not copied.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import CorruptStoreError, FormatVersionError, InputError, MissingDependencyError, StorageError
from embedstore.filling.intake import DistinctKeys
from embedstore.records import KEY_BYTES, EmbeddingBatch
from embedstore.storage.open_files import OpenFiles
from embedstore.storage.protocol import Buffer, Storage, memory, side_by_side
from embedstore.store import SpaceStore
from embedstore.store.commits import CommitLog
from embedstore.store.documents import COSTS, Commit, FileFact, SpaceDocument, space_folders
from embedstore.store.segment_files import as_strings
from embedstore.store.segments import CRC_BYTES, Segment
from embedstore.store.signing import CommitSignatures, Signature, Trust, signature_files
from embedstore.store.space import Space
from embedstore.store.verification import Problem, reason
from embedstore.strict_json import facts

Direction = Literal["push", "pull"]


@dataclass(slots=True)
class SpaceCopy:
    """One space copied from one store to another; brought up to date as it goes.

    Attributes
    ----------
    direction : "push" to the far store, "pull" from it.
    copied : rows that were missing at the destination and are there now, or would be.
    skipped : rows that were there already.
    size_bytes : of what was copied.
    problems : what could not be copied, and why; all else was.
    """

    name: str
    id: str
    direction: Direction
    copied: int = 0
    skipped: int = 0
    size_bytes: int = 0
    problems: list[Problem] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; the keys are a contract."""
        return facts(self, size_bytes="bytes")


OnCopied = Callable[[SpaceCopy], object]
"""Called after each segment with how far its space is."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What was copied between two stores.

    Attributes
    ----------
    near : where the one store lies.
    far : where the other one lies.
    spaces : one for each space and direction.
    dry_run : nothing was copied; the numbers say what would be.
    """

    near: str
    far: str
    spaces: tuple[SpaceCopy, ...]
    seconds: float
    dry_run: bool = False

    @property
    def copied(self) -> int:
        """Rows copied, in all spaces."""
        return sum(space.copied for space in self.spaces)

    @property
    def skipped(self) -> int:
        """Rows that were there already, in all spaces."""
        return sum(space.skipped for space in self.spaces)

    @property
    def size_bytes(self) -> int:
        """Bytes copied, in all spaces."""
        return sum(space.size_bytes for space in self.spaces)

    @property
    def complete(self) -> bool:
        """Whether all that was to be copied could be."""
        return not any(space.problems for space in self.spaces)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values; the keys are a contract."""
        return {
            "near": self.near,
            "far": self.far,
            "copied": self.copied,
            "skipped": self.skipped,
            "bytes": self.size_bytes,
            "complete": self.complete,
            "dry_run": self.dry_run,
            "seconds": round(self.seconds, 3),
            "spaces": [space.to_json() for space in self.spaces],
        }


_PIECE_BYTES = 8 << 20  # in memory at once, a few times over


class PassingFile:
    """One file of a segment, read piece by piece; the last piece is given only if the whole is what it must be.

    Parameters
    ----------
    name : in the source.
    fact : its size and digest.
    vectors : (start, stop) of the bytes that are vectors.
    """

    def __init__(
        self, source: Storage, name: str, fact: FileFact, vectors: Sequence[tuple[int, int]], dtype: np.dtype[Any]
    ) -> None:
        self._source = source
        self._name = name
        self._fact = fact
        self._vectors = vectors
        self._dtype = dtype.newbyteorder("<")
        self._damage: CorruptStoreError | None = None

    def copy_to(self, destination: Storage, name: str) -> None:
        """Write it under a name that was never used.

        Parameters
        ----------
        destination : where it goes.
        name : what it is called there.

        Raises
        ------
        CorruptStoreError : it is not what its commit says, or has vectors that are not finite.
        FileNotFoundError : it is gone.
        StorageError : something else has the new name.
        """
        try:
            written = destination.write(name, self._pieces())
        except StorageError as error:
            if self._damage is not None:  # only says that the writing stopped
                raise self._damage from error
            raise
        if self._damage is not None:
            raise self._damage
        if written.size_bytes != self._fact.size_bytes:
            raise StorageError(
                f"Cannot copy {self._name} to {destination.location}: something else is there as {name}."
            )

    def _pieces(self) -> Iterator[Buffer]:
        blob = self._source.open(self._name, self._fact.size_bytes)
        digest = hashlib.sha256()
        held: Buffer = b""
        before = np.empty(0, np.uint8)
        for start in range(0, self._fact.size_bytes, _PIECE_BYTES):
            yield held
            piece = blob.bytes(start, min(_PIECE_BYTES, self._fact.size_bytes - start))
            if self._vectors and not self._are_finite(start - len(before), np.concatenate([before, piece])):
                raise self._damaged("it has vectors that are not finite")
            digest.update(memory(piece))
            before = piece[1 - self._dtype.itemsize :]  # where a value is cut in two
            held = piece
        if digest.hexdigest() != self._fact.sha256:
            raise self._damaged(f"expected SHA-256 {self._fact.sha256}, found {digest.hexdigest()}")
        yield held

    def _are_finite(self, start: int, piece: NDArray[np.uint8]) -> bool:
        """Look at the values of vectors that a piece, which begins at some byte of the file, has whole."""
        size_bytes = self._dtype.itemsize
        for first, last in self._vectors:
            begin = max(first, start + (first - start) % size_bytes)
            count = (min(last, start + len(piece)) - begin) // size_bytes
            if count > 0:
                values = piece[begin - start : begin - start + count * size_bytes].view(self._dtype)
                if not np.isfinite(values).all():
                    return False
        return True

    def _damaged(self, reason: str) -> CorruptStoreError:
        self._damage = CorruptStoreError(self._name, reason)
        return self._damage


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

        Where cryptography is not installed nobody can tell, and all are copied: readers check them.
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


_WINDOW_ROWS = 1 << 18
_APPENDED_BYTES = 128 << 20
_FILES_AT_ONCE = 4
_SEGMENTS_A_REFRESH = 16
_MAX_PASSES = 5


def count_missing(source: SourceSpace, destination: Space | None, done: SpaceCopy) -> None:
    """Count what would be copied, each key once.

    Parameters
    ----------
    source : the space that would be copied.
    destination : None: it has no such space.
    done : takes the counts, and what cannot be read.
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
    """Copies what is missing in one space.

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
            self._refuse_wrong_rows(segment, copy)
            return copy

        def sign(copy: Commit) -> None:
            for signature in signatures:
                self._there.signatures.add(copy, signature)

        at_once = min(_FILES_AT_ONCE, max(self._source.storage.requests_at_once, self._there.storage.requests_at_once))
        published = self._log.publish(write, sign)
        assert published is not None  # noqa: S101 - what writes always has a commit
        self._published.add(published.id)
        return True

    def _refuse_wrong_rows(self, segment: Segment, copy: Commit) -> None:
        """Refuse a segment whose files are what its commit says, but not its rows: here they would be in the way.

        Read where it takes less time; what was copied is removed if it is refused, since nothing refers to it.
        """
        there, name = self._there, f"{self._source.folder}{segment.commit.arrays['vectors'][0].file}"
        if self._source.storage.requests_at_once > there.storage.requests_at_once:
            segment = Segment(OpenFiles(there.storage), there.folder, copy.id, copy, segment.row_bytes)
        wrong = len(segment) - int(np.count_nonzero(segment.whole_rows(self._source.dtype)))
        if wrong:
            for file in copy.files:
                there.storage.delete(f"{there.folder}{file}")
            raise CorruptStoreError(name, f"{wrong} of {len(segment)} rows do not have their checksum")

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
