"""Columns of rows as one file for numpy, HDF5 or Zarr; who reads them needs nothing of ours.

    .npz    numpy; members are stored, not deflated, so that rows can be mapped; texts as fixed-width unicode, since
            texts of variable width would have to be pickled; attributes as members of one text each
    .h5     HDF5; contiguous datasets of the root; texts as variable-length UTF-8; attributes of the root
    .zarr   Zarr v3 group, the same as HDF5; the chunks of `X` are not compressed: each is a file of raw rows

Blocks of rows pass through, so memory does not grow with the file. Attributes are asked for when all columns have
passed, since what they say may be counted on the way.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import InputError

TEXT = np.dtypes.StringDType()
"""Variable-width text: its items are `str`, and it takes a quarter of what fixed-width text takes."""

_TEXT_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One array on its way into a file.

    Attributes
    ----------
    name : in the file; the one with the vectors is `X`.
    shape : of the whole array.
    dtype : `TEXT` for texts.
    block_rows : how many rows a block has, but for the last one.
    blocks : yields them in order, from the start whenever it is called.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    block_rows: int
    blocks: Callable[[], Iterator[NDArray[Any]]]

    @property
    def is_text(self) -> bool:
        """Whether its items are texts."""
        return self.dtype == TEXT


Attributes = Callable[[], Mapping[str, str]]
"""What a file says of itself, asked for when all columns have passed."""


def write_columns(path: Path, suffix: str, columns: Sequence[Column], attributes: Attributes) -> None:
    """Write a new file.

    Parameters
    ----------
    path : where nothing is yet.
    suffix : one of `SUFFIXES`, which says the format.
    columns : in the order in which they are written.
    attributes : name -> text.

    Raises
    ------
    OSError : it cannot be written.
    """
    _WRITERS[suffix](path, columns, attributes)


def check_path(path: Path, doing: str) -> None:
    """Refuse a path that such a file cannot be written to.

    Parameters
    ----------
    path : where it is to lie.
    doing : for the message: "export to".

    Raises
    ------
    InputError : its suffix is none of `SUFFIXES`, or a folder of something else is there.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"Cannot {doing} {path}: expected a name that ends in {', '.join(SUFFIXES)}.")
    if path.is_dir() and not (path.suffix == ".zarr" and (path / "zarr.json").is_file()):
        raise InputError(
            f"Cannot {doing} {path}: another folder is there, which embedstore did not write. Give another name."
        )


def _write_npz(path: Path, columns: Sequence[Column], attributes: Attributes) -> None:
    with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED) as archive:
        for column in columns:
            dtype = _unicode(column) if column.is_text else column.dtype
            with archive.open(f"{column.name}.npy", "w", force_zip64=True) as member:
                described = {
                    "descr": np.lib.format.dtype_to_descr(dtype),
                    "fortran_order": False,
                    "shape": column.shape,
                }
                np.lib.format.write_array_header_1_0(member, described)
                # As fixed width, one long text makes all of them as long: a few at a time.
                step = max(1, _TEXT_BLOCK_BYTES // dtype.itemsize) if column.is_text else column.block_rows
                for block in column.blocks():
                    for start in range(0, len(block), step):
                        some = block[start : start + step].astype(dtype, copy=False)
                        member.write(np.ascontiguousarray(some).data)
        for name, text in attributes().items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.array(text), allow_pickle=False)


def _unicode(column: Column) -> np.dtype[Any]:
    longest = max((int(np.strings.str_len(block).max()) for block in column.blocks()), default=0)
    return np.dtype(f"<U{max(1, longest)}")


def _write_hdf5(path: Path, columns: Sequence[Column], attributes: Attributes) -> None:
    import h5py

    with h5py.File(path, "x", libver="v110", locking=False) as file:  # so that an attribute may be beyond 64 KiB
        for column in columns:
            dtype = h5py.string_dtype("utf-8") if column.is_text else column.dtype
            _put_blocks(file.create_dataset(column.name, column.shape, dtype=dtype), column)
        file.attrs.update(attributes())


def _write_zarr(path: Path, columns: Sequence[Column], attributes: Attributes) -> None:
    import zarr

    group = zarr.open_group(path, mode="w-", zarr_format=3)
    for column in columns:
        count, width = column.shape[0], column.shape[1:]
        array = group.create_array(
            column.name,
            shape=column.shape,
            chunks=(min(count, column.block_rows) or 1, *width),
            dtype="string" if column.is_text else column.dtype,
            compressors=None if column.name == "X" else "auto",
            # A chunk that is gone must not read as zeros, and none may be left out.
            fill_value=np.nan if column.name == "X" else None,
            config={"write_empty_chunks": True},
        )
        _put_blocks(array, column)
    group.attrs.update({**attributes()})


def _put_blocks(array: Any, column: Column) -> None:
    start = 0
    for block in column.blocks():
        array[start : start + len(block)] = block
        start += len(block)


_WRITERS: dict[str, Callable[[Path, Sequence[Column], Attributes], None]] = {
    ".npz": _write_npz,
    ".h5": _write_hdf5,
    ".zarr": _write_zarr,
}
SUFFIXES = tuple(_WRITERS)
