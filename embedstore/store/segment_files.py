"""Writing segments: rows are sorted by key, checksummed, and digested on their way into files of one of two layouts.

*Zarr*, a v3 group: any Zarr reader opens it, and each chunk file is raw rows plus a CRC-32C.

    data/<nonce>/zarr.json
    data/<nonce>/<array>/zarr.json
    data/<nonce>/<array>/c/<chunk>/0        (`row_crc` has one dimension: c/<chunk>)

Chunks hold at most 256 MiB. All chunks of an array have the same size, as Zarr requires; it is chosen so that padding
takes less than one row per chunk.

*HDF5*, one file of three contiguous datasets: one inode, for file systems that limit their number. The HDF5 library
writes a temporary file in which the space of the datasets is only reserved; its metadata and our rows are then streamed
together into the store. So no dataset is held twice, and HDF5 never opens a file of the store.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import IO, Any

import google_crc32c
import h5py
import numpy as np
from numpy.typing import NDArray

from embedstore.errors import StorageError
from embedstore.records import KEY_BYTES, EmbeddingBatch, Keys, Vectors
from embedstore.storage.protocol import Buffer, Storage, memory
from embedstore.store.documents import MAX_CREATED_NS, Commit, FileFact, Part, SegmentFormat

_PIECE_BYTES = 1 << 20  # stays in the processor's cache while it is checksummed, digested and written


def row_checksums(keys: Keys | None, vectors: NDArray[Any]) -> NDArray[np.uint32]:
    """CRC-32C (Castagnoli, RFC 3720) of each key followed by the bytes of its vector: (n,) uint32.

    The key is in it so that a damaged key, or a vector in another's place, cannot pass for a row.

    Parameters
    ----------
    keys : (n, 24) uint8; None: of the vectors alone, as in a merged file.
    vectors : n rows in C order.
    """
    value, extend = google_crc32c.value, google_crc32c.extend
    if keys is None:
        return np.fromiter(map(value, vectors), dtype=np.uint32, count=len(vectors))
    whole_keys = np.ascontiguousarray(keys).view(f"V{KEY_BYTES}").reshape(-1).tolist()  # faster than row by row
    return np.fromiter(map(extend, map(value, whole_keys), vectors), dtype=np.uint32, count=len(keys))


def as_strings(keys: Keys) -> NDArray[np.bytes_]:
    """View keys as (n,) `S24`, whose order is the order of the bytes; compare, never take items (NULs are stripped)."""
    return np.ascontiguousarray(keys).view(f"S{KEY_BYTES}").reshape(-1)


class SortedRows:
    """Rows in key order, handed out array by array.

    `shapes` lists the arrays in the order in which they must be written: the row checksums are counted while the
    vectors pass by, so that no second pass over them, and no second copy of them, is needed.

    Parameters
    ----------
    keys : (n, 24) uint8, ascending and distinct.
    dim, dtype : of the vectors.
    gather : the vectors of rows [start, stop), asked for in order: (stop - start, dim).
    """

    def __init__(self, keys: Keys, dim: int, dtype: np.dtype[Any], gather: Callable[[int, int], Vectors]) -> None:
        self._keys = keys
        self._gather = gather
        self._row_crc = np.zeros(len(keys), dtype="<u4")
        self.shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            "vectors": ((len(keys), dim), dtype.newbyteorder("<")),
            "key": (keys.shape, keys.dtype),
            "row_crc": (self._row_crc.shape, self._row_crc.dtype),
        }

    @classmethod
    def of(cls, batch: EmbeddingBatch) -> SortedRows:
        """Sort a batch of distinct keys."""
        order = np.argsort(as_strings(batch.keys), kind="stable")

        def gather(start: int, stop: int) -> Vectors:
            return np.take(batch.vectors, order[start:stop], axis=0)

        return cls(batch.keys[order], batch.vectors.shape[1], batch.vectors.dtype, gather)

    def __len__(self) -> int:
        return len(self._keys)

    def row_bytes(self, array: str) -> int:
        """Bytes of one row of an array."""
        shape, dtype = self.shapes[array]
        return int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize

    def pieces(self, array: str, start: int, stop: int) -> Iterator[Buffer]:
        """Yield the bytes of rows [start, stop) of an array, in order."""
        if array == "key":
            yield self._keys[start:stop]
        elif array == "row_crc":
            yield self._row_crc[start:stop]
        else:
            yield from self._vector_pieces(start, stop)

    def _vector_pieces(self, start: int, stop: int) -> Iterator[Buffer]:
        step = max(1, _PIECE_BYTES // self.row_bytes("vectors"))
        little_endian = self.shapes["vectors"][1]
        for first in range(start, stop, step):
            last = min(first + step, stop)
            piece = self._gather(first, last).astype(little_endian, copy=False)
            self._row_crc[first:last] = row_checksums(self._keys[first:last], piece)
            yield piece


class SegmentFiles:
    """The files of one new segment below `spaces/<id>/`, written one by one; notes size and digest of each.

    Parameters
    ----------
    layout : how they are arranged. rows : of the segment.

    Attributes
    ----------
    nonce : what they are called by; random, never used before.
    arrays : in which of the files the rows of each array lie, once they are written.
    written_ns : when the last file was written, by the storage's clock.
    """

    def __init__(self, storage: Storage, folder: str, layout: SegmentFormat, rows: int) -> None:
        self._storage = storage
        self._folder = folder
        self._layout: SegmentFormat = layout
        self._rows = rows
        self.nonce = uuid.uuid4().hex
        self.facts: dict[str, FileFact] = {}
        self.arrays: dict[str, tuple[Part, ...]] = {}
        self.written_ns = 0

    def write(self, name: str, parts: Iterable[Buffer]) -> None:
        """Write one file, named from the space's folder."""
        digest = hashlib.sha256()

        def digested() -> Iterator[Buffer]:
            for part in parts:
                digest.update(memory(part))
                yield part

        entry = self._storage.write(f"{self._folder}{name}", digested())
        self.facts[name] = FileFact(entry.size_bytes, digest.hexdigest())
        self.written_ns = max(self.written_ns, entry.modified_ns)

    def commit(
        self, space_id: str, created_ns: int, provenance: Mapping[str, Any], replaces: Sequence[str] = ()
    ) -> Commit:
        """Return the commit that makes these files part of a space, once it is published."""
        return Commit(
            space_id=space_id,
            nonce=self.nonce,
            layout=self._layout,
            rows=self._rows,
            created_ns=min(created_ns, MAX_CREATED_NS),
            arrays=self.arrays,
            files=self.facts,
            replaces=tuple(replaces),
            provenance=provenance,
        )


