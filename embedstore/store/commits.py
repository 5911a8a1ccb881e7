"""The log of a space: its commits, which of them are live, how one is added, and which files will be removed.

Readers, checks, collectors, copies and the index for web servers all read commits here, so that they agree on what is
live. A commit that cannot be read is reported to them, never left out silently; each decides what to do about it.

A collector *condemns* files before it removes them: it names them in a document in `spaces/<id>/gc/`, a new one in each
collection, and removes them a grace period later, if nothing has come to need them since. Nobody can distinguish a slow
writer from a crashed one, so a writer checks whether its files are condemned or gone, before its commit and after it:

- condemned before: they are written again under another name; there is no commit yet;
- condemned after, or between: the collector may have listed the commits before ours was there, so ours, which has not
  been acknowledged, is taken back, and everything is written again;
- there, and not condemned after: a collector that condemns them from now on lists the commits later, and finds ours.

All of this requires names that were never used before, see docs/design/0004.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from embedstore.errors import CorruptStoreError, FormatVersionError, StorageError
from embedstore.storage.protocol import Entry, Storage, side_by_side
from embedstore.store.documents import Commit, commit_file, commit_in
from embedstore.strict_json import field, one_of, sealed, typed, unsealed, well_formed

_DOCUMENT = re.compile(r"gc/[0-9a-f]{32}\.json")


@dataclass(frozen=True, slots=True)
class Condemned:
    """One document: files of the space's folder, named from there, and since when they are condemned."""

    name: str
    files: tuple[str, ...]
    since_ns: int
    """By the storage's clock."""


def condemn(storage: Storage, folder: str, files: Collection[str]) -> Entry:
    """Write down that some files of a space are going to be removed.

    Parameters
    ----------
    folder : `spaces/<id>/`.
    files : their names, from there.
    """
    document = sealed({"format": "embedstore-condemned", "files": sorted(files)})
    return storage.write(f"{folder}gc/{uuid.uuid4().hex}.json", [document])


def condemned(storage: Storage, folder: str) -> Iterator[Condemned]:
    """Yield what is condemned in a space. A damaged document condemns nothing: no collector goes by it either."""
    for entry in storage.list(f"{folder}gc/"):
        if is_document(entry.name[len(folder) :]):
            with suppress(FileNotFoundError, CorruptStoreError):  # done with, since the listing; or damaged
                yield read_condemned(storage, entry)


def is_document(name: str) -> bool:
    """Tell a document of a collection, named from the space's folder, from what else may lie beside it."""
    return _DOCUMENT.fullmatch(name) is not None


def read_condemned(storage: Storage, entry: Entry) -> Condemned:
    """Read one document; CorruptStoreError when it is damaged."""
    document = unsealed(entry.name, storage.read(entry.name))
    with well_formed(entry.name):
        one_of("format", document["format"], ["embedstore-condemned"])
        files = tuple(typed("file", file, str) for file in field(document, "files", list))
    return Condemned(entry.name, files, entry.modified_ns)


def are_safe(storage: Storage, folder: str, files: Collection[str]) -> bool:
    """Tell whether some files of a space are there, and nobody is about to remove one that does not know we need it.

    In this order: a file that was condemned, removed and forgotten before we looked for documents is seen to be gone.
    """
    wanted = set(files)
    if any(not wanted.isdisjoint(each.files) for each in condemned(storage, folder)):
        return False

    def is_there(file: str) -> bool:
        try:
            storage.entry(f"{folder}{file}")
        except FileNotFoundError:
            return False
        return True

    return all(side_by_side(is_there, sorted(wanted), storage.requests_at_once))


_MAX_ATTEMPTS = 5

Unreadable = CorruptStoreError | FormatVersionError | StorageError
"""Why a document cannot be read: damaged, of a newer version, or refused by the storage (permission, a bad disk)."""


def replaced_by(commits: Iterable[Commit]) -> set[str]:
    """Return the ids of the commits that others make dead."""
    return {old for commit in commits for old in commit.replaces}


def in_age(commits: Mapping[str, Commit], ids: Collection[str]) -> list[str]:
    """Sort ids of commits, older first: of two vectors of one key, the first one's is read."""
    return sorted(ids, key=lambda commit: (commits[commit].created_ns, commit))


