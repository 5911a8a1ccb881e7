"""Counting distinct keys exactly, in bounded memory however many there are."""

from __future__ import annotations

import tempfile
from types import TracebackType
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from embedstore.types import KEY_BYTES, Keys

_PARTITIONS = 256


class DistinctKeys:
    """Counts distinct keys.

    Keys are held in memory until there are `capacity`; then the distinct ones go, sorted, to a temporary file. As keys
    are digests, their first byte parts them evenly: at the end each of the 256 parts is gathered from all sorted runs
    and counted alone.
    """

    def __init__(self, capacity: int = 1 << 18) -> None:
        self._capacity = capacity
        self._held: list[Keys] = []
        self._held_rows = 0
        self._file: IO[bytes] | None = None
        self._runs: list[NDArray[np.int64]] = []
        """One (257,) array a run: the file rows between which each part of it lies."""
        self._rows_written = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, keys: Keys) -> None:
        """Take in (n, 24) uint8 keys."""
        self._held.append(keys)
        self._held_rows += len(keys)
        if self._held_rows >= self._capacity:
            self._shrink()

    def count(self) -> int:
        """Return how many distinct keys were taken in so far."""
        distinct = sorted_distinct(np.concatenate(self._held)) if self._held else np.empty((0, KEY_BYTES), np.uint8)
        if not self._runs:
            return len(distinct)
        self._write_run(distinct)
        self._held, self._held_rows = [], 0
        return sum(self._count_part(part) for part in range(_PARTITIONS))

    def _shrink(self) -> None:
        distinct = sorted_distinct(np.concatenate(self._held))
        if len(distinct) > self._capacity // 2:
            self._write_run(distinct)
            distinct = distinct[:0]
        self._held, self._held_rows = [distinct], len(distinct)

    def _write_run(self, distinct: Keys) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="embedstore-keys-")  # noqa: SIM115
        self._file.seek(self._rows_written * KEY_BYTES)
        self._file.write(distinct.tobytes())
        bounds = np.searchsorted(distinct[:, 0], np.arange(_PARTITIONS + 1))
        self._runs.append(bounds + self._rows_written)
        self._rows_written += len(distinct)

    def _count_part(self, part: int) -> int:
        if self._file is None:
            return 0
        pieces = []
        for run in self._runs:
            start, stop = int(run[part]), int(run[part + 1])
            self._file.seek(start * KEY_BYTES)
            pieces.append(np.frombuffer(self._file.read((stop - start) * KEY_BYTES), np.uint8).reshape(-1, KEY_BYTES))
        return len(sorted_distinct(np.concatenate(pieces)))


def sorted_distinct(keys: Keys) -> Keys:
    """Return the distinct rows of (n, 24) uint8 keys, sorted by their bytes.

    Sorting the first eight bytes as one number nearly always sorts the keys; only if two keys share those and differ
    later are the others sorted too.
    """
    words = np.ascontiguousarray(keys).view(">u8")  # (n, 3)
    words = words[np.argsort(words[:, 0].astype(np.uint64))]
    same_head = words[1:, 0] == words[:-1, 0]
    same = (words[1:] == words[:-1]).all(axis=1)
    if not np.array_equal(same_head, same):
        words = words[np.lexsort((words[:, 2], words[:, 1], words[:, 0]))]
        same = (words[1:] == words[:-1]).all(axis=1)
    kept = np.ones(len(words), dtype=np.bool_)
    kept[1:] = ~same
    return np.ascontiguousarray(words[kept]).view(np.uint8)
