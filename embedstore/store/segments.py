"""Segments: immutable sorted sets of (key, vector) rows, and how a row is found in their files.

Both layouts hold the same three arrays, sorted by key, uncompressed and in C order, so that a reader needs no library
to find a row: `key` (n, 24) uint8, `vectors` (n, dim) float16 or float32, `row_crc` (n,) uint32, the CRC-32C of each
key and its vector. The commit says in which file each array's rows lie, and from which byte; reading is one path.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import CorruptStoreError
from embedstore.store import hdf5_layout, zarr_layout
from embedstore.store.documents import Commit, Part, SegmentFormat
from embedstore.store.index import same_keys
from embedstore.store.open_files import OpenFiles
from embedstore.store.rows import SegmentFiles, SortedRows, row_checksums
from embedstore.store.storage import Blob, Storage
from embedstore.types import KEY_BYTES, EmbeddingBatch, Keys

CRC_BYTES = 4


def write_segment(
    storage: Storage,
    folder: str,
    batch: EmbeddingBatch,
    layout: SegmentFormat,
    attributes: dict[str, object],
) -> tuple[SegmentFiles, dict[str, tuple[Part, ...]]]:
    """Write a batch of distinct keys as the files of a new segment; it is part of nothing until a commit names it.

    Parameters
    ----------
    folder : `spaces/<id>/`.
    attributes : what the Zarr group or HDF5 root says of itself.

    Returns
    -------
    The files as written, and in which of them the rows of each array lie.
    """
    files = SegmentFiles(storage, folder)
    write = zarr_layout.write if layout == "zarr" else hdf5_layout.write
    return files, write(files, SortedRows(batch), attributes)


class Segment:
    """A committed segment; its files are opened on first use."""

    def __init__(self, files: OpenFiles, folder: str, commit_id: str, commit: Commit, row_bytes: int) -> None:
        self._files = files
        self._folder = folder
        self.row_bytes = row_bytes
        self.commit_id = commit_id
        self.commit = commit

    def __len__(self) -> int:
        return self.commit.rows

    @property
    def keys(self) -> Keys:
        """(n, 24) uint8, sorted; mapped where the storage maps, so to be used at once and not kept."""
        parts = [self._blob(part.file).bytes(part.offset, part.rows * KEY_BYTES) for part in self.commit.arrays["key"]]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return joined.reshape(-1, KEY_BYTES)

    def holds(self, rows: NDArray[np.int64], keys: Keys) -> NDArray[np.bool_]:
        """Tell whether keys stand at some rows, which need not exist (a damaged index may name any): (k,) bool."""
        inside = np.minimum(rows, len(self) - 1)
        same: NDArray[np.bool_] = same_keys(self._gather("key", KEY_BYTES, inside), keys) & (rows == inside)
        return same

    def read_rows(self, rows: NDArray[np.int64], keys: Keys) -> NDArray[np.uint8]:
        """Bytes of the vectors of some keys, (k, row bytes) uint8, each checked against its CRC-32C.

        Parameters
        ----------
        rows : where the keys stand.

        Raises
        ------
        CorruptStoreError : a row does not have its checksum, or a file its size.
        """
        vectors = self._gather("vectors", self.row_bytes, rows)
        expected = self._gather("row_crc", CRC_BYTES, rows).view("<u4")[:, 0]
        damaged = np.flatnonzero(row_checksums(keys, vectors) != expected)
        if len(damaged):
            file = self.commit.arrays["vectors"][0].file
            reason = f"{len(damaged)} of {len(rows)} rows read lack their checksum, the first is row {rows[damaged[0]]}"
            raise CorruptStoreError(f"{self._folder}{file}", reason)
        return vectors

    def _gather(self, array: str, row_bytes: int, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        parts = self.commit.arrays[array]
        if len(parts) == 1:
            return self._blob(parts[0].file).rows(parts[0].offset, row_bytes, rows)
        gathered = np.empty((len(rows), row_bytes), np.uint8)
        first = 0
        for part in parts:
            here = np.flatnonzero((rows >= first) & (rows < first + part.rows))
            if len(here):
                gathered[here] = self._blob(part.file).rows(part.offset, row_bytes, rows[here] - first)
            first += part.rows
        return gathered

    def _blob(self, file: str) -> Blob:
        return self._files.blob(f"{self._folder}{file}", self.commit.files[file].size_bytes)
