"""A segment as one HDF5 file of three contiguous datasets: one inode, for file systems that count them.

The HDF5 library lays out an empty file with the space of the datasets reserved; its metadata and our rows are then
streamed together into the store. So no dataset is held twice, and HDF5 never touches a file of the store.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from typing import IO

import h5py

from embedstore.errors import StorageError
from embedstore.store.documents import Part
from embedstore.store.rows import SegmentFiles, SortedRows
from embedstore.store.storage import Buffer


def write(files: SegmentFiles, rows: SortedRows, attributes: dict[str, object]) -> dict[str, tuple[Part, ...]]:
    """Write the file; return where each array's rows lie."""
    name = f"data/{files.nonce}.h5"
    offsets, metadata = _laid_out(rows, attributes)
    files.write(name, _content(metadata, rows))
    return {array: (Part(name, offset, len(rows)),) for array, offset in offsets.items()}


def _laid_out(rows: SortedRows, attributes: dict[str, object]) -> tuple[dict[str, int], list[bytes]]:
    """Let HDF5 write an empty file; return the datasets' offsets, and what stands before, between and after them.

    Raises
    ------
    StorageError : there is no space for it in the folder for temporary files, or no such folder.
    """
    try:
        with tempfile.TemporaryFile() as template:  # nameless: nothing is left of it when the process is killed
            offsets = _lay_out(template, rows, attributes)
            return offsets, _metadata(template, rows, offsets)
    except (OSError, RuntimeError) as error:  # h5py has the second for some of what the system says
        raise _refused(error) from error


def _refused(error: Exception) -> StorageError:
    try:
        folder = tempfile.gettempdir()
    except OSError:  # none can be written to
        folder = f"{os.environ.get('TMPDIR', '/tmp')} or the like"  # noqa: S108 - names it, makes nothing
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
    return StorageError(
        f"Cannot prepare an HDF5 file in the folder for temporary files, {folder}: {reason}. "
        "Make space there, or set TMPDIR to another folder."
    )


def _lay_out(template: IO[bytes], rows: SortedRows, attributes: dict[str, object]) -> dict[str, int]:
    """Make the file with all space reserved and nothing written there (it is sparse); return the datasets' offsets."""
    reserved = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    reserved.set_layout(h5py.h5d.CONTIGUOUS)
    reserved.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    reserved.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    offsets = {}
    with h5py.File(template, "w", libver="v110", locking=False) as file:
        for name, value in attributes.items():
            file.attrs[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for array, (shape, dtype) in rows.shapes.items():
            space = h5py.h5s.create_simple(shape)
            dataset = h5py.h5d.create(file.id, array.encode(), h5py.h5t.py_create(dtype), space, reserved)
            offsets[array] = int(dataset.get_offset())
    return offsets


def _metadata(template: IO[bytes], rows: SortedRows, offsets: dict[str, int]) -> list[bytes]:
    """Read all but the rows: a piece before each array, and one at the end."""
    in_file = sorted(offsets, key=offsets.__getitem__)
    if in_file != list(rows.shapes):
        raise AssertionError(f"HDF5 reserved space in the order {in_file}, expected {list(rows.shapes)}")
    pieces = []
    template.seek(0)
    for array in in_file:
        pieces.append(template.read(offsets[array] - template.tell()))
        template.seek(offsets[array] + len(rows) * rows.row_bytes(array))
    return [*pieces, template.read()]


def _content(metadata: list[bytes], rows: SortedRows) -> Iterator[Buffer]:
    """Yield the file from its first byte to its last."""
    for array, piece in zip(rows.shapes, metadata, strict=False):  # there is one piece more
        yield piece
        yield from rows.pieces(array, 0, len(rows))
    yield metadata[-1]
