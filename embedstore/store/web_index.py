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

from embedstore.errors import CorruptStoreError
from embedstore.store.documents import ROOT_NAME, Commit, is_commit
from embedstore.store.storage import Entry, Storage, side_by_side
from embedstore.store.strict_json import field, one_of, sealed, typed, unsealed, well_formed

INDEX_NAME = "index.json"

_FORMAT = "embedstore-index"
_MAX_CARRIED_BYTES = 64 << 10  # a space's document with its canaries, a commit of some hundred files
_MAX_CARRIED_TOTAL_BYTES = 32 << 20
_CARRIED_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class WebIndex:
    """What `index.json` says.

    Attributes
    ----------
    created_ns : when it was written, nanoseconds since 1970; greater than that of every index before it.
    files : name → entry.
    documents : name → content of some small files.
    """

    created_ns: int
    files: Mapping[str, Entry]
    documents: Mapping[str, bytes]

    def to_bytes(self) -> bytes:
        return sealed(
            {
                "format": _FORMAT,
                "created_ns": self.created_ns,
                "files": {name: [entry.size_bytes, entry.modified_ns] for name, entry in self.files.items()},
                "documents": {name: content.decode("utf-8") for name, content in self.documents.items()},
            }
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> WebIndex:
        """Read an index; CorruptStoreError if it is not as it was written."""
        document = unsealed(INDEX_NAME, content)
        with well_formed(INDEX_NAME):
            one_of("format", document["format"], [_FORMAT])
            files = {name: _entry(name, facts) for name, facts in field(document, "files", dict).items()}
            documents = {
                name: typed(name, text, str).encode() for name, text in field(document, "documents", dict).items()
            }
            index = cls(field(document, "created_ns", int), files, documents)
        for name, held in index.documents.items():
            if name not in files or len(held) != files[name].size_bytes:
                raise CorruptStoreError(INDEX_NAME, f"the document {name} in it is not the file of that name")
        return index


@dataclass(frozen=True, slots=True)
class PublishedIndex:
    """What an index that was written lists."""

    location: str
    files: int
    listed_bytes: int
    documents: int
    created_ns: int

    def to_json(self) -> dict[str, Any]:
        return {
            "location": self.location,
            "files": self.files,
            "bytes": self.listed_bytes,
            "documents": self.documents,
            "created_ns": self.created_ns,
        }


def publish_web_index(storage: Storage) -> PublishedIndex:
    """Write `index.json` for the store as it is now, in place of an older one.

    Raises
    ------
    CorruptStoreError : a commit, or the index before, is damaged. StorageError : the storage is read-only.
    """
    before = 0
    with suppress(FileNotFoundError):
        before = WebIndex.from_bytes(storage.read(INDEX_NAME)).created_ns
    commits = _commits(storage)
    committed = {f"{_space_folder(name)}{file}" for name, commit in commits.items() for file in commit.files}
    # Walked after the commits were read: the files that they name were there before them.
    files = {entry.name: entry for entry in storage.walk("") if _belongs(entry.name, commits, committed)}
    index = WebIndex(max(time.time_ns(), before + 1), files, dict(_carried(storage, files)))
    storage.replace(INDEX_NAME, [index.to_bytes()])
    listed_bytes = sum(entry.size_bytes for entry in files.values())
    return PublishedIndex(storage.location, len(files), listed_bytes, len(index.documents), index.created_ns)


def _commits(storage: Storage) -> dict[str, Commit]:
    """Read all commits, dead ones too, since a pinned view may need them."""
    names = [
        entry.name
        for space in storage.list("spaces/")
        if space.name.endswith("/")
        for entry in storage.list(f"{space.name}commits/")
        if is_commit(entry.name)
    ]

    def read(name: str) -> Commit | None:
        try:
            return Commit.from_bytes(name, storage.read(name))
        except FileNotFoundError:  # replaced and collected since the listing
            return None

    found = zip(names, side_by_side(read, names, storage.requests_at_once), strict=True)
    return {name: commit for name, commit in found if commit is not None}


def _belongs(name: str, commits: Mapping[str, Commit], committed: set[str]) -> bool:
    parts = name.split("/")
    if name == INDEX_NAME or any(part.startswith(".") for part in parts):
        return False
    if parts[0] != "spaces" or len(parts) < 4:
        return name == ROOT_NAME or parts[0] in ("spaces", "pins")
    kind = parts[2]
    if kind == "commits":
        return name in commits
    return name in committed if kind == "data" else kind != "gc"


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
        except FileNotFoundError:
            return None
        return content if len(content) == files[name].size_bytes else None

    for name, content in zip(names, side_by_side(read, names, storage.requests_at_once), strict=True):
        if content is not None:
            yield name, content


def _space_folder(name: str) -> str:
    return "/".join(name.split("/")[:2]) + "/"


def _entry(name: str, facts: Any) -> Entry:
    size_bytes, modified_ns = typed(name, facts, list)
    return Entry(name, typed("size", size_bytes, int), typed("modified_ns", modified_ns, int))
