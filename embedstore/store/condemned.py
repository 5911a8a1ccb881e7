"""What is going to be removed from a space: documents in `spaces/<id>/gc/`, a new one whenever somebody collects.

A file is removed only after it stood condemned for a while, by the storage's clock, and if nothing has come to need
it since. Whoever publishes a commit looks here before and after, so that no commit relies on what is about to go.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass

from embedstore.errors import CorruptStoreError
from embedstore.store.storage import Entry, Storage, side_by_side
from embedstore.store.strict_json import field, one_of, sealed, typed, unsealed, well_formed

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
