"""Which sequences are computed together: packs of similar lengths, bounded by their letters or tokens.

A pack is a set of sequences that one call works on. Packs are made longest first: if memory does not suffice, the run
finds out at its start. The last packs are smaller, so that no worker waits long for the one that has the last of all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_PACKS_LEFT_PER_WORKER = 2
_SMALLEST_SHARE = 4  # of the budget: below it, calls cost more than waiting
SMALL_PACKS_PER_WORKER = 5  # at the end, about: what the two above make of it


def packs(lengths: Sequence[int] | NDArray[np.int64], budget: int, workers: int = 1) -> list[NDArray[np.int64]]:
    """Partition sequences into packs of at most `budget` letters, longest sequences first.

    Parameters
    ----------
    lengths : (n,) letters or tokens of each sequence.
    budget : what a pack may hold; a longer sequence is a pack of its own.
    workers : how many packs are computed at once.

    Returns
    -------
    Positions of the sequences of each pack: together each of 0 … n - 1 once. Equal lengths keep their order.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    ends = np.cumsum(sizes[order])
    result: list[NDArray[np.int64]] = []
    start, used = 0, 0
    while start < len(order):
        stop = max(int(np.searchsorted(ends, used + _size(int(ends[-1]) - used, budget, workers), "right")), start + 1)
        result.append(order[start:stop])
        start, used = stop, int(ends[stop - 1])
    return result


def _size(left: int, budget: int, workers: int) -> int:
    """Choose what the next pack may hold when so much is left (guided self-scheduling: Polychronopoulos, Kuck 1987)."""
    if workers <= 1:
        return budget
    return min(budget, max(left // (_PACKS_LEFT_PER_WORKER * workers), budget // _SMALLEST_SHARE))