@dataclass(frozen=True, slots=True)
class Commits:
    """Commits of a space that were read.

    Attributes
    ----------
    readable : by id.
    unreadable : why others could not be read, by id.
    """

    readable: Mapping[str, Commit]
    unreadable: Mapping[str, Unreadable]

    @property
    def replaced(self) -> set[str]:
        """Ids of commits that others make dead, whether they are there or not."""
        return replaced_by(self.readable.values())

    @property
    def live(self) -> list[str]:
        """Ids of the readable commits that none replaces, older first."""
        return in_age(self.readable, self.readable.keys() - self.replaced)

    def of(self, ids: Collection[str]) -> Commits:
        """Leave all but some of the readable ones out."""
        return Commits({name: commit for name, commit in self.readable.items() if name in ids}, self.unreadable)


class CommitLog:
    """The commits of one space.

    Parameters
    ----------
    folder : `spaces/<id>/`.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage = storage
        self._folder = folder

    def ids(self) -> set[str]:
        """List the commits; a listing may be older than they are. Files of other names are none."""
        start = len(self._folder)
        found = (commit_in(entry.name[start:]) for entry in self._storage.list(f"{self._folder}commits/"))
        return {commit for commit in found if commit is not None}

    def file(self, commit_id: str) -> str:
        """Return the name of a commit in the store."""
        return f"{self._folder}{commit_file(commit_id)}"

    def is_there(self, commit_id: str) -> bool:
        """Ask for one commit: a listing may be older than it (network file systems keep listings for seconds)."""
        try:
            self._storage.entry(self.file(commit_id))
        except FileNotFoundError:
            return False
        return True

    def read(self, ids: Collection[str] | None = None, *, whatever_refuses: bool = False) -> Commits:
        """Read some commits, or all; those that vanish meanwhile are left out.

        Parameters
        ----------
        whatever_refuses : go on where the storage refuses one of them, which is unreadable then.

        Raises
        ------
        StorageError : the storage refuses.
        """
        wanted = sorted(self.ids() if ids is None else ids)

        def read(commit_id: str) -> Commit | Unreadable | None:
            file = self.file(commit_id)
            try:
                return Commit.from_bytes(file, self._storage.read(file))
            except (CorruptStoreError, FormatVersionError) as error:
                return error
            except StorageError as error:
                if not whatever_refuses:
                    raise
                return error
            except FileNotFoundError:  # replaced and collected since the listing
                return None

        found = dict(zip(wanted, side_by_side(read, wanted, self._storage.requests_at_once), strict=True))
        return Commits(
            {commit: each for commit, each in found.items() if isinstance(each, Commit)},
            {name: each for name, each in found.items() if isinstance(each, Unreadable)},
        )

    def publish(
        self, write: Callable[[], Commit | None], sign: Callable[[Commit], None] | None = None
    ) -> Commit | None:
        """Write a segment and its commit; durable, and safe from collection, when this returns.

        Parameters
        ----------
        write : writes the files of the segment under a new name, and returns the commit that names them; called again
            if somebody began to collect them. None: there is nothing to publish any more.
        sign : writes the signature of a commit, before the commit.

        Returns
        -------
        The commit; None if `write` gave none.

        Raises
        ------
        StorageError : its files were collected again and again.
        CorruptStoreError : what is read back is something
            else.
        """
        for _ in range(_MAX_ATTEMPTS):
            try:
                commit = write()
                if commit is None or self._add(commit, sign):
                    return commit
            except FileNotFoundError:  # of ours: it was collected while we wrote the next one
                continue
        raise StorageError(
            f"Cannot add to {self._storage.location}: new files were removed {_MAX_ATTEMPTS} times before their commit "
            "was there. Run `embedstore gc` with a longer --grace than writing a segment takes, then start again."
        )

    def _add(self, commit: Commit, sign: Callable[[Commit], None] | None) -> bool:
        """Write the commit of files that are there already; False, and no commit, if they are condemned or gone."""
        if not are_safe(self._storage, self._folder, commit.files):
            return False
        content, file = commit.to_bytes(), self.file(commit.id)
        if sign is not None:
            sign(commit)
        self._storage.write(file, [content])
        if self._storage.read(file) != content:
            raise CorruptStoreError(file, "what was read back is not what was written")
        if not are_safe(self._storage, self._folder, commit.files):
            self._storage.delete(file)
            return False
        return True
