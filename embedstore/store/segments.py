"""Segments: immutable sorted sets of (key, vector) rows, and how a row is found in their files.

Both layouts hold the same three arrays, sorted by key, uncompressed and in C order, so that a reader needs no library
to find a row: `key` (n, 24) uint8, `vectors` (n, dim) float16 or float32, `row_crc` (n,) uint32, the CRC-32C of each
key and its vector. The commit says in which file each array's rows lie, and from which byte; reading is one path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import CorruptStoreError
from embedstore.records import KEY_BYTES, Keys
from embedstore.storage.open_files import OpenFiles
from embedstore.storage.protocol import Blob, Storage, empty_rows, one_ahead, side_by_side
from embedstore.store.documents import Commit, Part, SegmentFormat, commit_file
from embedstore.store.index import same_keys
from embedstore.store.segment_files import SegmentFiles, SortedRows, row_checksums, write_hdf5, write_zarr

CRC_BYTES = 4
_SPARE_BLOCKS = 3  # one is checked, one is gathered, one was just handed back


@dataclass(frozen=True, slots=True, eq=False)
class _Share:
    """Some of the rows that are asked for, which lie in one file.

    Attributes
    ----------
    first : row of the segment that `part` begins with.
    rows : (k,) positions among what is asked for.
    block : room for their bytes; or those, once they are gathered.
    """

    blob: Blob
    part: Part
    first: int
    rows: NDArray[np.int64]
    block: NDArray[np.uint8]


_PIECE_BYTES = 16 << 20


def write_segment(
    storage: Storage,
    folder: str,
    rows: SortedRows,
    layout: SegmentFormat,
    attributes: dict[str, object],
) -> SegmentFiles:
    """Write rows as the files of a new segment; it is part of nothing until a commit names it.

    Parameters
    ----------
    folder : `spaces/<id>/`.
    attributes : what the Zarr group or HDF5 root says of itself.

    Returns
    -------
    The files as written.
    """
    files = SegmentFiles(storage, folder, layout, len(rows))
    write = write_zarr if layout == "zarr" else write_hdf5
    files.arrays = write(files, rows, attributes)
    return files


class Segment:
    """A committed segment; its files are opened on first use.

    Raises
    ------
    CorruptStoreError : the commit does not fit the space's vectors.
    """

    def __init__(self, files: OpenFiles, folder: str, commit_id: str, commit: Commit, row_bytes: int) -> None:
        self._files = files
        self._folder = folder
        self.row_bytes = row_bytes
        self.commit_id = commit_id
        self.commit = commit
        self._refuse_impossible_places()

    def __len__(self) -> int:
        return self.commit.rows

    @property
    def requests_at_once(self) -> int:
        """How many segments are better read side by side."""
        return self._files.requests_at_once

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

    def keys_at(self, rows: NDArray[np.int64]) -> Keys:
        """Keys at some rows: (k, 24) uint8."""
        return self._gather("key", KEY_BYTES, rows)

    def whole_rows(self, dtype: np.dtype[Any]) -> NDArray[np.bool_]:
        """Tell which rows can be read, have their checksum, and are finite, whatever the files look like: (n,) bool."""
        whole = np.zeros(len(self), np.bool_)
        starts = {0, len(self)}
        for parts in self.commit.arrays.values():  # no piece lies in two files, one of which may be gone
            starts.update(np.cumsum([part.rows for part in parts]).tolist())
        step = max(1, _PIECE_BYTES // self.row_bytes)
        starts.update(range(0, len(self), step))
        edges = sorted(starts)
        for start, stop in pairwise(edges):
            rows = np.arange(start, stop)
            with suppress(CorruptStoreError, FileNotFoundError):
                expected = self._gather("row_crc", CRC_BYTES, rows).view("<u4")[:, 0]
                vectors = self._gather("vectors", self.row_bytes, rows)
                whole[start:stop] = row_checksums(self.keys_at(rows), vectors) == expected
                whole[start:stop] &= np.isfinite(vectors.view(dtype.newbyteorder("<"))).all(axis=1)
        return whole

    def read_rows(self, rows: NDArray[np.int64], keys: Keys) -> NDArray[np.uint8]:
        """Bytes of the vectors of some keys, (k, row bytes) uint8, each checked; see `read_into`."""
        vectors = empty_rows(len(rows), self.row_bytes)
        self.read_into(vectors, np.arange(len(rows)), rows, keys)
        return vectors

    def read_into(
        self, vectors: NDArray[np.uint8], places: NDArray[np.int64], rows: NDArray[np.int64], keys: Keys
    ) -> None:
        """Put the vectors of some keys where they are wanted, each checked against its CRC-32C.

        Parameters
        ----------
        vectors : (n, row bytes) uint8, to be filled.
        places : (k,) rows of `vectors` that are wanted here.
        rows : (k,) where the keys stand in this segment.

        Raises
        ------
        CorruptStoreError : a row does not have its checksum, or a file its size.
        """
        self._open_at_once(("row_crc", "vectors"), rows)
        expected = self._gather("row_crc", CRC_BYTES, rows).view("<u4")[:, 0]
        for share in one_ahead(partial(self._put, vectors, places, rows), list(self._shares(rows))):
            some, block = share.rows, share.block
            damaged = np.flatnonzero(row_checksums(keys[some], block) != expected[some])
            if len(damaged):
                reason = f"{len(damaged)} of {len(some)} rows read do not have their checksum"
                first = rows[some[damaged[0]]]
                raise CorruptStoreError(f"{self._folder}{share.part.file}", f"{reason}, the first is row {first}")

    def _shares(self, rows: NDArray[np.int64]) -> Iterator[_Share]:
        """Split the reading of some rows into what is best read at once."""
        none = empty_rows(0, self.row_bytes)
        spare: list[NDArray[np.uint8]] = []  # small blocks: making a new one takes as long as filling it
        number = 0
        for part, first, here in self._by_part("vectors", rows):
            blob = self._blob(part.file)
            step = max(1, blob.gather_bytes // self.row_bytes)
            if blob.in_order and len(here) > step:  # pieces that lie apart, so that no range is read twice
                here = here[np.argsort(rows[here], kind="stable")]
            for start in range(0, len(here), step):
                some = here[start : start + step]
                if not blob.in_order and len(spare) < _SPARE_BLOCKS:
                    spare.append(empty_rows(len(some), self.row_bytes))
                block = none if blob.in_order else spare[number % _SPARE_BLOCKS]
                number += not blob.in_order
                yield _Share(blob, part, first, some, block)

    def _put(
        self, vectors: NDArray[np.uint8], places: NDArray[np.int64], rows: NDArray[np.int64], share: _Share
    ) -> _Share:
        """Gather the rows of one share where they are wanted; its `block` are then their bytes."""
        wanted, stood = places[share.rows], rows[share.rows] - share.first
        if wanted[-1] - wanted[0] == len(wanted) - 1 and (np.diff(wanted) == 1).all():
            out = vectors[wanted[0] : wanted[-1] + 1]
            return replace(share, block=share.blob.rows(share.part.offset, self.row_bytes, stood, out))
        out = share.block[: len(wanted)] if len(share.block) >= len(wanted) else empty_rows(len(wanted), self.row_bytes)
        block = share.blob.rows(share.part.offset, self.row_bytes, stood, out)
        width = np.dtype(np.uint64 if self.row_bytes % 8 == 0 else np.uint8)  # in words: a tenth faster
        vectors.view(width)[wanted] = block.view(width)
        return replace(share, block=block)

    def _refuse_impossible_places(self) -> None:
        """Refuse rows beyond the end of their file, and rows of two arrays, or twice of one, at one place."""
        widths = {"key": KEY_BYTES, "vectors": self.row_bytes, "row_crc": CRC_BYTES}
        places = sorted(
            (part.file, part.offset, part.offset + part.rows * widths[array], array)
            for array, parts in self.commit.arrays.items()
            for part in parts
        )
        for file, _, stop, array in places:
            size_bytes = self.commit.files[file].size_bytes
            if stop > size_bytes:
                raise self._misplaced(f"array {array} ends at byte {stop} of a file of {size_bytes} bytes")
        for (file, _, stop, array), (next_file, start, _, next_array) in pairwise(places):
            if file == next_file and start < stop:
                raise self._misplaced(f"array {next_array} begins at byte {start} inside array {array} of {file}")

    def _misplaced(self, reason: str) -> CorruptStoreError:
        return CorruptStoreError(f"{self._folder}{commit_file(self.commit_id)}", reason)

    def _gather(self, array: str, row_bytes: int, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        gathered = np.empty((len(rows), row_bytes), np.uint8)
        for part, first, here in self._by_part(array, rows):
            found = self._blob(part.file).rows(part.offset, row_bytes, rows[here] - first)
            if len(here) == len(rows):
                return found
            gathered[here] = found
        return gathered

    def _by_part(self, array: str, rows: NDArray[np.int64]) -> Iterator[tuple[Part, int, NDArray[np.int64]]]:
        """Yield the files that hold some of the rows, each with its first row and the positions in `rows` it holds."""
        first = 0
        for part in self.commit.arrays[array]:
            here = np.flatnonzero((rows >= first) & (rows < first + part.rows))
            if len(here):
                yield part, first, here
            first += part.rows

    def _open_at_once(self, arrays: Sequence[str], rows: NDArray[np.int64]) -> None:
        """Open the files that hold some rows side by side, where each of them would be waited for."""
        if self.requests_at_once > 1:
            files = {part.file for array in arrays for part, _, _ in self._by_part(array, rows)}
            for _ in side_by_side(self._blob, sorted(files), self.requests_at_once):
                pass

    def _blob(self, file: str) -> Blob:
        fact = self.commit.files[file]
        return self._files.blob(f"{self._folder}{file}", fact.size_bytes, fact.sha256)
