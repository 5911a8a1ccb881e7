"""What a merged file holds, whatever its format: named columns and one JSON text.

    X            (n, d) float32, C order, uncompressed: its rows are found without any library
    row_crc      (n,) uint32, CRC-32C of the bytes of each row of X (little-endian)
    ids          (n,) texts
    y            (n,) int64, place in the schema's labels, -1 for none
    source, group          (n,) int32, place in source_names, group_names, -1 for none
    source_names, group_names     texts, sorted
    start, end (n,) int64, 1-based, both included; strand, frame (n,) int8
    dna_key, protein_key   (n, 24) uint8, where the samples have them

The text, `embedstore_features`, is an object of `format`, `version`, `schema` and `crc32c`. This is the CRC-32C of the
schema as compact JSON with sorted keys, then of each column but X in the order of their names: the name, and its bytes
(little-endian), or its texts in UTF-8, each followed by a NUL. So no damage to what belongs to the rows goes unseen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from embedstore.array_files import TEXT, Column
from embedstore.errors import FormatVersionError, InputError, plain
from embedstore.features.features import Categories, Features, Samples
from embedstore.features.schema import LARGEST_DIM, Schema
from embedstore.identity import Molecule
from embedstore.records import KEY_BYTES, Keys
from embedstore.store.documents import Part
from embedstore.store.segment_files import row_checksums
from embedstore.strict_json import json_object

HEADER = "embedstore_features"
FORMAT = "embedstore-features"
FORMAT_VERSION = 1
ROW_DTYPE = np.dtype("<f4")
BLOCK_BYTES = 64 << 20
_BLOCK_ROWS = 1 << 16
_SHOWN_CHARACTERS = 80
_COLUMNS: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
    "X": (ROW_DTYPE, ()),
    "row_crc": (np.dtype(np.uint32), ()),
    "y": (np.dtype(np.int64), ()),
    **dict.fromkeys(("ids", "source_names", "group_names"), (TEXT, ())),
    **dict.fromkeys(("source", "group"), (np.dtype(np.int32), ())),
    **dict.fromkeys(("start", "end"), (np.dtype(np.int64), ())),
    **dict.fromkeys(("strand", "frame"), (np.dtype(np.int8), ())),
    **dict.fromkeys(("dna_key", "protein_key"), (np.dtype(np.uint8), (KEY_BYTES,))),
}
"""dtype of each column, and the shape of one of its rows."""
_MOLECULES: tuple[Molecule, ...] = ("dna", "protein")


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What was found in a file.

    Attributes
    ----------
    header : the JSON text.
    columns : all but `X`.
    shape : of `X`, (n, d).
    folder : in which its files lie.
    parts : where its rows lie as raw bytes; files are named from the folder.
    """

    header: str
    columns: Mapping[str, NDArray[Any]]
    shape: tuple[int, ...]
    folder: Path
    parts: tuple[Part, ...]


def header_of(schema: Schema, columns: Sequence[Column]) -> str:
    """Return the JSON text of features whose rows have all passed.

    Parameters
    ----------
    schema : of the features.
    columns : all of them, `X` too, which is left out of the checksum.
    """
    checksum = _checksum(schema, {column.name: column.blocks for column in columns if column.name != "X"})
    document = {"format": FORMAT, "version": FORMAT_VERSION, "schema": schema.to_json(), "crc32c": checksum}
    return json.dumps(document, indent=1)


def schema_from(content: Content) -> Schema:
    """Read the schema out of the JSON text, and check everything but the rows.

    Parameters
    ----------
    content : what was found in a file.

    Raises
    ------
    InputError : it is not such a text, or something is damaged.
    FormatVersionError : a newer embedstore wrote it.
    """
    try:
        document = json_object(content.header.encode())
    except ValueError as error:
        raise InputError(f"{HEADER}: {error}") from error
    if document.get("format") != FORMAT:
        raise InputError(f"expected the format {FORMAT} in {HEADER}")
    version = document.get("version")
    if version != FORMAT_VERSION:
        raise FormatVersionError("features", [f"format version {plain(repr(version), _SHOWN_CHARACTERS)}"])
    schema = Schema.from_json(document.get("schema", {}))
    expected = document.get("crc32c")
    found = _checksum(schema, {name: partial(_blocks, column) for name, column in content.columns.items()})
    if found != expected:
        raise InputError(f"it is damaged: expected the CRC-32C {expected} of all but the rows, found {found}")
    return schema


def columns_of(features: Features) -> list[Column]:
    """Return the columns of features. `row_crc` is counted while the blocks of `X` pass, which is the first column."""
    samples = features.samples
    rows = _Rows(features)
    columns = [Column("X", (len(features), features.dim), ROW_DTYPE, rows.block_rows, rows.blocks)]
    arrays: dict[str, NDArray[Any]] = {
        "row_crc": rows.checksums,
        "ids": samples.ids,
        "y": features.y,
        "source": samples.sources.codes,
        "source_names": samples.sources.names,
        "group": samples.groups.codes,
        "group_names": samples.groups.names,
        "start": samples.start,
        "end": samples.end,
        "strand": samples.strand,
        "frame": samples.frame,
    }
    arrays |= {f"{molecule}_key": keys for molecule, keys in samples.keys.items()}
    return columns + [_column(name, array) for name, array in arrays.items()]


