"""Merged files: features with all that belongs to them, as `.zarr`, `.h5` or `.npz`; `columns` says what is inside.

Rows pass through by blocks on the way in, and are read where they lie, mapped, on the way out.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tokenize import TokenError
from typing import NamedTuple

import numpy as np
import zarr.errors
from numpy.typing import NDArray

from embedstore.errors import CorruptStoreError, FormatVersionError, InputError, plain
from embedstore.features import hdf5_file, npz_file, zarr_file
from embedstore.features.columns import (
    ROW_DTYPE,
    Column,
    Content,
    columns_of,
    header_of,
    row_checksums,
    samples_from,
    schema_from,
)
from embedstore.features.features import Features
from embedstore.features.samples import Indices
from embedstore.output import complete
from embedstore.store.local import LocalStorage


class _Format(NamedTuple):
    write: Callable[[Path, Sequence[Column], Callable[[], str]], None]
    read: Callable[[Path], Content]


_FORMATS = {
    ".zarr": _Format(zarr_file.write, zarr_file.read),
    ".h5": _Format(hdf5_file.write, hdf5_file.read),
    ".npz": _Format(npz_file.write, npz_file.read),
}
SUFFIXES = tuple(_FORMATS)
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
    return path.suffix in _FORMATS


def check_output(path: Path) -> None:
    """Refuse a path that features cannot be written to.

    Raises
    ------
    InputError : its suffix is none of `SUFFIXES`, or a folder of something else is there.
    """
    if path.suffix not in _FORMATS:
        raise InputError(f"Cannot write features to {path}: expected a name that ends in {', '.join(SUFFIXES)}.")
    if path.is_dir() and not (path.suffix == ".zarr" and (path / "zarr.json").is_file()):
        raise InputError(f"Cannot write features to {path}: another folder is there. Give another name.")


def write_features(features: Features, path: Path) -> None:
    """Write a merged file; what was at `path` before is replaced once the new one is complete.

    Raises
    ------
    InputError : see `check_output`; or a value is not finite, the sample is named, and nothing is written.
    StorageError : it cannot be written.
    """
    check_output(path)
    columns = columns_of(features)
    with complete(path) as temporary:
        _FORMATS[path.suffix].write(temporary, columns, partial(header_of, features.schema, columns))


def open_features(path: str | Path) -> Features:
    """Open a merged file; its rows are read when they are asked for.

    Raises
    ------
    InputError : there is none, or it is damaged. FormatVersionError : a newer embedstore wrote it.
    """
    path = Path(path)
    if path.suffix not in _FORMATS or not path.exists():
        found = "something else" if path.exists() else "nothing"
        raise InputError(f"Cannot open features {path}: expected a {', '.join(SUFFIXES)} file, found {found} there.")
    try:
        content = _FORMATS[path.suffix].read(path)
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
        damaged = np.flatnonzero(row_checksums(rows.astype(ROW_DTYPE, copy=False)) != self._checksums[indices])
        if len(damaged) and np.isfinite(rows).all():
            raise InputError(
                f"Cannot read {self._name}: it is damaged: {len(damaged)} of {len(rows)} rows lack their checksum, "
                f"the first is row {indices[damaged[0]]}. Merge again."
            )
