"""Features in one HDF5 file: datasets of the root, contiguous, with the JSON text as an attribute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from embedstore.errors import InputError
from embedstore.features.columns import HEADER, Column, Content, expect_columns
from embedstore.features.samples import TEXT
from embedstore.store.documents import Part

_TEXT_PLACE = np.dtype([("size_bytes", "<u4"), ("collection", "<u8"), ("object", "<u4")])
"""How HDF5 writes a text of variable length: HDF5 file format specification, IV.B."""


def write(path: Path, columns: Sequence[Column], header: Callable[[], str]) -> None:
    """Write a new file; `header` is asked when all columns have passed."""
    with h5py.File(path, "x", libver="v110", locking=False) as file:
        for column in columns:
            dtype = h5py.string_dtype("utf-8") if column.is_text else column.dtype
            dataset = file.create_dataset(column.name, column.shape, dtype=dtype)
            start = 0
            for block in column.blocks():
                dataset[start : start + len(block)] = block
                start += len(block)
        file.attrs[HEADER] = header()


def read(path: Path) -> Content:
    """Read all but the rows, and find where those lie.

    Raises
    ------
    InputError : not such a file. Errors of h5py : it is damaged.
    """
    with h5py.File(path, "r", locking=False) as file:
        size_bytes = path.stat().st_size
        arrays = {name: _dataset(file, name, size_bytes) for name in file}
        expect_columns(
            {name: (array.shape, TEXT if _is_text(array) else array.dtype) for name, array in arrays.items()}
        )
        columns = {name: _column(array, path, size_bytes) for name, array in arrays.items() if name != "X"}
        rows = arrays["X"]
        count = int(rows.shape[0])
        parts = (Part(path.name, int(rows.id.get_offset()), count),) if rows.size else ()
        if HEADER in file.attrs and file.attrs.get_id(HEADER).shape != ():
            raise InputError(f"expected one text as {HEADER}, found several")
        header = file.attrs.get(HEADER, "")
        return Content(str(header), columns, tuple(np.shape(rows)), path.parent, parts)


def _dataset(file: Any, name: str, size_bytes: int) -> Any:
    """Open a dataset whose bytes are in this very file, as many as its shape needs.

    A file from elsewhere may name other files (external links and storage, virtual datasets), which are never opened.
    """
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise InputError(f"expected {name} in the file itself, found a link")
    array = file[name]
    if not isinstance(array, h5py.Dataset) or array.is_virtual or array.external or array.chunks is not None:
        raise InputError(f"expected {name} to be contiguous and in the file itself, found another kind of it")
    offset, claimed_bytes = array.id.get_offset(), array.size * array.dtype.itemsize
    if claimed_bytes and (offset is None or offset + claimed_bytes > size_bytes):
        raise InputError(f"expected {array.shape} of {array.dtype} in {name}, found less of it in the file")
    return array


def _is_text(array: Any) -> bool:
    return h5py.check_string_dtype(array.dtype) is not None


def _column(array: Any, path: Path, size_bytes: int) -> NDArray[Any]:
    if not _is_text(array):
        found: NDArray[Any] = array[:]
        return found
    if array.size:
        # Each text is a length and a place in the file; one place could be named a million times.
        described = np.fromfile(path, _TEXT_PLACE, array.size, offset=array.id.get_offset())
        text_bytes = int(described["size_bytes"].sum(dtype=np.int64))
        if array.id.get_storage_size() != described.nbytes or text_bytes > size_bytes:
            raise InputError(f"expected texts of at most {size_bytes} bytes in {array.name}, found {text_bytes}")
    texts: NDArray[Any] = array.astype("T")[:].astype(TEXT)
    return texts
