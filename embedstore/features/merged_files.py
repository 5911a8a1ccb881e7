"""Features on disk: merged files with all that belongs to them, and samples read from the table that `prepare` writes.

A merged file is `.zarr`, `.h5` or `.npz`; `columns` says what is inside. Rows are written block by block, and read in
place, memory-mapped. Samples in memory take a few hundred bytes each.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import zarr.errors
from numpy.typing import NDArray

from embedstore.array_files import SUFFIXES as SUFFIXES  # what features can be written to, too
from embedstore.array_files import TEXT, check_path, write_columns
from embedstore.atomic import complete
from embedstore.errors import CorruptStoreError, FormatVersionError, InputError, plain
from embedstore.features.columns import (
    HEADER,
    ROW_DTYPE,
    Content,
    columns_of,
    header_of,
    samples_from,
    schema_from,
)
from embedstore.features.features import ARRAYS, CATEGORIES, Categories, Features, Indices, Samples, Texts
from embedstore.features.layouts import read_hdf5, read_npz, read_zarr
from embedstore.features.schema import Preparation
from embedstore.identity import Molecule
from embedstore.records import KEY_BYTES, Keys, not_finite
from embedstore.samples.outputs import SETTINGS_NAME
from embedstore.samples.preparing import read_settings
from embedstore.samples.table import SampleBatch, read_samples
from embedstore.storage.local import LocalStorage
from embedstore.store.segment_files import row_checksums

_READERS = {".zarr": read_zarr, ".h5": read_hdf5, ".npz": read_npz}
_SHOWN_CHARACTERS = 500

_UNREADABLE = (
    OSError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    EOFError,
    MemoryError,
    ArithmeticError,
    struct.error,
    TokenError,
    SyntaxError,
)
"""What h5py, zarr, zipfile and numpy were seen to raise when single bytes of a file are damaged."""


def is_merged_file(path: Path) -> bool:
    """Tell by its name whether a path is one of features."""
    return path.suffix in SUFFIXES


def check_output(path: Path) -> None:
    """Refuse a path that features cannot be written to.

    Raises
    ------
    InputError : its suffix is none of `SUFFIXES`, or a folder of something else is there.
    """
    check_path(path, "write features to")


def write_features(features: Features, path: Path) -> None:
    """Write a merged file; what was at `path` before is replaced once the new one is complete.

    Parameters
    ----------
    features : from a store or from another file.
    path : its suffix, one of `SUFFIXES`, says the format.

    Raises
    ------
    InputError : see `check_output`; or a value is not finite, the sample is named, and nothing is written.
    StorageError : it cannot be written.
    """
    check_output(path)
    columns = columns_of(features)
    with complete(path) as temporary:
        write_columns(temporary, path.suffix, columns, lambda: {HEADER: header_of(features.schema, columns)})


def open_features(path: str | Path) -> Features:
    """Open a merged file; its rows are read when they are asked for.

    Parameters
    ----------
    path : of the file.

    Raises
    ------
    InputError : there is none, or it is damaged.
    FormatVersionError : a newer embedstore wrote it.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES or not path.exists():
        found = "something else" if path.exists() else "nothing"
        raise InputError(f"Cannot open features {path}: expected a {', '.join(SUFFIXES)} file, found {found} there.")
    try:
        content = _READERS[path.suffix](path)
        schema = schema_from(content)
        samples = samples_from(content.columns, schema, path.name)
        return Features(samples, schema, FileRows(content, len(samples), schema.dim, path.name), path.name)
    except FormatVersionError:
        raise
    except (InputError, *_UNREADABLE, zarr.errors.BaseZarrError, zipfile.BadZipFile) as error:
        raise InputError(
            f"Cannot open features {path}: {plain(error, _SHOWN_CHARACTERS).rstrip('.')}. Merge again."
        ) from error


class FileRows:
    """The rows of a merged file, each checked against its CRC-32C.

    Raises
    ------
    InputError : the file does not hold (n, d) rows and a checksum for each.
    """

    def __init__(self, content: Content, count: int, dim: int, name: str) -> None:
        checksums = content.columns["row_crc"]
        if content.shape != (count, dim) or checksums.shape != (count,) or checksums.dtype != np.uint32:
            raise InputError(
                f"expected X of shape ({count}, {dim}) and as many checksums, "
                f"found {content.shape} and {checksums.shape} {checksums.dtype}"
            )
        storage = LocalStorage(content.folder)
        sizes = {part.file: storage.entry(part.file).size_bytes for part in content.parts}
        self._row_bytes = dim * ROW_DTYPE.itemsize
        for part in content.parts:
            end = part.offset + part.rows * self._row_bytes
            if end > sizes[part.file]:
                raise InputError(f"expected at least {end} bytes in {part.file}, found {sizes[part.file]}")
        self._parts = [(part, storage.open(part.file, sizes[part.file])) for part in content.parts]
        self._firsts = np.cumsum([0, *(part.rows for part in content.parts)])
        self._checksums = checksums
        self._name = name

    def gather(self, indices: Indices, rows: NDArray[np.float32]) -> None:
        order = np.argsort(indices, kind="stable")
        ascending = indices[order]
        bounds = np.searchsorted(ascending, self._firsts)  # each part has a run of them
        for number, (part, blob) in enumerate(self._parts):
            here = slice(int(bounds[number]), int(bounds[number + 1]))
            if here.start < here.stop:
                try:
                    found = blob.rows(part.offset, self._row_bytes, ascending[here] - self._firsts[number])
                except CorruptStoreError as error:
                    raise InputError(f"Cannot read {self._name}: {error.file}: {error.reason}. Merge again.") from error
                rows[order[here]] = found.view(ROW_DTYPE)
        # A value that is not finite is the caller's to refuse, by name.
        damaged = np.flatnonzero(row_checksums(None, rows.astype(ROW_DTYPE, copy=False)) != self._checksums[indices])
        if len(damaged) and not len(not_finite(rows)):
            raise InputError(
                f"Cannot read {self._name}: it is damaged: {len(damaged)} of {len(rows)} rows fail their checksum, "
                f"the first is row {indices[damaged[0]]}. Merge again."
            )


