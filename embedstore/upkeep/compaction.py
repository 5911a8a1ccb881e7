"""Merging segments into fewer. Anybody may do it at any time, beside readers and writers.

Only neighbours in age are merged, and the result is as old as the oldest of them, so that of a key in several segments
the same vector is read as before. The rows are sorted, each key stands once, and every row is checked as it is read.
What was merged is dead from then on, and is collected later.

Removing single sequences (`removal`) rewrites segments in the same way, without the rows of some keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import CorruptStoreError, StorageError
from embedstore.records import KEY_BYTES, Keys, Vectors
from embedstore.storage.protocol import empty_rows
from embedstore.store.documents import COSTS, Commit
from embedstore.store.index import build_index, by_value
from embedstore.store.segment_files import SortedRows, as_strings
from embedstore.store.segments import Segment
from embedstore.store.space import Space
from embedstore.strict_json import MAX_INTEGER, facts
from embedstore.upkeep.collection import DEFAULT_GRACE_S, collect_space

NO_KEYS: Keys = np.empty((0, KEY_BYTES), np.uint8)
_BLOCK_BYTES = 32 << 20  # read at once: on object stores a block costs a request a segment


def merged(segments: Sequence[Segment], dim: int, dtype: np.dtype[Any], without: Keys = NO_KEYS) -> SortedRows:
    """Merge segments; of a key in several the oldest one's vector is kept.

    The keys are held in memory (about 40 bytes a row); vectors are read block by block when they are asked for.

    Parameters
    ----------
    segments : older first.
    dim : of the vectors.
    dtype : of the vectors.
    without : (k, 24) uint8; keys whose rows are left out.

    Raises
    ------
    CorruptStoreError : a row is damaged; when the vectors are asked for.
    FileNotFoundError : a file is gone.
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
    if len(without):
        kept = ~np.isin(as_strings(keys), as_strings(without))
        keys, segment, row = keys[kept], segment[kept], row[kept]
    return SortedRows(keys, dim, dtype, _Blocks(segments, segment, row, keys, dtype.newbyteorder("<")).gather)


def some_rows(segment: Segment, rows: NDArray[np.int64], dim: int, dtype: np.dtype[Any]) -> SortedRows:
    """Take some rows, ascending, of one segment.

    Parameters
    ----------
    segment : whose rows they are.
    rows : (k,) their numbers.
    dim : of the vectors.
    dtype : of the vectors.
    """
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


MAX_MERGED_ROWS = 1 << 22
"""Merging holds about 40 bytes a row in memory."""
SMALL_BYTES = 64 << 20
MANY_SMALL_SEGMENTS = 36


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What a compaction did to a space.

    Attributes
    ----------
    segments_before : live ones, when it began.
    segments_after : live ones, when it was done.
    merged : how many segments were merged into others.
    rows : written again.
    size_bytes : of what was written.
    damaged : what could not be merged, because it cannot be read; `verify --repair` fixes that.
    """

    space: str
    segments_before: int
    segments_after: int
    merged: int
    rows: int
    size_bytes: int
    damaged: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; the keys are a contract."""
        return facts(self, size_bytes="bytes")


def compact(space: Space, *, only_small: bool = False) -> CompactReport:
    """Merge the segments of a space into few.

    Parameters
    ----------
    space : of a store that is open for writing.
    only_small : leave segments alone that are large already.

    Raises
    ------
    StorageError : the storage refused to take what was merged.
    """
    before = space.segments()
    written: list[Commit] = []
    damaged: list[str] = []
    count = 0
    for group in _groups(before, space.mergeable(before), only_small=only_small):
        try:
            commit = rewritten(space, group, {"merged_segments": len(group)})
        except CorruptStoreError as error:
            damaged.append(str(error))
            continue
        if commit is not None:
            written.append(commit)
            count += len(group)
    space.optimise()
    return CompactReport(
        space=space.name,
        segments_before=len(before),
        segments_after=len(space.segments()),
        merged=count,
        rows=sum(commit.rows for commit in written),
        size_bytes=sum(commit.size_bytes for commit in written),
        damaged=tuple(damaged),
    )


def tend(space: Space) -> CompactReport | None:
    """Merge small segments if there are many, and collect what merging left long ago; None: there was no need.

    For the end of a fill. A member who may not write or delete leaves it to others.
    """
    live = space.segments(refresh=False)  # the fill has just looked
    small = [segment for segment in live if segment.commit.size_bytes < SMALL_BYTES]
    if len(small) <= MANY_SMALL_SEGMENTS:
        return None
    try:
        report = compact(space, only_small=True)
        collect_space(space.storage, space.folder, DEFAULT_GRACE_S, members=space.signatures.trust.members)
    except StorageError:
        return None
    return report


def _groups(segments: Sequence[Segment], mergeable: Sequence[bool], *, only_small: bool) -> list[list[Segment]]:
    """Choose neighbours in age that together are not too large."""
    groups: list[list[Segment]] = [[]]
    rows = 0
    for segment, allowed in zip(segments, mergeable, strict=True):
        large = len(segment) > MAX_MERGED_ROWS // 2 or (only_small and segment.commit.size_bytes >= SMALL_BYTES)
        if large or not allowed or rows + len(segment) > MAX_MERGED_ROWS:
            groups.append([])
            rows = 0
        if not large and allowed:
            groups[-1].append(segment)
            rows += len(segment)
    return [group for group in groups if len(group) > 1]


def rewritten(
    space: Space, group: Sequence[Segment], facts: Mapping[str, Any], without: Keys = NO_KEYS
) -> Commit | None:
    """Publish one segment in place of neighbours in age, as old as the oldest of them.

    Parameters
    ----------
    space : where they are live.
    group : the segments, older first.
    facts : what the provenance of the new one says beside what the old ones cost.
    without : (k, 24) uint8; keys whose rows are left out; at least one row must be left.

    Returns
    -------
    The new commit; None: somebody else has replaced some of them meanwhile.

    Raises
    ------
    CorruptStoreError : a row is damaged.
    StorageError : the storage refuses.
    """
    commits = [segment.commit for segment in group]
    costs = {name: min(sum(commit.provenance.get(name, 0) for commit in commits), MAX_INTEGER) for name in COSTS}
    newest = max(int(commit.provenance.get("newest_ns", commit.created_ns)) for commit in commits)
    provenance = {**costs, "newest_ns": newest, **facts}
    ids = [segment.commit_id for segment in group]

    def write() -> Commit | None:
        try:
            files = space.write_files(merged(group, space.dim, space.dtype, without))
        except FileNotFoundError as error:
            if not _are_live(space, ids):
                return None
            raise CorruptStoreError(str(error.filename), "it is gone, and a live commit needs it") from error
        if not _are_live(space, ids):
            return None
        return files.commit(space.id, min(commit.created_ns for commit in commits), provenance, ids)

    return space.publish(write)


def _are_live(space: Space, ids: Sequence[str]) -> bool:
    return set(ids) <= {segment.commit_id for segment in space.segments()}
