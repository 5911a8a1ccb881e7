"""The JSON documents of a store, as values: root, space and commit.

Root and space documents carry their own SHA-256, a commit is named by it.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np

from embedstore.errors import CorruptStoreError, FormatVersionError, InputError
from embedstore.identity import Molecule, Precision, Recipe
from embedstore.store.strict_json import canonical, field, one_of, parsed, sealed, typed, unsealed, well_formed
from embedstore.types import Canaries

SegmentFormat = Literal["zarr", "hdf5"]

FORMAT_VERSION = 1
ROOT_NAME = "embedstore.json"
SPACE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
MAX_SEGMENT_ROWS = 1 << 32  # the index counts rows in four bytes
COSTS = ("compute_seconds", "letters")
"""What `provenance` may say of what a segment cost; numbers, added up by `info`."""

_COMMIT_NAME = re.compile(r"[0-9a-f]{64}\.json")
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
        return sealed(
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
        document = unsealed(ROOT_NAME, content)
        with well_formed(ROOT_NAME):
            one_of("format", document["format"], ["embedstore"])
            needed = field(document, "minimal_reader_version", int)
            features = [typed("feature", feature, str) for feature in field(document, "features", list)]
            if needed > FORMAT_VERSION or features:
                raise _newer(f"version {needed}{' with ' if features else ''}{', '.join(features)}")
            segment_format = field(document, "segment_format", str)
            if segment_format not in get_args(SegmentFormat):
                raise _newer(f"a version with segments as {segment_format}")
            return cls(
                field(document, "store_id", str),
                cast(SegmentFormat, segment_format),
                field(document, "version", int),
                needed,
            )


@dataclass(frozen=True, slots=True)
class SpaceDocument:
    """`spaces/<space id>/space.json`: name, recipe and canaries of a space."""

    name: str
    recipe: Recipe
    canaries: Canaries

    def to_bytes(self) -> bytes:
        vectors = np.ascontiguousarray(self.canaries.vectors, dtype="<f4")
        return sealed(
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
        document = unsealed(file, content)
        with well_formed(file):
            recipe = _recipe(field(document, "recipe", dict))
            if recipe.id != document["id"] or f"spaces/{recipe.id}/" not in file:
                raise CorruptStoreError(
                    file, f"expected the recipe of space {document['id']}, found that of {recipe.id}"
                )
            name = field(document, "name", str)
            if not SPACE_NAME.fullmatch(name):
                raise ValueError(f"name: expected letters, digits, and . _ + -, found {name!r}")
            canaries = field(document, "canaries", dict)
            encoded = field(canaries, "vectors_float32_base64", str)
            vectors = np.frombuffer(base64.b64decode(encoded, validate=True), dtype="<f4")
            sequences = tuple(typed("canary", each, str) for each in field(canaries, "sequences", list))
            return cls(name, recipe, Canaries(sequences, vectors.reshape(len(sequences), recipe.dim)))


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
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return sum(fact.size_bytes for fact in self.files.values())

    def to_bytes(self) -> bytes:
        return canonical(
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
        document = parsed(file, content)
        with well_formed(file):
            one_of("format", document["format"], ["embedstore-commit"])
            layout = field(document, "layout", str)
            one_of("layout", layout, get_args(SegmentFormat))
            arrays = field(document, "arrays", dict)
            commit = cls(
                field(document, "space", str),
                field(document, "nonce", str),
                cast(SegmentFormat, layout),
                field(document, "rows", int),
                field(document, "created_ns", int),
                {name: tuple(map(_part, field(arrays, name, list))) for name in ARRAYS},
                {name: _file_fact(fact) for name, fact in field(document, "files", dict).items()},
                tuple(typed("replaces", old, str) for old in field(document, "replaces", list)),
                checked_provenance(field(document, "provenance", dict)),
            )
        commit._check(file)
        return commit

    def _check(self, file: str) -> None:
        """Refuse a commit that leads out of its segment or does not add up (it may come from anybody's store)."""
        own = f"data/{self.nonce}"
        if not _NONCE.fullmatch(self.nonce):
            raise CorruptStoreError(file, f"expected a nonce of 32 hexadecimal digits, found {self.nonce!r}")
        if not 0 < self.rows <= MAX_SEGMENT_ROWS:
            raise CorruptStoreError(file, f"expected 1 to {MAX_SEGMENT_ROWS} rows, found {self.rows}")
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


def is_commit(file: str) -> bool:
    """Tell a commit from what else may lie beside it: temporary files, and those of operating systems."""
    return _COMMIT_NAME.fullmatch(file.rpartition("/")[2]) is not None


def checked_provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the provenance of a commit; InputError if it is not JSON, or if what it cost is not in numbers."""
    try:
        canonical(provenance)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"Cannot keep the provenance: expected JSON values, found {error}.") from error
    for name in COSTS:
        if type(provenance.get(name, 0)) not in (int, float):
            raise InputError(f"Cannot keep the provenance: expected a number as {name}, found {provenance[name]!r}.")
    return dict(provenance)


def _recipe(document: dict[str, Any]) -> Recipe:
    """Read a recipe, checking the fields that the store itself goes by."""
    recipe = Recipe.from_json(document)
    for name in ("model", "source", "implementation", "pooling"):
        field(document, name, str)
    one_of("molecule", recipe.molecule, get_args(Molecule))
    one_of("precision", recipe.precision, get_args(Precision))
    one_of("dtype", recipe.dtype, ["float16", "float32"])
    if field(document, "dim", int) < 1:
        raise ValueError(f"dim: expected at least 1, found {recipe.dim}")
    return recipe


def _part(document: object) -> Part:
    part = typed("part", document, dict)
    return Part(field(part, "file", str), field(part, "offset", int), field(part, "rows", int))


def _file_fact(document: object) -> FileFact:
    fact = typed("file", document, dict)
    return FileFact(field(fact, "size", int), field(fact, "sha256", str))


def _newer(needed: str) -> FormatVersionError:
    return FormatVersionError(
        f"Cannot read this store: it needs format {needed}, this embedstore reads version {FORMAT_VERSION}. "
        "Upgrade embedstore."
    )
