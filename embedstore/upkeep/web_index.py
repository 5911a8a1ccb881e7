"""`index.json` at the root of a store: all its files, for readers whose server cannot list.

Sealed, so that no damaged byte goes unseen. It names what is committed: a commit only together with the files that it
names, and no file that nothing refers to. The small documents are in it, so that opening a store is one request.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from embedstore.errors import CorruptStoreError, FormatVersionError, StorageError
from embedstore.storage.listing import INDEX_BYTES, INDEX_NAME, ROOT_NAME, WebIndex
from embedstore.storage.protocol import Entry, Storage, side_by_side
from embedstore.store.commits import CommitLog, Commits
from embedstore.store.documents import commit_in, is_data_file, space_folders
from embedstore.store.index import is_index
from embedstore.store.pins import is_pin
from embedstore.store.signing import is_signature
from embedstore.strict_json import facts

_MAX_CARRIED_BYTES = 64 << 10  # a space's document with its canaries, a commit of some hundred files
_MAX_CARRIED_TOTAL_BYTES = 32 << 20
_CARRIED_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class PublishedIndex:
    """What an index that was written lists."""

    location: str
    files: int
    listed_bytes: int
    documents: int
    created_ns: int

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; the keys are a contract."""
        return facts(self, listed_bytes="bytes")


def publish_web_index(storage: Storage) -> PublishedIndex:
    """Write `index.json` for the store as it is now, in place of an older one.

    Parameters
    ----------
    storage : of the store.

    Raises
    ------
    StorageError : the storage is read-only.
    """
    before = 0
    with suppress(FileNotFoundError, CorruptStoreError, FormatVersionError):  # a damaged one is derived, too
        before = WebIndex.from_bytes(storage.read(INDEX_NAME, INDEX_BYTES)).created_ns
    folders = space_folders(storage)
    listing = _Listing({folder: CommitLog(storage, folder).read(whatever_refuses=True) for folder in folders})
    # Walked after the commits were read: the files that they name were there before them.
    files = {entry.name: entry for entry in storage.walk("") if listing.has(entry.name)}
    index = WebIndex(max(time.time_ns(), before + 1), files, dict(_carried(storage, files)))
    storage.replace(INDEX_NAME, [index.to_bytes()])
    listed_bytes = sum(entry.size_bytes for entry in files.values())
    return PublishedIndex(storage.location, len(files), listed_bytes, len(index.documents), index.created_ns)


class _Listing:
    """Which files of a store a reader may want.

    Of a space with a commit that cannot be read, damaged or of a newer version, that is every file that may be of a
    segment: a reader meets what is wrong with it as it would in the store itself, and a newer one may read on.
    """

    def __init__(self, commits: Mapping[str, Commits]) -> None:
        self._commits = commits
        self._committed = {
            f"{folder}{file}"
            for folder, each in commits.items()
            for commit in each.readable.values()
            for file in commit.files
        }

    def has(self, name: str) -> bool:
        if name == ROOT_NAME or is_pin(name):
            return True
        folder = "/".join(name.split("/")[:2]) + "/"
        if folder not in self._commits:
            return False
        commits, own_name = self._commits[folder], name[len(folder) :]
        if is_data_file(own_name):
            return name in self._committed or bool(commits.unreadable)
        commit = commit_in(own_name)
        if commit is not None:
            return commit in commits.readable or commit in commits.unreadable
        return own_name == "space.json" or is_index(own_name) or is_signature(own_name)


def _carried(storage: Storage, files: Mapping[str, Entry]) -> Iterator[tuple[str, bytes]]:
    names, total = [], 0
    for name, entry in files.items():
        small = name.endswith(_CARRIED_SUFFIX) and "/data/" not in name and entry.size_bytes <= _MAX_CARRIED_BYTES
        total += entry.size_bytes if small else 0
        if small and total <= _MAX_CARRIED_TOTAL_BYTES:
            names.append(name)

    def read(name: str) -> bytes | None:
        try:
            content = storage.read(name)
        except (FileNotFoundError, CorruptStoreError, StorageError):
            return None
        return content if len(content) == files[name].size_bytes and _is_text(content) else None

    for name, content in zip(names, side_by_side(read, names, storage.requests_at_once), strict=True):
        if content is not None:
            yield name, content


def _is_text(content: bytes) -> bool:
    """Tell whether a document can stand in another one; a damaged one may be anything, and is asked for by itself."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
