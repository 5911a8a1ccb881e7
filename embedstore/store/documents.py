"""The JSON documents of a store, as values: root, space and commit; and the names that files of a store have.

Root and space documents carry their own SHA-256, a commit is named by it. What may be added to them by later versions
is said in docs/format.md: unknown fields are ignored, what is in `requires` must be known.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast, get_args

import numpy as np

from embedstore.errors import CorruptStoreError, FormatVersionError, InputError
from embedstore.identity import Recipe, recipe_id
from embedstore.records import Canaries, not_finite
from embedstore.storage.listing import ROOT_NAME
from embedstore.storage.protocol import Storage
from embedstore.strict_json import (
    amount,
    canonical,
    field,
    integer,
    matching,
    one_of,
    parsed,
    refuse_deep,
    refuse_requirements,
    sealed,
    typed,
    unsealed,
    well_formed,
)

SegmentFormat = Literal["zarr", "hdf5"]

FORMAT_VERSION = 1
SPACE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
MAX_SEGMENT_ROWS = 1 << 32  # the index counts rows in four bytes
MAX_CREATED_NS = (1 << 62) - 1  # in the year 2116; what is newer than the newest still fits 64 bits
COSTS = ("compute_seconds", "letters")
"""What `provenance` may say of what a segment cost; numbers, added up by `info`."""

_SPACE_FOLDER = re.compile(r"spaces/[0-9a-f]{64}/")
_COMMIT_NAME = re.compile(r"commits/([0-9a-f]{64})\.json")
_NONCE = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DATA_NAME = re.compile(r"data/[0-9a-f]{32}(\.h5|(/[A-Za-z0-9_][A-Za-z0-9_.]*)+)")


def space_folders(storage: Storage) -> list[str]:
    """Return `spaces/<id>/` for each folder that may be a space: copies and hidden folders have other names."""
    return [entry.name for entry in storage.list("spaces/") if _SPACE_FOLDER.fullmatch(entry.name)]


def commit_file(commit_id: str) -> str:
    """Return the name of a commit, from the folder of its space."""
    return f"commits/{commit_id}.json"


def is_data_file(name: str) -> bool:
    """Tell whether a name, from the folder of its space, is one that a file of a segment may have."""
    return _DATA_NAME.fullmatch(name) is not None


def commit_in(name: str) -> str | None:
    """Return the id of the commit that a name, from the folder of its space, stands for; None for another file."""
    match = _COMMIT_NAME.fullmatch(name)
    return match and match[1]


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
            segment_format = field(document, "segment_format", str)
            newer = [f"format version {needed}"] if needed > FORMAT_VERSION else []
            newer += [] if segment_format in get_args(SegmentFormat) else [f"segments as {segment_format}"]
            if newer or features:
                raise FormatVersionError("this store", newer + features)
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
        """Read a space document.

        Raises
        ------
        CorruptStoreError : it is damaged, or lies in the folder of another space.
        FormatVersionError : it needs what this version does not know.
        """
        document = unsealed(file, content)
        with well_formed(file):
            name = matching("name", field(document, "name", str), SPACE_NAME)
            space_id = matching("id", field(document, "id", str), _SHA256)
            what = f"space {name} ({space_id[:8]}…)"
            refuse_requirements(document, what)
            found = recipe_id(field(document, "recipe", dict))
            if found != space_id or file != space_file(space_id):
                raise CorruptStoreError(file, f"expected the recipe of the space in its name, found that of {found}")
            try:
                recipe = Recipe.from_json(document["recipe"])
            except FormatVersionError as error:
                raise FormatVersionError(what, error.needs) from None
            return cls(name, recipe, _canaries(field(document, "canaries", dict), recipe.dim))


def space_file(space_id: str) -> str:
    """Return the name of a space's document."""
    return f"spaces/{space_id}/space.json"


def _canaries(document: Mapping[str, Any], dim: int) -> Canaries:
    encoded = field(document, "vectors_float32_base64", str)
    vectors = np.frombuffer(base64.b64decode(encoded, validate=True), dtype="<f4")
    sequences = tuple(typed("canary", each, str) for each in field(document, "sequences", list))
    vectors = vectors.reshape(len(sequences), dim)
    if len(not_finite(vectors)):
        raise ValueError("canaries: expected finite values, found others")
    return Canaries(sequences, vectors)


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
_COMMIT_FIELDS = frozenset(
    [
        "arrays",
        "created_ns",
        "files",
        "format",
        "layout",
        "nonce",
        "original_nonce",
        "provenance",
        "replaces",
        "rows",
        "space",
    ]
)


