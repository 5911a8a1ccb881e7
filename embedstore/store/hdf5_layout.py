"""A segment as one HDF5 file of three contiguous datasets: one inode, for file systems that count them.

The HDF5 library lays out an empty file with the space of the datasets reserved; its metadata and our rows are then
streamed together into the store. So no dataset is held twice, and HDF5 never touches a file of the store.
"""

from __future__ import annotations

import json
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
    try:
        with tempfile.TemporaryFile() as template:  # nameless: nothing is left of it when the process is killed
            offsets = _lay_out(template, rows, attributes)
            files.write(name, _content(template, rows, offsets))
    except OSError as error:
        raise StorageError(f"Cannot lay out an HDF5 file in the folder for temporary files: {error}.") from error
    return {array: (Part(name, offset, len(rows)),) for array, offset in offsets.items()}


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


def _content(template: IO[bytes], rows: SortedRows, offsets: dict[str, int]) -> Iterator[Buffer]:
    """Yield the file from its first byte to its last: metadata from the template, data from the rows."""
    in_file = sorted(offsets, key=offsets.__getitem__)
    if in_file != list(rows.shapes):
        raise AssertionError(f"HDF5 reserved space in the order {in_file}, expected {list(rows.shapes)}")
    template.seek(0)
    for array in in_file:
        yield template.read(offsets[array] - template.tell())
        yield from rows.pieces(array, 0, len(rows))
        template.seek(offsets[array] + len(rows) * rows.row_bytes(array))
    yield template.read()