_NAMES_SHOWN = 10
_CHARACTERS_SHOWN = 80


def load_samples(path: str | Path) -> Samples:
    """Read a table of samples, and from `prepare.json` beside it how they were prepared.

    Without `prepare.json` nothing is stated of the preparation, and a schema that states something will not match.

    Parameters
    ----------
    path : of the table.

    Raises
    ------
    InputError : one of the two is not what it should be, or an id occurs twice.
    """
    path = Path(path)
    return collect(read_samples(path), read_preparation(path.parent / SETTINGS_NAME), str(path))


def read_preparation(path: Path) -> Preparation:
    """Read how samples were prepared; nothing is stated where there is no such file.

    Parameters
    ----------
    path : of `prepare.json`.

    Raises
    ------
    InputError : the file does not say it.
    """
    try:
        document = read_settings(path)
    except FileNotFoundError:
        return Preparation()
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read {path}: {error}. Prepare the samples again.") from error
    try:
        return Preparation.from_json(document.get("preparation"))
    except InputError as error:
        raise InputError(f"Cannot read {path}: {error} Prepare the samples again.") from error


def collect(batches: Iterable[SampleBatch], preparation: Preparation, origin: str) -> Samples:
    """Join batches of a table.

    Parameters
    ----------
    batches : of rows of the table.
    preparation : how the samples were cut.
    origin : where they come from, for messages.

    Raises
    ------
    InputError : an id occurs twice.
    """
    no_keys = np.empty((0, KEY_BYTES), np.uint8)
    pieces: dict[str, list[NDArray[Any]]] = {name: [np.empty(0, dtype)] for name, dtype in ARRAYS.items()}
    pieces |= {name: [np.empty(0, np.int32)] for name in CATEGORIES} | {"dna": [no_keys], "protein": [no_keys]}
    numbers: dict[str, dict[str, int]] = {name: {} for name in CATEGORIES}
    for batch in batches:
        _append(batch, pieces, numbers)
    joined: dict[str, Any] = {name: np.concatenate(pieces.pop(name)) for name in list(pieces)}
    refuse_repeated(joined["ids"], origin)
    for name in CATEGORIES:
        joined[name] = Categories.numbered(numbers[name], joined[name])
    keys: dict[Molecule, Keys] = {"dna": joined.pop("dna"), "protein": joined.pop("protein")}
    return Samples(**joined, keys=keys, preparation=preparation, origin=origin)


def refuse_repeated(ids: Texts, origin: str) -> None:
    """Refuse ids that occur twice.

    Parameters
    ----------
    ids : of samples.
    origin : where they come from, for messages.

    Raises
    ------
    InputError : counts and names them.
    """
    ordered = np.sort(ids)
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if len(again):
        names = ", ".join(plain(name, _CHARACTERS_SHOWN) for name in again[:_NAMES_SHOWN].tolist())
        raise InputError(
            f"Cannot use {origin}: expected each sample id once, found {len(again)} more than once: {names}"
            f"{' …' if len(again) > _NAMES_SHOWN else ''}. Give each sample its own id."
        )


def _append(batch: SampleBatch, pieces: dict[str, list[NDArray[Any]]], numbers: dict[str, dict[str, int]]) -> None:
    for name in CATEGORIES:
        known, texts = numbers[name], getattr(batch, name)
        pieces[name].append(np.fromiter((known.setdefault(text, len(known)) for text in texts), np.int32, len(batch)))
    pieces["ids"].append(np.array(batch.samples, dtype=TEXT))
    pieces["start"].append(batch.starts)
    pieces["end"].append(batch.ends)
    pieces["strand"].append(np.array([1 if strand == "+" else -1 for strand in batch.strands], np.int8))
    pieces["frame"].append(batch.frames.astype(np.int8))
    pieces["dna"].append(batch.dna_keys)
    pieces["protein"].append(batch.protein_keys)
