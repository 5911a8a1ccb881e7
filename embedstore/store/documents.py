"""The JSON documents of a store, as values: root, space and commit.

Root and space documents carry their own SHA-256, a commit is named by it. A document is accepted only if its bytes are
exactly what we would write for its content, so that no damaged byte goes unseen.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from embedstore.errors import CorruptStoreError, FormatVersionError, InputError
from embedstore.identity import Recipe
from embedstore.types import Canaries

SegmentFormat = Literal["zarr", "hdf5"]

FORMAT_VERSION = 1
ROOT_NAME = "embedstore.json"

_NONCE = re.compile(r"[0-9a-f]{32}")
_DATA_NAME = re.compile(r"data/[0-9a-f]{32}(\.h5|(/[A-Za-z0-9_][A-Za-z0-9_.]*)+)")


@dataclass(frozen=True, slots=True)
class Root:
    """`embedstore.json`: what kind of store this is, and who may read it."""

    store_id: str
    segment_format: SegmentFormat
    version: int = FORMAT_VERSION
    minimal_reader_version: int = FORMAT_VERSION
    features: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        return _sealed(
            {
                "format": "embedstore",
                "version": self.version,
                "minimal_reader_version": self.minimal_reader_version,
                "features": list(self.features),
                "store_id": self.store_id,
                "segment_format": self.segment_format,
            }
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> Root:
        """Read the root document.

        Raises
        ------
        CorruptStoreError : damaged.
        FormatVersionError : a newer embedstore is needed.
        """
        document = _unsealed(ROOT_NAME, content)
        needed, features = document.get("minimal_reader_version", 0), document.get("features", [])
        if needed > FORMAT_VERSION or features:
            raise FormatVersionError(
                f"Cannot read this store: it needs format version {needed}"
                f"{' with ' + ', '.join(features) if features else ''}, this embedstore reads {FORMAT_VERSION}. "
                "Upgrade embedstore."
            )
        with _shaped(ROOT_NAME):
            return cls(document["store_id"], document["segment_format"], document["version"], needed)


@dataclass(frozen=True, slots=True)
class SpaceDocument:
    """`spaces/<space id>/space.json`: name, recipe and canaries of a space."""

    name: str
    recipe: Recipe
    canaries: Canaries

    def to_bytes(self) -> bytes:
        vectors = np.ascontiguousarray(self.canaries.vectors, dtype="<f4")
        return _sealed(
            {
                "name": self.name,
                "id": self.recipe.id,
                "recipe": self.recipe.to_json(),
                "canaries": {
                    "sequences": list(self.canaries.sequences),
                    "vectors_float32_base64": base64.b64encode(vectors.tobytes()).decode("ascii"),
                },
            }
        )

    @classmethod
    def from_bytes(cls, file: str, content: bytes) -> SpaceDocument:
        """Read a space document; CorruptStoreError when it is damaged."""
        document = _unsealed(file, content)
        with _shaped(file):
            recipe = Recipe.from_json(document["recipe"])
            if recipe.id != document["id"] or f"spaces/{recipe.id}/" not in file:
                raise CorruptStoreError(
                    file, f"expected the recipe of space {document['id']}, found that of {recipe.id}"
                )
            canaries = document["canaries"]
            vectors = np.frombuffer(base64.b64decode(canaries["vectors_float32_base64"]), dtype="<f4")
            sequences = tuple(canaries["sequences"])
            return cls(document["name"], recipe, Canaries(sequences, vectors.reshape(len(sequences), recipe.dim)))


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive rows of one array as raw bytes: in which file, from where, how many."""

    file: str
    offset: int
    rows: int


@dataclass(frozen=True, slots=True)
class FileFact:
    """What a file of a segment must be."""

    size_bytes: int
    sha256: str


ARRAYS = ("key", "vectors", "row_crc")