def samples_from(columns: Mapping[str, NDArray[Any]], schema: Schema, origin: str) -> Samples:
    """Put the samples of a file together.

    Parameters
    ----------
    columns : all but `X`.
    schema : of the features.
    origin : where they come from, for messages.

    Raises
    ------
    InputError : a column is missing, or has the wrong shape or type.
    """

    def categories(name: str) -> Categories:
        return _in_range(
            name, _checked(columns, f"{name}_names", TEXT, 1), _checked(columns, name, np.dtype(np.int32), 1)
        )

    keys: dict[Molecule, Keys] = {
        molecule: _checked(columns, f"{molecule}_key", np.dtype(np.uint8), 2)
        for molecule in _MOLECULES
        if f"{molecule}_key" in columns
    }
    y = _checked(columns, "y", np.dtype(np.int64), 1)
    return Samples(
        ids=_checked(columns, "ids", TEXT, 1),
        sources=categories("source"),
        groups=categories("group"),
        labels=_in_range("y", np.array(schema.labels, dtype=TEXT), y),
        start=_checked(columns, "start", np.dtype(np.int64), 1),
        end=_checked(columns, "end", np.dtype(np.int64), 1),
        strand=_checked(columns, "strand", np.dtype(np.int8), 1),
        frame=_checked(columns, "frame", np.dtype(np.int8), 1),
        keys=keys,
        preparation=schema.preparation,
        origin=origin,
    )


class _Rows:
    """The rows of features, block by block, with the checksum of each that has passed."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self.block_rows = max(1, BLOCK_BYTES // (features.dim * ROW_DTYPE.itemsize))
        self.checksums = np.zeros(len(features), np.uint32)

    def blocks(self) -> Iterator[NDArray[Any]]:
        for start, rows in self._features.batches(self.block_rows):
            block = rows.astype(ROW_DTYPE, copy=False)
            self.checksums[start : start + len(block)] = row_checksums(None, block)
            yield block


def _column(name: str, array: NDArray[Any]) -> Column:
    if array.dtype == TEXT and any("\0" in text for block in _blocks(array) for text in block.tolist()):
        raise InputError(
            f"Cannot write features: a text in column {name} holds a NUL character, which no format can store."
        )
    return Column(name, array.shape, array.dtype, _BLOCK_ROWS, partial(_blocks, array))


def _blocks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(array), _BLOCK_ROWS):
        yield array[start : start + _BLOCK_ROWS]


def _checksum(schema: Schema, columns: Mapping[str, Callable[[], Iterator[NDArray[Any]]]]) -> int:
    text = json.dumps(schema.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    checksum: int = google_crc32c.value(text.encode())
    for name, blocks in sorted(columns.items()):
        checksum = google_crc32c.extend(checksum, name.encode())
        for block in blocks():
            checksum = google_crc32c.extend(checksum, _bytes_of(block))
    return checksum


def _bytes_of(block: NDArray[Any]) -> bytes:
    if block.dtype == TEXT:
        return "".join([f"{text}\0" for text in block.tolist()]).encode()
    return block.astype(block.dtype.newbyteorder("<"), copy=False).tobytes()


def _checked(columns: Mapping[str, NDArray[Any]], name: str, dtype: np.dtype[Any], dimensions: int) -> NDArray[Any]:
    column = columns.get(name)
    if column is None:
        raise InputError(f"column {name} is missing")
    if column.ndim != dimensions or column.dtype != dtype:
        raise InputError(
            f"expected column {name} of {dimensions} dimensions and dtype {dtype}, found {column.shape} {column.dtype}"
        )
    return column


def _in_range(name: str, names: NDArray[Any], codes: NDArray[Any]) -> Categories:
    if len(codes) and not -1 <= codes.min() <= codes.max() < len(names):
        raise InputError(
            f"expected places of {len(names)} names in column {name}, found {codes.min()} to {codes.max()}"
        )
    return Categories(names, codes.astype(np.int32, copy=False))


def expect_columns(found: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> None:
    """Refuse a file whose columns are not those of features, by what it states of them: before any of them is read.

    Together with the rows of `X`, which are looked for in the file, this bounds what is read of a file from elsewhere.

    Parameters
    ----------
    found : name -> shape and dtype; any dtype of text is `TEXT`.

    Raises
    ------
    InputError : names columns that are missing, unknown, or of another shape or dtype than they must have.
    """
    missing = [name for name in ("X", "row_crc", "ids") if name not in found]
    if missing:
        raise InputError(f"{' and '.join(missing)} missing: expected a file that `embedstore merge` wrote")
    rows, *width = found["X"][0]
    if len(width) != 1 or not 0 < width[0] <= LARGEST_DIM:
        raise InputError(f"expected X of (n, d), d at most {LARGEST_DIM}, found {found['X'][0]}")
    for name, (shape, dtype) in found.items():
        expected = _COLUMNS.get(name)
        if expected is None:
            raise InputError(f"expected a file that `embedstore merge` wrote, found a column {name} in it")
        fits = len(shape) > 0 if name.endswith("_names") else shape[:1] == (rows,)
        if dtype != expected[0] or not fits or shape[1:] != (expected[1] if name != "X" else tuple(width)):
            raise InputError(
                f"expected column {name} of {rows} rows of {expected[0]}, as X is {found['X'][0]}, found "
                f"{shape} {dtype}"
            )
