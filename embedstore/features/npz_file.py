"""Features in one `.npz`: stored, not deflated, so that the rows can be mapped where they lie."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import InputError
from embedstore.features.columns import HEADER, ROW_DTYPE, Column, Content, expect_columns
from embedstore.features.samples import TEXT
from embedstore.store.documents import Part

_TEXT_BLOCK_BYTES = 16 << 20

_LOCAL_HEADER = struct.Struct("<26x2H")
"""Of a zip member: its last two fields are the lengths of the name and of the extra field that follow."""


def write(path: Path, columns: Sequence[Column], header: Callable[[], str]) -> None:
    """Write a new file; `header` is asked when all columns have passed.

    Texts are fixed-width unicode, since texts of variable width would have to be pickled.
    """
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
        with archive.open(f"{HEADER}.npy", "w") as member:
            np.lib.format.write_array(member, np.array(header()), allow_pickle=False)


def read(path: Path) -> Content:
    """Read all but the rows, and find where those lie.

    Raises
    ------
    InputError : not such a file. Errors of zipfile and numpy : it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        described = {name: _described(archive, member) for name, member in members.items() if name != "X"}
        header_shape, _ = described.pop(HEADER, ((), TEXT))
        shape, offset = _rows(members["X"], path) if "X" in members else ((), 0)
        expect_columns({**described, **({"X": (shape, ROW_DTYPE)} if "X" in members else {})})
        if header_shape or offset + math.prod(shape) * ROW_DTYPE.itemsize > path.stat().st_size:
            raise InputError(f"expected X of {shape} in the file, found less of it")
        columns = {name: _array(archive, member) for name, member in members.items() if name != "X"}
    header = str(columns.pop(HEADER, ""))
    return Content(header, columns, shape, path.parent, (Part(path.name, offset, shape[0]),) if shape[0] else ())


def _unicode(column: Column) -> np.dtype[Any]:
    longest = max((int(np.strings.str_len(block).max()) for block in column.blocks()), default=0)
    return np.dtype(f"<U{max(1, longest)}")


def _described(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of a member, if it holds as many bytes as these need."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise InputError(f"expected {member.filename} to be stored, found it deflated")
    with archive.open(member) as content:
        shape, _, dtype = _npy_header(content)
        held_bytes = member.file_size - content.tell()
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != held_bytes:
        raise InputError(f"expected {shape} of {dtype} in {member.filename}, found {held_bytes} bytes")
    return shape, TEXT if dtype.kind == "U" else dtype


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(member) as content:
        array: NDArray[Any] = np.lib.format.read_array(content, allow_pickle=False)
    return array.astype(TEXT) if array.dtype.kind == "U" and array.ndim else array


def _rows(member: zipfile.ZipInfo, path: Path) -> tuple[tuple[int, ...], int]:
    """Shape of `X`, and the byte of the file at which its rows begin; each has a checksum, so zip's is not needed."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise InputError(f"expected {member.filename} to be stored, found it deflated")
    with path.open("rb") as file:
        file.seek(member.header_offset)
        name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        file.seek(name_bytes + extra_bytes, 1)
        shape, fortran_order, dtype = _npy_header(file)
        offset = file.tell()
    if dtype != ROW_DTYPE or fortran_order:
        raise InputError(f"expected X to be float32 in C order, found {dtype}")
    return shape, offset


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another version of the npy format")
    return np.lib.format.read_array_header_1_0(file)