CHUNK_BYTES = 256 << 20

_WIDTH_NAMES = {"key": ["key_byte"], "vectors": ["value"], "row_crc": []}


def write_zarr(files: SegmentFiles, rows: SortedRows, attributes: dict[str, object]) -> dict[str, tuple[Part, ...]]:
    """Write the group; return where each array's rows lie."""
    folder = f"data/{files.nonce}"
    files.write(f"{folder}/zarr.json", [_json({"zarr_format": 3, "node_type": "group", "attributes": attributes})])
    return {array: _write_array(files, rows, f"{folder}/{array}", array) for array in rows.shapes}


def _write_array(files: SegmentFiles, rows: SortedRows, folder: str, array: str) -> tuple[Part, ...]:
    shape, dtype = rows.shapes[array]
    row_bytes = rows.row_bytes(array)
    chunk_rows = _chunk_rows(len(rows), row_bytes)
    files.write(f"{folder}/zarr.json", [_json(_array_metadata(array, shape, dtype, chunk_rows))])
    parts = []
    for chunk, start in enumerate(range(0, len(rows), chunk_rows)):
        stop = min(start + chunk_rows, len(rows))
        file = f"{folder}/c/{chunk}" + "/0" * (len(shape) - 1)
        padding = bytes((start + chunk_rows - stop) * row_bytes)
        files.write(file, _with_checksum(chain(rows.pieces(array, start, stop), [padding] if padding else [])))
        parts.append(Part(file, 0, stop - start))
    return tuple(parts)


def _chunk_rows(count: int, row_bytes: int) -> int:
    chunks = -(-count * row_bytes // CHUNK_BYTES)
    return -(-count // chunks)


def _with_checksum(pieces: Iterable[Buffer]) -> Iterator[Buffer]:
    """Append the CRC-32C that Zarr's `crc32c` codec wants: four bytes, little-endian."""
    checksum = 0
    for piece in pieces:
        checksum = google_crc32c.extend(checksum, piece)
        yield piece
    yield checksum.to_bytes(4, "little")


def _array_metadata(array: str, shape: tuple[int, ...], dtype: np.dtype[Any], chunk_rows: int) -> dict[str, object]:
    endian = {"configuration": {"endian": "little"}} if dtype.itemsize > 1 else {}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk_rows, *shape[1:]]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        # A chunk that is gone must not read as zeros.
        "fill_value": "NaN" if dtype.kind == "f" else 0,
        "codecs": [{"name": "bytes", **endian}, {"name": "crc32c"}],
        "attributes": {},
        "dimension_names": ["row", *_WIDTH_NAMES[array]],
        "storage_transformers": [],
    }


def _json(document: dict[str, object]) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode("utf-8")


def write_hdf5(files: SegmentFiles, rows: SortedRows, attributes: dict[str, object]) -> dict[str, tuple[Part, ...]]:
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
