"""The index document of a store, `index.json`: all its files, for readers whose server cannot list.

Sealed, so that no damaged byte goes unseen. The small documents are in it, so that opening a store is one request. How
it is made is in `web_index`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedstore.errors import CorruptStoreError
from embedstore.storage.protocol import Entry
from embedstore.strict_json import (
    MAX_INTEGER,
    field,
    integer,
    one_of,
    refuse_requirements,
    sealed,
    typed,
    unsealed,
    well_formed,
)

ROOT_NAME = "embedstore.json"
INDEX_NAME = "index.json"
INDEX_BYTES = 128 << 20
"""The longest `index.json` that is read: half a million files, and the documents that it carries."""

_FORMAT = "embedstore-index"


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
        """Read an index.

        Raises
        ------
        CorruptStoreError : it is not as it was written.
        FormatVersionError : it needs a newer embedstore.
        """
        document = unsealed(INDEX_NAME, content)
        with well_formed(INDEX_NAME):
            one_of("format", document["format"], [_FORMAT])
            refuse_requirements(document, INDEX_NAME)
            files = {name: _entry(name, facts) for name, facts in field(document, "files", dict).items()}
            documents = {
                name: typed(name, text, str).encode() for name, text in field(document, "documents", dict).items()
            }
            index = cls(integer(document, "created_ns"), files, documents)
        for name, held in index.documents.items():
            if name not in files or len(held) != files[name].size_bytes:
                raise CorruptStoreError(INDEX_NAME, f"the document {name} in it is not the file of that name")
        return index


def _entry(name: str, facts: Any) -> Entry:
    size_bytes, modified_ns = typed(name, facts, list)
    for what, number in (("size", size_bytes), ("modified_ns", modified_ns)):
        if not 0 <= typed(what, number, int) <= MAX_INTEGER:
            raise ValueError(f"{what} of {name!r:.80}: expected 0 to {MAX_INTEGER}")
    if not _is_plain(name):
        raise ValueError(f"files: expected names below the store, found {name!r:.80}")
    return Entry(name, size_bytes, modified_ns)


def _is_plain(name: str) -> bool:
    """Tell whether a name leads nowhere but below the root."""
    return all(part not in ("", ".", "..") and part.isprintable() for part in name.split("/"))