@dataclass(frozen=True, slots=True)
class Commit:
    """`spaces/<space id>/commits/<sha256>.json`: makes one segment part of its space."""

    space_id: str
    nonce: str
    layout: SegmentFormat
    rows: int
    created_ns: int
    """By the storage's clock, later than all commits that the writer had seen: of two vectors for one key the older
    commit's is the one that is read."""
    arrays: Mapping[str, tuple[Part, ...]]
    files: Mapping[str, FileFact]
    replaces: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return sum(fact.size_bytes for fact in self.files.values())

    def to_bytes(self) -> bytes:
        return _canonical(
            {
                "format": "embedstore-commit",
                "space": self.space_id,
                "nonce": self.nonce,
                "layout": self.layout,
                "rows": self.rows,
                "created_ns": self.created_ns,
                "arrays": {
                    name: [{"file": part.file, "offset": part.offset, "rows": part.rows} for part in parts]
                    for name, parts in self.arrays.items()
                },
                "files": {name: {"size": fact.size_bytes, "sha256": fact.sha256} for name, fact in self.files.items()},
                "replaces": sorted(self.replaces),
                "provenance": dict(self.provenance),
            }
        )

    @classmethod
    def from_bytes(cls, file: str, content: bytes) -> Commit:
        """Read a commit.

        Parameters
        ----------
        file : its name in the store, `…/<sha256>.json`.

        Raises
        ------
        CorruptStoreError : the content does not have the digest in its name, or names a file outside its segment.
        """
        digest = hashlib.sha256(content).hexdigest()
        if commit_id(file) != digest:
            raise CorruptStoreError(file, f"expected content with the SHA-256 in its name, found {digest}")
        with _shaped(file):
            document = json.loads(content)
            commit = cls(
                document["space"],
                document["nonce"],
                document["layout"],
                document["rows"],
                document["created_ns"],
                {
                    name: tuple(Part(part["file"], part["offset"], part["rows"]) for part in document["arrays"][name])
                    for name in ARRAYS
                },
                {name: FileFact(fact["size"], fact["sha256"]) for name, fact in document["files"].items()},
                tuple(document["replaces"]),
                document["provenance"],
            )
        commit._check(file)
        return commit

    def _check(self, file: str) -> None:
        """Refuse a commit that leads out of its segment or does not add up (it may come from anybody's store)."""
        own = f"data/{self.nonce}"
        if not _NONCE.fullmatch(self.nonce):
            raise CorruptStoreError(file, f"expected a nonce of 32 hexadecimal digits, found {self.nonce!r}")
        for name in self.files:
            if not _DATA_NAME.fullmatch(name) or not name.startswith(own):
                raise CorruptStoreError(file, f"expected files of {own}, found {name!r}")
        for array, parts in self.arrays.items():
            if any(part.file not in self.files or part.offset < 0 or part.rows < 0 for part in parts):
                raise CorruptStoreError(file, f"array {array} lies in a file that the commit does not list")
            if sum(part.rows for part in parts) != self.rows:
                raise CorruptStoreError(file, f"expected {self.rows} rows in array {array}, found another number")


def commit_id(file: str) -> str:
    """Return the digest in a commit's file name."""
    return file.rpartition("/")[2].removesuffix(".json")


def _canonical(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode("utf-8")


def _sealed(document: dict[str, Any]) -> bytes:
    return _canonical({**document, "sha256": hashlib.sha256(_canonical(document)).hexdigest()})


def _unsealed(file: str, content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except ValueError as error:
        raise CorruptStoreError(file, f"expected JSON, found {content[:20]!r}… ({error})") from error
    if not isinstance(document, dict):
        raise CorruptStoreError(file, "expected a JSON object")
    document.pop("sha256", None)
    if _sealed(document) != content:
        raise CorruptStoreError(file, "its content does not have the SHA-256 that it states")
    return document


@contextmanager
def _shaped(file: str) -> Iterator[None]:
    """Turn what a document lacks into a CorruptStoreError that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
        reason = f"expected the fields of format version {FORMAT_VERSION}: {error!r}"
        raise CorruptStoreError(file, reason) from error
