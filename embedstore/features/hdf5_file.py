"""Features in one HDF5 file: datasets of the root, contiguous, with the JSON text as an attribute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np

from embedstore.errors import InputError
from embedstore.features.columns import HEADER, ROW_DTYPE, Column, Content, expect_columns
from embedstore.features.samples import TEXT
from embedstore.store.documents import Part


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
        expect_columns(list(file))
        columns = {}
        for name in file:
            if name != "X":
                text = h5py.check_string_dtype(file[name].dtype) is not None
                columns[name] = file[name].astype("T")[:].astype(TEXT) if text else file[name][:]
        rows = file["X"]
        offset = rows.id.get_offset()
        if rows.dtype != ROW_DTYPE or (offset is None and rows.size):
            raise InputError(f"expected X to be contiguous float32, found {rows.dtype} with chunks {rows.chunks}")
        count = int(rows.shape[0])
        parts = (Part(path.name, int(offset), count),) if rows.size else ()
        header = file.attrs.get(HEADER, "")
        return Content(str(header), columns, tuple(np.shape(rows)), path.parent, parts)
