"""What a space held at one moment: its live segments and the indexes over them. A refresh makes a new view.

Of a key that several segments hold, the oldest segment's row is the one that is found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from embedstore.store.index import KeyIndex, Places, build_index
from embedstore.store.rows import as_strings
from embedstore.store.segments import Segment
from embedstore.store.storage import empty_rows, side_by_side
from embedstore.types import KEY_BYTES, Keys


class SpaceView:
    """Look-up and gathering over the live segments of a space.

    Parameters
    ----------
    segments : live segments, older first.
    base : an index that was published, all of whose segments are live; None when there is none.
    """

    def __init__(self, segments: Sequence[Segment], base: KeyIndex | None) -> None:
        self.segments = tuple(segments)
        self._at_once = segments[0].requests_at_once if segments else 1
        self.base = base
        ranks = {segment.commit_id: rank for rank, segment in enumerate(self.segments)}
        covered = base.commits if base else ()
        uncovered = [segment for segment in self.segments if segment.commit_id not in set(covered)]
        self._base_ranks = np.array([ranks[commit] for commit in covered], np.int64)
        self._delta_ranks = np.array([ranks[segment.commit_id] for segment in uncovered], np.int64)
        self.delta = build_index(uncovered)

    def find(self, keys: Keys) -> Places:
        """Look up keys: (rank of the segment or -1, row), both (n,) int64."""
        ranks, rows = self._find_in(self.delta, self._delta_ranks, keys)
        if self.base is None:
            return ranks, rows
        base_ranks, base_rows = self._find_in(self.base, self._base_ranks, keys)
        older = (base_ranks >= 0) & ((ranks < 0) | (base_ranks < ranks))
        return np.where(older, base_ranks, ranks), np.where(older, base_rows, rows)

    def read(self, keys: Keys, places: Places, row_bytes: int) -> NDArray[np.uint8]:
        """Gather the vectors of keys that `find` found: (n, row_bytes) uint8, each checked."""
        ranks, rows = places
        gathered = empty_rows(len(ranks), row_bytes)

        def read(share: tuple[int, NDArray[np.int64]]) -> None:
            rank, here = share
            self.segments[rank].read_into(gathered, here, rows[here], keys[here])

        for _ in side_by_side(read, list(by_value(ranks)), self._at_once):
            pass
        return gathered

    def count(self) -> int:
        """Number of distinct keys."""
        if self.base is None or not len(self.delta):
            return len(self.delta) + (len(self.base) if self.base else 0)
        added = []
        for rank in self._delta_ranks:
            keys = self.segments[rank].keys
            added.append(keys[self._find_in(self.base, self._base_ranks, keys)[0] < 0])
        return len(self.base) + len(np.unique(as_strings(np.concatenate(added))))

    def keys(self) -> Keys:
        """All distinct keys, sorted: (n, 24) uint8."""
        joined = np.empty((sum(map(len, self.segments)), KEY_BYTES), np.uint8)
        start = 0
        for segment in self.segments:
            joined[start : start + len(segment)] = segment.keys
            start += len(segment)
        _, first = np.unique(as_strings(joined), return_index=True)
        return joined[first]

    def merged_index(self) -> KeyIndex:
        """Build one index over all segments."""
        return build_index(self.segments)

    def _find_in(self, index: KeyIndex, ranks: NDArray[np.int64], keys: Keys) -> Places:
        def holds(numbers: NDArray[np.int64], rows: NDArray[np.int64], wanted: Keys) -> NDArray[np.bool_]:
            same = np.zeros(len(numbers), np.bool_)

            def ask(share: tuple[int, NDArray[np.int64]]) -> None:
                number, here = share
                if number < len(ranks):  # a damaged index may name any number
                    same[here] = self.segments[ranks[number]].holds(rows[here], wanted[here])

            for _ in side_by_side(ask, list(by_value(numbers)), self._at_once):
                pass
            return same

        numbers, rows = index.find(keys, holds)
        found = numbers >= 0
        numbers[found] = ranks[numbers[found]]
        return numbers, rows


def by_value(numbers: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each value >= 0 with the positions where it stands, ascending."""
    if not len(numbers):
        return
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    starts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    for here in np.split(order, starts):
        value = int(numbers[here[0]])
        if value >= 0:
            yield value, here
