"""Checking a store: are all documents whole, is every file there that a live commit needs, and, deep, every byte?

One damaged file does not hide the next: everything is looked at, and all that is wrong is reported. What nothing
refers to (left by a crash, or not collected yet) is no damage; it is listed as orphaned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from embedstore.errors import CorruptStoreError, MissingDependencyError, StorageError, StoreError
from embedstore.store.condemned import read_condemned
from embedstore.store.documents import ROOT_NAME, Commit, FileFact, Root, SpaceDocument, commit_id, is_commit
from embedstore.store.index import open_index
from embedstore.store.local import TEMPORARY_PREFIX
from embedstore.store.open_files import OpenFiles
from embedstore.store.pins import Pin
from embedstore.store.rows import as_strings
from embedstore.store.segments import Segment
from embedstore.store.signatures import CommitSignatures, Signature, Trust, signature_files
from embedstore.store.signing_keys import Members
from embedstore.store.storage import Storage, sha256_of, side_by_side

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
    checked_files: int = 0
    checked_bytes: int = 0
    signatures: int = 0
    """Valid signatures of commits, whoever made them."""

    @property
    def clean(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        return {
            "clean": self.clean,
            "deep": self.deep,
            "problems": [problem._asdict() for problem in self.problems],
            "orphans": self.orphans,
            "checked_files": self.checked_files,
            "checked_bytes": self.checked_bytes,
            "signatures": self.signatures,
        }


def verify(storage: Storage, *, deep: bool = False, members: Members | None = None) -> VerifyReport:
    """Check a store; see `VerifyReport`. Nothing is changed.

    Parameters
    ----------
    members : those whose signatures commits must have; None: signatures that are there are checked, none is required.
    """
    report = VerifyReport(deep)
    try:
        Root.from_bytes(_read(storage, ROOT_NAME, report))
    except FileNotFoundError:
        report.problems.append(Problem(ROOT_NAME, "it is gone"))
    except StoreError as error:
        report.problems.append(Problem(ROOT_NAME, _reason(error)))
    pinned = _check_pins(storage, report)
    for folder in storage.list("spaces/"):
        if folder.name.endswith("/"):
            _SpaceCheck(storage, folder.name, pinned.pop(folder.name.split("/")[1], {}), report).run(members)
    for space_id, commits in pinned.items():
        report.problems += [
            Problem(f"spaces/{space_id}/commits/{commit}.json", _gone(pin)) for commit, pin in commits.items()
        ]
    for place in ("", "pins/"):
        left = [entry.name for entry in storage.list(place) if entry.name.startswith(f"{place}{TEMPORARY_PREFIX}")]
        report.orphans += left
    report.problems.sort()
    report.orphans.sort()
    return report


def _check_pins(storage: Storage, report: VerifyReport) -> dict[str, dict[str, str]]:
    """Return what must be there for pins: space id -> commit id -> file of the pin."""
    pinned: dict[str, dict[str, str]] = {}
    for entry in storage.list("pins/"):
        if entry.name.endswith(".json"):
            try:
                pin = Pin.from_bytes(entry.name, _read(storage, entry.name, report))
            except FileNotFoundError:
                continue  # removed since the listing
            except StoreError as error:
                report.problems.append(Problem(entry.name, _reason(error)))
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
        self._accounted: set[str] = set()
        """Files that the store knows the purpose of, whole or damaged."""

    def run(self, members: Members | None) -> None:
        indexed = self._check_indexes()  # before the commits are listed: they name none that comes later
        document = self._space_document()
        commits = self._signed(self._commits(), members)
        replaced = {old for commit in commits.values() for old in commit.replaces}
        live = {name: commit for name, commit in commits.items() if name not in replaced or name in self._pinned}
        files = OpenFiles(self._storage)
        self._check_files(live.values())
        for name, commit in live.items():
            if document is not None:
                self._check_segment(files, name, commit, _row_bytes(document))
        collected = self._condemned()
        needed = dict.fromkeys(indexed - replaced - collected, "it is gone, and an index names it")
        needed |= {commit: _gone(pin) for commit, pin in self._pinned.items()}
        for lost, reason in sorted(needed.items()):
            if f"{self._folder}commits/{lost}.json" not in self._accounted:
                self._problem(f"commits/{lost}.json", reason)
        self._accounted |= {f"{self._folder}{file}" for commit in commits.values() for file in commit.files}
        for entry in self._storage.walk(self._folder):
            if entry.name not in self._accounted:
                self._report.orphans.append(entry.name)

    def _space_document(self) -> SpaceDocument | None:
        file = f"{self._folder}space.json"
        self._accounted.add(file)
        try:
            return SpaceDocument.from_bytes(file, _read(self._storage, file, self._report))
        except FileNotFoundError:
            if self._storage.list(f"{self._folder}commits/"):
                self._problem("space.json", "it is gone, and there are commits")
        except StoreError as error:
            self._problem("space.json", _reason(error))
        return None

    def _commits(self) -> dict[str, Commit]:
        listed = self._storage.list(f"{self._folder}commits/")
        names = [entry.name for entry in listed if is_commit(entry.name)]
        self._accounted.update(names)
        commits = {}
        for name, found in zip(
            names, side_by_side(self._read_commit, names, self._storage.requests_at_once), strict=True
        ):
            if isinstance(found, StoreError):
                self._report.problems.append(Problem(name, _reason(found)))
            elif found is not None:
                content, commit = found
                self._report.checked_files += 1
                self._report.checked_bytes += len(content)
                if f"spaces/{commit.space_id}/" == self._folder:
                    commits[commit_id(name)] = commit
                else:
                    self._report.problems.append(Problem(name, f"it is a commit of space {commit.space_id}"))
        return commits

    def _read_commit(self, name: str) -> tuple[bytes, Commit] | StoreError | None:
        try:
            content = self._storage.read(name)
            return content, Commit.from_bytes(name, content)
        except FileNotFoundError:
            return None  # replaced and collected since the listing
        except StoreError as error:
            return error

    def _condemned(self) -> set[str]:
        """Return the commits that somebody is removing, or has removed lately."""
        named: set[str] = set()
        for entry in self._storage.list(f"{self._folder}gc/"):
            if entry.name.endswith(".json"):
                self._accounted.add(entry.name)
                try:
                    named.update(read_condemned(self._storage, entry).files)
                except FileNotFoundError:
                    continue  # done with since the listing
                except StoreError as error:
                    reason = f"{_reason(error)} (what it condemned stays; it may be deleted)"
                    self._report.problems.append(Problem(entry.name, reason))
        return {commit_id(name) for name in named if is_commit(name)}

    def _signed(self, commits: dict[str, Commit], members: Members | None) -> dict[str, Commit]:
        """Check all signatures; return the commits that count, which are all where none are required."""
        for commit, files in signature_files(self._storage, self._folder).items():
            self._accounted.update(files if f"{self._folder}commits/{commit}.json" in self._accounted else ())
            for file in files:
                self._check_signature(file)
        if members is None:
            return commits
        trusted = CommitSignatures(self._storage, self._folder, Trust(members=members)).trusted(commits.keys())
        replaced = {old for name in trusted for old in commits[name].replaces}
        for name in commits.keys() - trusted - replaced:
            self._problem(f"commits/{name}.json", "no member has signed it")
        for name in commits.keys() - trusted:
            self._accounted |= {f"{self._folder}{file}" for file in commits[name].files}
        return {name: commit for name, commit in commits.items() if name in trusted}

    def _check_signature(self, file: str) -> None:
        try:
            valid = Signature.from_bytes(file, _read(self._storage, file, self._report)).valid
        except (FileNotFoundError, MissingDependencyError):
            return  # collected since the listing, or nobody here can tell
        except StoreError as error:
            self._report.problems.append(Problem(file, _reason(error)))
            return
        if valid:
            self._report.signatures += 1
        else:
            self._report.problems.append(Problem(file, "its key has not signed that commit"))

    def _check_files(self, commits: Iterable[Commit]) -> None:
        wanted = [(file, fact) for commit in commits for file, fact in commit.files.items()]
        looks = side_by_side(self._look_at, wanted, self._storage.requests_at_once)
        for (file, _), (size_bytes, reason) in zip(wanted, looks, strict=True):
            self._report.checked_files += size_bytes is not None
            self._report.checked_bytes += (size_bytes or 0) if self._report.deep else 0
            if reason is not None:
                self._problem(file, reason)

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
        except StoreError as error:
            return found, _reason(error)
        return found, None if digest == fact.sha256 else f"expected SHA-256 {fact.sha256}, found {digest}"

    def _digest(self, file: str, size_bytes: int) -> str:
        name = f"{self._folder}{file}"
        if size_bytes <= _PIECE_BYTES:  # read anew: an opened file may come from memory
            return hashlib.sha256(self._storage.read(name)).hexdigest()
        return sha256_of(self._storage.open(name, size_bytes), size_bytes)

    def _check_segment(self, files: OpenFiles, name: str, commit: Commit, row_bytes: int) -> None:
        try:
            segment = Segment(files, self._folder, name, commit, row_bytes)
            if self._report.deep:
                self._check_rows(segment)
        except (FileNotFoundError, StorageError):
            pass  # reported as a file
        except CorruptStoreError as error:
            self._report.problems.append(Problem(error.file, _reason(error)))

    def _check_rows(self, segment: Segment) -> None:
        """Check what digests of files cannot say: that the rows were right when they were written."""
        keys = segment.keys
        strings = as_strings(keys)
        if not (strings[:-1] < strings[1:]).all():
            self._problem(segment.commit.arrays["key"][0].file, "its keys are not sorted and distinct")
        step = max(1, _PIECE_BYTES // segment.row_bytes)
        for start in range(0, len(segment), step):
            rows = np.arange(start, min(start + step, len(segment)))
            segment.read_rows(rows, keys[rows])

    def _check_indexes(self) -> set[str]:
        """Return the commits that the indexes name."""
        named: set[str] = set()
        for entry in self._storage.list(f"{self._folder}index/"):
            if not entry.name.endswith(".idx"):
                continue
            self._accounted.add(entry.name)
            try:
                index = open_index(self._storage, entry.name, entry.size_bytes, check=self._report.deep)
            except FileNotFoundError:
                continue  # replaced by a newer one since the listing
            except StoreError as error:
                self._report.problems.append(Problem(entry.name, f"{_reason(error)} (derived: it may be deleted)"))
                continue
            self._report.checked_files += 1
            self._report.checked_bytes += entry.size_bytes if self._report.deep else 0
            named |= set(index.commits)
        return named

    def _problem(self, file: str, reason: str) -> None:
        self._report.problems.append(Problem(f"{self._folder}{file}", reason))


def _read(storage: Storage, file: str, report: VerifyReport) -> bytes:
    content = storage.read(file)
    report.checked_files += 1
    report.checked_bytes += len(content)
    return content


def _row_bytes(document: SpaceDocument) -> int:
    return document.recipe.dim * np.dtype(document.recipe.dtype).itemsize


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, CorruptStoreError) else str(error)
