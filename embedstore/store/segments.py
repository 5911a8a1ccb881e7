"""Segments: immutable sorted sets of (key, vector) rows, and how a row is found in their files.

Both layouts hold the same three arrays, sorted by key, uncompressed and in C order, so that a reader needs no library
to find a row: `key` (n, 24) uint8, `vectors` (n, dim) float16 or float32, `row_crc` (n,) uint32, the CRC-32C of each
key and its vector. The commit says in which file each array's rows lie, and from which byte; reading is one path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import CorruptStoreError
from embedstore.records import KEY_BYTES, Keys
from embedstore.storage.open_files import OpenFiles
from embedstore.storage.protocol import Blob, Storage, empty_rows, one_ahead, side_by_side
from embedstore.store.documents import Commit, Part, SegmentFormat, commit_file
from embedstore.store.segment_files import SegmentFiles, SortedRows, row_checksums, write_hdf5, write_zarr

CRC_BYTES = 4
_SPARE_BLOCKS = 3  # one is checked, one is gathered, one was just handed back


class _Piece(NamedTuple):
    """Rows [first, stop) of an array of the segment, which lie in one file.

    Attributes
    ----------
    file : name, size and SHA-256, as `OpenFiles.blob` wants them.
    offset : byte at which the first of the rows begins.
    """

    file: tuple[str, int, str]
    offset: int
    first: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class _Share:
    """Some of the rows that are asked for, which lie in one file.

    Attributes
    ----------
    rows : (k,) positions among what is asked for.
    block : room for their bytes.
    """

    blob: Blob
    piece: _Piece
    rows: NDArray[np.int64]
    block: NDArray[np.uint8]


_CHECKED_BYTES = 16 << 20


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
        self.requests_at_once = files.requests_at_once
        self._row_bytes = {"key": KEY_BYTES, "vectors": row_bytes, "row_crc": CRC_BYTES}
        self._refuse_impossible_places()
        self._pieces = {array: tuple(self._pieces_of(parts)) for array, parts in commit.arrays.items()}

    def __len__(self) -> int:
        return self.commit.rows

    @property
    def keys(self) -> Keys:
        """(n, 24) uint8, sorted; mapped where the storage maps, so to be used at once and not kept."""
        found = [
            self._files.blob(*piece.file).bytes(piece.offset, (piece.stop - piece.first) * KEY_BYTES)
            for piece in self._pieces["key"]
        ]
        joined = found[0] if len(found) == 1 else np.concatenate(found)
        return joined.reshape(-1, KEY_BYTES)

    def keys_at(self, rows: NDArray[np.int64]) -> Keys:
        """Keys at some rows: (k, 24) uint8."""
        return self.gather("key", rows)

    def gather(self, array: str, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Bytes of some rows of one of the arrays, unchecked, in the order asked: (k, bytes of a row) uint8."""
        row_bytes = self._row_bytes[array]
        gathered = np.empty((len(rows), row_bytes), np.uint8)
        pieces = self._pieces[array]
        if len(pieces) == 1 and len(rows):
            return self._files.blob(*pieces[0].file).rows(pieces[0].offset, row_bytes, rows, gathered)
        for piece, here in _by_piece(pieces, rows):
            blob = self._files.blob(*piece.file)
            gathered[here] = blob.rows(piece.offset, row_bytes, rows[here] - piece.first)
        return gathered

    def whole_rows(self, dtype: np.dtype[Any]) -> NDArray[np.bool_]:
        """Tell which rows can be read, have their checksum, and are finite, whatever the files look like: (n,) bool."""
        whole = np.zeros(len(self), np.bool_)
        starts = {0, len(self)}
        for pieces in self._pieces.values():  # nothing that is read at once lies in two files: one may be gone
            starts.update(piece.stop for piece in pieces)
        step = max(1, _CHECKED_BYTES // self.row_bytes)
        starts.update(range(0, len(self), step))
        edges = sorted(starts)
        for start, stop in pairwise(edges):
            rows = np.arange(start, stop)
            with suppress(CorruptStoreError, FileNotFoundError):
                expected = self.gather("row_crc", rows).view("<u4")[:, 0]
                vectors = self.gather("vectors", rows)
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
        expected = self.gather("row_crc", rows).view("<u4")[:, 0]
        shares = list(self._shares(rows))
        for share, block in zip(shares, one_ahead(partial(self._put, vectors, places, rows), shares), strict=True):
            some = share.rows
            damaged = (row_checksums(keys[some], block) != expected[some]).nonzero()[0]
            if len(damaged):
                reason = f"{len(damaged)} of {len(some)} rows read do not have their checksum"
                first = rows[some[damaged[0]]]
                raise CorruptStoreError(share.piece.file[0], f"{reason}, the first is row {first}")

    def _shares(self, rows: NDArray[np.int64]) -> Iterator[_Share]:
        """Split the reading of some rows into what is best read at once."""
        none = empty_rows(0, self.row_bytes)
        spare: list[NDArray[np.uint8]] = []  # small blocks: making a new one takes as long as filling it
        number = 0
        for piece, here in _by_piece(self._pieces["vectors"], rows):
            blob = self._files.blob(*piece.file)
            step = max(1, blob.gather_bytes // self.row_bytes)
            if blob.in_order and len(here) > step:  # pieces that lie apart, so that no range is read twice
                here = here[np.argsort(rows[here], kind="stable")]
            for start in range(0, len(here), step):
                some = here[start : start + step]
                if not blob.in_order and len(spare) < _SPARE_BLOCKS:
                    spare.append(empty_rows(len(some), self.row_bytes))
                block = none if blob.in_order else spare[number % _SPARE_BLOCKS]
                number += not blob.in_order
                yield _Share(blob, piece, some, block)

    def _put(
        self, vectors: NDArray[np.uint8], places: NDArray[np.int64], rows: NDArray[np.int64], share: _Share
    ) -> NDArray[np.uint8]:
        """Gather the rows of one share where they are wanted, and return their bytes."""
        wanted, stood = places[share.rows], rows[share.rows] - share.piece.first
        if wanted[-1] - wanted[0] == len(wanted) - 1 and (wanted[1:] - wanted[:-1] == 1).all():
            out = vectors[wanted[0] : wanted[-1] + 1]
            return share.blob.rows(share.piece.offset, self.row_bytes, stood, out)
        out = share.block[: len(wanted)] if len(share.block) >= len(wanted) else empty_rows(len(wanted), self.row_bytes)
        block = share.blob.rows(share.piece.offset, self.row_bytes, stood, out)
        width = np.dtype(np.uint64 if self.row_bytes % 8 == 0 else np.uint8)  # in words: a tenth faster
        vectors.view(width)[wanted] = block.view(width)
        return block

    def _refuse_impossible_places(self) -> None:
        """Refuse rows beyond the end of their file, and rows of two arrays, or twice of one, at one place."""
        places = sorted(
            (part.file, part.offset, part.offset + part.rows * self._row_bytes[array], array)
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

    def _pieces_of(self, parts: Sequence[Part]) -> Iterator[_Piece]:
        first = 0
        for part in parts:
            fact = self.commit.files[part.file]
            file = f"{self._folder}{part.file}", fact.size_bytes, fact.sha256
            yield _Piece(file, part.offset, first, first + part.rows)
            first += part.rows

    def _open_at_once(self, arrays: Sequence[str], rows: NDArray[np.int64]) -> None:
        """Open the files that hold some rows side by side, where each of them would be waited for."""
        if self.requests_at_once > 1:
            files = {piece.file for array in arrays for piece, _ in _by_piece(self._pieces[array], rows)}
            for _ in side_by_side(lambda file: self._files.blob(*file), sorted(files), self.requests_at_once):
                pass


def _by_piece(pieces: Sequence[_Piece], rows: NDArray[np.int64]) -> Iterator[tuple[_Piece, NDArray[np.int64]]]:
    """Yield the pieces that hold some of the rows, each with the positions in `rows` that it holds."""
    for piece in pieces:
        here = ((rows >= piece.first) & (rows < piece.stop)).nonzero()[0]
        if len(here):
            yield piece, here