@dataclass(frozen=True)
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
    original_nonce: str | None = None
    """Of a copy: the nonce with which its files were called when the commit was signed."""
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields that this version does not know and may ignore; they are kept in copies."""

    @property
    def size_bytes(self) -> int:
        return sum(fact.size_bytes for fact in self.files.values())

    def to_bytes(self) -> bytes:
        original = {} if self.original_nonce is None else {"original_nonce": self.original_nonce}
        return canonical(
            {
                **self.extra,
                **original,
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

    @cached_property
    def id(self) -> str:
        """SHA-256 of the document, which is its name."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def signed_id(self) -> str:
        """What a signature of this commit vouches for: its id, or that of the commit that it is a copy of."""
        return self.id if self.original_nonce is None else self._called(self.original_nonce, None).id

    def copied(self, nonce: str, *, signed: bool) -> Commit:
        """The same segment in files of other names, since a name that was used once is never used again.

        Parameters
        ----------
        signed : its signatures go along, so it says of which commit it is a copy, and still replaces what that
            replaces.
        """
        if signed:
            return self._called(nonce, self.original_nonce or self.nonce)
        return dataclasses.replace(self._called(nonce, None), replaces=())

    def _called(self, nonce: str, original_nonce: str | None) -> Commit:
        def renamed(file: str) -> str:
            return file.replace(self.nonce, nonce, 1)

        return dataclasses.replace(
            self,
            nonce=nonce,
            arrays={
                name: tuple(dataclasses.replace(part, file=renamed(part.file)) for part in parts)
                for name, parts in self.arrays.items()
            },
            files={renamed(file): fact for file, fact in self.files.items()},
            original_nonce=original_nonce,
        )

    @classmethod
    def from_bytes(cls, file: str, content: bytes) -> Commit:
        """Read a commit.

        Parameters
        ----------
        file : its name in the store, `spaces/<space id>/commits/<sha256>.json`.

        Raises
        ------
        CorruptStoreError : the content does not have the digest in its name, is of another space, names a file outside
            its segment, or has a number out of range.
        FormatVersionError : it needs what this version does not know.
        """
        digest = hashlib.sha256(content).hexdigest()
        if not file.endswith(f"/{commit_file(digest)}"):
            raise CorruptStoreError(file, f"expected content with the SHA-256 in its name, found {digest}")
        document = parsed(file, content)
        with well_formed(file):
            one_of("format", document["format"], ["embedstore-commit"])
            refuse_requirements(document, f"the segment of {file}")
            one_of("space", field(document, "space", str), [file.split("/")[-3]])
            layout = field(document, "layout", str)
            one_of("layout", layout, get_args(SegmentFormat))
            arrays = field(document, "arrays", dict)
            commit = cls(
                document["space"],
                matching("nonce", document["nonce"], _NONCE),
                cast(SegmentFormat, layout),
                integer(document, "rows", 1, MAX_SEGMENT_ROWS),
                integer(document, "created_ns", 0, MAX_CREATED_NS),
                {name: tuple(map(_part, field(arrays, name, list))) for name in ARRAYS},
                {name: _file_fact(fact) for name, fact in field(document, "files", dict).items()},
                tuple(matching("replaces", old, _SHA256) for old in field(document, "replaces", list)),
                checked_provenance(field(document, "provenance", dict)),
                matching("original_nonce", document["original_nonce"], _NONCE)
                if "original_nonce" in document
                else None,
                {name: value for name, value in document.items() if name not in _COMMIT_FIELDS},
            )
            if commit.extra:
                canonical(commit.extra)  # it is written again in copies
            commit._check()
        return commit

    def _check(self) -> None:
        """Refuse a commit that leads out of its segment or does not add up (it may come from anybody's store)."""
        own = {f"data/{self.nonce}.h5"} if self.layout == "hdf5" else None
        for name in self.files:
            if not _DATA_NAME.fullmatch(name) or not (name in own if own else name.startswith(f"data/{self.nonce}/")):
                raise ValueError(f"files: expected those of data/{self.nonce} as {self.layout}, found {name!r:.80}")
        for array, parts in self.arrays.items():
            if any(part.file not in self.files for part in parts):
                raise ValueError(f"array {array} lies in a file that the commit does not list")
            if sum(part.rows for part in parts) != self.rows:
                raise ValueError(f"expected {self.rows} rows in array {array}, found another number")


def checked_provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the provenance of a commit.

    Raises
    ------
    InputError : it is not JSON, what it cost is not in numbers from 0 on, or `newest_ns` is not a time.
    """
    try:
        canonical(provenance)
        refuse_deep(provenance)
        for name in COSTS:
            amount(name, provenance.get(name, 0))
        if "newest_ns" in provenance:
            integer(provenance, "newest_ns", 0, MAX_CREATED_NS)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"Cannot keep the provenance: {error}.") from error
    return dict(provenance)


def _part(document: object) -> Part:
    part = typed("part", document, dict)
    return Part(field(part, "file", str), integer(part, "offset"), integer(part, "rows", 1, MAX_SEGMENT_ROWS))


def _file_fact(document: object) -> FileFact:
    fact = typed("file", document, dict)
    return FileFact(integer(fact, "size"), matching("sha256", fact["sha256"], _SHA256))
