"""Checking a store: are all documents whole, is every file there that a live commit needs, and, deep, every byte?

One damaged file does not hide the next: everything is looked at, and all that is wrong is reported. What nothing
refers to (left by a crash, or not collected yet) is not damage; it is listed as orphaned. What needs a newer embedstore
is not damage either; it is listed as unchecked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from embedstore.errors import (
    CorruptStoreError,
    FormatVersionError,
    MissingDependencyError,
    StorageError,
    StoreError,
)
from embedstore.records import not_finite
from embedstore.storage.listing import INDEX_NAME, ROOT_NAME, WebIndex
from embedstore.storage.local import TEMPORARY_PREFIX
from embedstore.storage.open_files import OpenFiles
from embedstore.storage.protocol import Storage, sha256_of, side_by_side
from embedstore.store.commits import CommitLog, Commits, is_document, read_condemned
from embedstore.store.documents import Commit, FileFact, Root, SpaceDocument, commit_file, commit_in, space_folders
from embedstore.store.index import KeyIndex, is_index, open_index
from embedstore.store.pins import Pin, is_pin
from embedstore.store.segment_files import as_strings
from embedstore.store.segments import Segment
from embedstore.store.signing import NO_TRUST, CommitSignatures, Members, Trust, signature_files
from embedstore.strict_json import canonical, facts, parsed, well_formed

NOT_CANONICAL = "it is not in canonical form (its rows can be read, and it stays)"
_PIECE_BYTES = 16 << 20


class Problem(NamedTuple):
    """One file that is not what it must be."""

    file: str
    reason: str


@dataclass(slots=True)
class VerifyReport:
    """What a check found."""

    deep: bool
    problems: list[Problem] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    """Files that nothing refers to."""
    unchecked: list[Problem] = field(default_factory=list)
    """What a newer embedstore wrote, and this one cannot judge."""
    refused: set[str] = field(default_factory=set)
    """Files among the problems that the storage refuses (permission, a bad disk): what is in them is not known."""
    checked_files: int = 0
    checked_bytes: int = 0
    signatures: int = 0
    """Valid signatures of commits, by any key."""

    @property
    def clean(self) -> bool:
        return not self.problems

    def add(self, file: str, error: StoreError) -> None:
        """Report what a file cannot be read for."""
        if isinstance(error, FormatVersionError):
            self.unchecked.append(Problem(file, f"it needs {', '.join(error.needs)}, a newer embedstore"))
        else:
            self.problems.append(Problem(file, reason(error)))
            if isinstance(error, StorageError):
                self.refused.add(file)

    def to_json(self) -> dict[str, Any]:
        document = facts(self)
        del document["refused"]  # they are among the problems
        return {"clean": self.clean, **document}


def verify(storage: Storage, *, deep: bool = False, members: Members | None = None) -> VerifyReport:
    """Check a store; see `VerifyReport`. Nothing is changed.

    Parameters
    ----------
    members : those whose signatures commits must have; None: signatures that are there are checked, none is required.
    """
    report = VerifyReport(deep)
    _check_document(storage, ROOT_NAME, Root.from_bytes, report, missing="it is gone")
    _check_document(storage, INDEX_NAME, WebIndex.from_bytes, report)
    pinned = _check_pins(storage, report)
    for folder in space_folders(storage):
        _SpaceCheck(storage, folder, pinned.pop(folder.split("/")[1], {}), report).run(members)
    for space_id, commits in pinned.items():
        report.problems += [
            Problem(f"spaces/{space_id}/{commit_file(commit)}", _gone(pin)) for commit, pin in commits.items()
        ]
    for place in ("", "pins/", "spaces/"):
        left = [entry.name for entry in storage.list(place) if entry.name.startswith(f"{place}{TEMPORARY_PREFIX}")]
        report.orphans += left
    report.problems.sort()
    report.unchecked.sort()
    report.orphans.sort()
    return report


def _check_document(
    storage: Storage, file: str, parse: Callable[[bytes], object], report: VerifyReport, missing: str | None = None
) -> None:
    """Read a document at the root; `missing` says what is wrong where it is not there, None: nothing."""
    try:
        parse(_read(storage, file, report))
    except FileNotFoundError:
        if missing is not None:
            report.problems.append(Problem(file, missing))
    except StoreError as error:
        report.add(file, error)


def _check_pins(storage: Storage, report: VerifyReport) -> dict[str, dict[str, str]]:
    """Return what must be there for pins: space id -> commit id -> file of the pin."""
    pinned: dict[str, dict[str, str]] = {}
    for entry in storage.list("pins/"):
        if is_pin(entry.name):
            try:
                pin = Pin.from_bytes(entry.name, _read(storage, entry.name, report))
            except FileNotFoundError:
                continue  # removed since the listing
            except StoreError as error:
                report.add(entry.name, error)
                continue
            for space, commits in pin.spaces.items():
                pinned.setdefault(space, {}).update(dict.fromkeys(commits, entry.name))
    return pinned


def _gone(pin: str) -> str:
    return f"it is gone, and {pin} needs it"


class _SpaceCheck:
    """The check of one space, `spaces/<id>/`.

    Parameters
    ----------
    pinned : commit id -> file of a pin that needs it.
    """

    def __init__(self, storage: Storage, folder: str, pinned: Mapping[str, str], report: VerifyReport) -> None:
        self._storage = storage
        self._folder = folder
        self._pinned = pinned
        self._report = report
        self._log = CommitLog(storage, folder)
        self._is_newer = False
        self._accounted: set[str] = set()
        """Files that the store knows the purpose of, whole or damaged."""

    def run(self, members: Members | None) -> None:
        indexes = self._indexes()  # before the commits are listed: they name none that comes later
        document = self._space_document()
        if document is None and self._is_newer:
            return
        commits = self._signed(self._commits(), members)
        replaced = commits.replaced
        live = {name: each for name, each in commits.readable.items() if name not in replaced or name in self._pinned}
        self._check_files(live.values())
        if document is not None:
            self._check_segments(commits, live, indexes, _row_bytes(document), np.dtype(document.recipe.dtype))
        collected = self._condemned()
        indexed = {commit for index in indexes.values() for commit in index.commits}
        needed = dict.fromkeys(indexed - replaced - collected, "it is gone, and an index names it")
        needed |= {commit: _gone(pin) for commit, pin in self._pinned.items()}
        for lost, why in sorted(needed.items()):
            if f"{self._folder}{commit_file(lost)}" not in self._accounted:
                self._problem(commit_file(lost), why)
        self._accounted |= {f"{self._folder}{file}" for commit in commits.readable.values() for file in commit.files}
        for entry in self._storage.walk(self._folder):
            if entry.name not in self._accounted:
                self._report.orphans.append(entry.name)

    def _space_document(self) -> SpaceDocument | None:
        file = f"{self._folder}space.json"
        self._accounted.add(file)
        try:
            return SpaceDocument.from_bytes(file, _read(self._storage, file, self._report))
        except FileNotFoundError:
            if self._log.ids():
                self._problem("space.json", "it is gone, and there are commits")
        except StoreError as error:
            self._is_newer = isinstance(error, FormatVersionError)
            self._report.add(file, error)
        return None

    def _commits(self) -> Commits:
        listed = self._log.ids()
        self._accounted.update(self._log.file(commit) for commit in listed)
        commits = self._log.read(listed, whatever_refuses=True)
        for commit_id, error in commits.unreadable.items():
            self._report.add(self._log.file(commit_id), error)
        readable = sorted(commits.readable)
        looks = side_by_side(self._look_at_commit, readable, self._storage.requests_at_once)
        for commit_id, (size_bytes, is_canonical) in zip(readable, looks, strict=True):
            self._report.checked_files += 1
            self._report.checked_bytes += size_bytes
            if not is_canonical:
                self._problem(commit_file(commit_id), NOT_CANONICAL)
        return commits

    def _look_at_commit(self, commit_id: str) -> tuple[int, bool]:
        """Return the size of a commit, and whether it is in canonical form, with all that this version ignores."""
        file = self._log.file(commit_id)
        try:
            content = self._storage.read(file)
            with well_formed(file):
                return len(content), canonical(parsed(file, content)) == content
        except FileNotFoundError:  # replaced and collected since it was read
            return 0, True
        except StoreError:  # a number in it that JSON does not have
            return 0, False

    def _condemned(self) -> set[str]:
        """Return the commits that somebody is removing, or has removed lately."""
        named: set[str] = set()
        for entry in self._storage.list(f"{self._folder}gc/"):
            if is_document(entry.name[len(self._folder) :]):
                self._accounted.add(entry.name)
                try:
                    named.update(read_condemned(self._storage, entry).files)
                except FileNotFoundError:
                    continue  # done with since the listing
                except StoreError as error:
                    wrong = f"{reason(error)} (what it condemned stays; it may be deleted)"
                    self._report.problems.append(Problem(entry.name, wrong))
        return {commit for name in named if (commit := commit_in(name)) is not None}

    def _signed(self, commits: Commits, members: Members | None) -> Commits:
        """Check all signatures; return the commits that count, which are all where none are required."""
        for commit, files in signature_files(self._storage, self._folder).items():
            self._accounted.update(files if f"{self._folder}{commit_file(commit)}" in self._accounted else ())
            for file in files:
                self._check_signature(file)
        if members is None:
            return commits
        signatures = CommitSignatures(self._storage, self._folder, Trust(members=members))
        trusted = commits.of(signatures.trusted(commits.readable.keys()))
        unsigned = commits.readable.keys() - trusted.readable.keys()
        for name in unsigned - trusted.replaced:
            self._problem(commit_file(name), "no member has signed it")
        for name in unsigned:
            self._accounted |= {f"{self._folder}{file}" for file in commits.readable[name].files}
        return trusted

    def _check_signature(self, file: str) -> None:
        signatures = CommitSignatures(self._storage, self._folder, NO_TRUST)
        try:
            valid = signatures.read(file).valid
        except (FileNotFoundError, MissingDependencyError):
            return  # collected since the listing, or nobody here can tell
        except StoreError as error:
            self._report.add(file, error)
            return
        self._report.checked_files += 1
        if valid:
            self._report.signatures += 1
        else:
            self._report.problems.append(Problem(file, "its key has not signed that commit"))

    def _check_files(self, commits: Iterable[Commit]) -> None:
        wanted = [(file, fact) for commit in commits for file, fact in commit.files.items()]
        looks = side_by_side(self._look_at, wanted, self._storage.requests_at_once)
        for (file, _), (size_bytes, wrong) in zip(wanted, looks, strict=True):
            self._report.checked_files += size_bytes is not None
            self._report.checked_bytes += (size_bytes or 0) if self._report.deep else 0
            if wrong is not None:
                self._problem(file, wrong)

    def _look_at(self, wanted: tuple[str, FileFact]) -> tuple[int | None, str | None]:
        """Return the size of a file, None where there is none, and what is wrong with it."""
        file, fact = wanted
        found = None
        try:
            found = self._storage.entry(f"{self._folder}{file}").size_bytes
            if found != fact.size_bytes:
                return found, f"expected {fact.size_bytes} bytes, found {found}"
            digest = self._digest(file, found) if self._report.deep else fact.sha256
        except FileNotFoundError:
            return found, "it is gone, and a live commit needs it"
        except StorageError as error:
            self._report.refused.add(f"{self._folder}{file}")
            return found, str(error)
        except StoreError as error:
            return found, reason(error)
        return found, None if digest == fact.sha256 else f"expected SHA-256 {fact.sha256}, found {digest}"

    def _digest(self, file: str, size_bytes: int) -> str:
        name = f"{self._folder}{file}"
        if size_bytes <= _PIECE_BYTES:  # read again: an opened file may come from memory
            return hashlib.sha256(self._storage.read(name)).hexdigest()
        return sha256_of(self._storage.open(name, size_bytes, mapped=False), size_bytes)

    def _check_segments(
        self,
        commits: Commits,
        live: Mapping[str, Commit],
        indexes: Mapping[str, KeyIndex],
        row_bytes: int,
        dtype: np.dtype[Any],
    ) -> None:
        """Check the rows of live segments, and the indexes over segments that are there."""
        files = OpenFiles(self._storage, mapped=False)  # a disk that fails must be an error, not the end of the process
        segments: dict[str, Segment] = {}
        for name, commit in commits.readable.items():
            try:
                segments[name] = Segment(files, self._folder, name, commit, row_bytes)
                if self._report.deep and name in live:
                    self._check_rows(segments[name], dtype)
            except (FileNotFoundError, StorageError):
                pass  # reported as a file
            except CorruptStoreError as error:
                self._report.problems.append(Problem(error.file, reason(error)))
        for file, index in indexes.items():
            if self._report.deep and set(index.commits) <= segments.keys() & live.keys():
                with suppress(FileNotFoundError, StoreError):  # reported as a file
                    if not index.is_over([segments[commit] for commit in index.commits]):
                        wrong = "it does not have the keys of its segments (derived: it may be deleted)"
                        self._report.problems.append(Problem(file, wrong))

    def _check_rows(self, segment: Segment, dtype: np.dtype[Any]) -> None:
        """Check what digests of files cannot say: that the rows were right when they were written."""
        keys = segment.keys
        strings = as_strings(keys)
        if not (strings[:-1] < strings[1:]).all():
            self._problem(segment.commit.arrays["key"][0].file, "its keys are not sorted and distinct")
        step = max(1, _PIECE_BYTES // segment.row_bytes)
        for start in range(0, len(segment), step):
            rows = np.arange(start, min(start + step, len(segment)))
            vectors = segment.read_rows(rows, keys[rows]).view(dtype.newbyteorder("<"))
            if len(not_finite(vectors)):
                self._problem(segment.commit.arrays["vectors"][0].file, "it has vectors that are not finite")
                break

    def _indexes(self) -> dict[str, KeyIndex]:
        """Open and return the indexes, by file."""
        indexes: dict[str, KeyIndex] = {}
        for entry in self._storage.list(f"{self._folder}index/"):
            if not is_index(entry.name[len(self._folder) :]):
                continue
            self._accounted.add(entry.name)
            try:
                indexes[entry.name] = open_index(self._storage, entry.name, entry.size_bytes, check=self._report.deep)
            except FileNotFoundError:
                continue  # replaced by a newer one since the listing
            except StoreError as error:
                self._report.problems.append(Problem(entry.name, f"{reason(error)} (derived: it may be deleted)"))
                continue
            self._report.checked_files += 1
            self._report.checked_bytes += entry.size_bytes if self._report.deep else 0
        return indexes

    def _problem(self, file: str, wrong: str) -> None:
        self._report.problems.append(Problem(f"{self._folder}{file}", wrong))


def _read(storage: Storage, file: str, report: VerifyReport) -> bytes:
    content = storage.read(file)
    report.checked_files += 1
    report.checked_bytes += len(content)
    return content


def _row_bytes(document: SpaceDocument) -> int:
    return document.recipe.dim * np.dtype(document.recipe.dtype).itemsize


def reason(error: Exception) -> str:
    """What is wrong with a file, without its name."""
    return error.reason if isinstance(error, CorruptStoreError) else str(error)
