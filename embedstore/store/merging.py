"""The rows of several segments as one: sorted, each key once, every row checked as it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.store.index import build_index
from embedstore.store.rows import SortedRows, as_strings
from embedstore.store.segments import Segment
from embedstore.store.storage import empty_rows
from embedstore.store.view import by_value
from embedstore.types import KEY_BYTES, Keys, Vectors

_BLOCK_BYTES = 32 << 20  # read at once: on object stores a block costs a request a segment


def merged(segments: Sequence[Segment], dim: int, dtype: np.dtype[Any]) -> SortedRows:
    """Merge segments, given older first; of a key in several the oldest one's vector is kept.

    The keys are held in memory (about 40 bytes a row); vectors are read block by block when they are asked for.

    Raises
    ------
    CorruptStoreError : a row is damaged; when the vectors are asked for. FileNotFoundError : a file is gone.
    """
    index = build_index(segments)
    segment, row = index.segment.astype(np.int64), index.row.astype(np.int64)
    keys = np.empty((len(index), KEY_BYTES), np.uint8)
    for number, here in by_value(segment):
        keys[here] = segments[number].keys[row[here]]
    strings = as_strings(keys)
    if not (strings[:-1] < strings[1:]).all():  # the index sorts by the first eight bytes only
        order = np.argsort(strings, kind="stable")
        keys, segment, row = keys[order], segment[order], row[order]
    return SortedRows(keys, dim, dtype, _Blocks(segments, segment, row, keys, dtype.newbyteorder("<")).gather)


def some_rows(segment: Segment, rows: NDArray[np.int64], dim: int, dtype: np.dtype[Any]) -> SortedRows:
    """Take some rows, ascending, of one segment."""
    keys = segment.keys_at(rows)
    numbers = np.zeros(len(rows), np.int64)
    return SortedRows(keys, dim, dtype, _Blocks([segment], numbers, rows, keys, dtype.newbyteorder("<")).gather)


class _Blocks:
    """Vectors of merged rows, read some megabytes ahead."""

    def __init__(
        self,
        segments: Sequence[Segment],
        segment: NDArray[np.int64],
        row: NDArray[np.int64],
        keys: Keys,
        dtype: np.dtype[Any],
    ) -> None:
        self._segments = segments
        self._segment = segment
        self._row = row
        self._keys = keys
        self._dtype = dtype
        self._start = 0
        self._block = empty_rows(0, segments[0].row_bytes)

    def gather(self, start: int, stop: int) -> Vectors:
        """Read the vectors of rows [start, stop): (stop - start, dim)."""
        if not self._start <= start <= stop <= self._start + len(self._block):
            self._read(start, max(stop, start + _BLOCK_BYTES // self._segments[0].row_bytes))
        vectors: Vectors = self._block[start - self._start : stop - self._start].view(self._dtype)
        return vectors

    def _read(self, start: int, stop: int) -> None:
        rows, keys = self._row[start:stop], self._keys[start:stop]
        self._block = empty_rows(len(rows), self._segments[0].row_bytes)
        self._start = start
        for number, here in by_value(self._segment[start:stop]):
            self._segments[number].read_into(self._block, here, rows[here], keys[here])
