"""Which sequences are computed together: packs of similar lengths, bounded by their letters or tokens.

A pack is a set of sequences that one call works on. Packs are made longest first: if memory does not suffice, the run
finds out at its start, and the last packs to finish are the cheap ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def packs(lengths: Sequence[int] | NDArray[np.int64], budget: int) -> list[NDArray[np.int64]]:
    """Partition sequences into packs of at most `budget` letters, longest sequences first.

    Parameters
    ----------
    lengths : (n,) letters or tokens of each sequence.
    budget : what a pack may hold; a longer sequence is a pack of its own.

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
        stop = max(int(np.searchsorted(ends, used + budget, side="right")), start + 1)
        result.append(order[start:stop])
        start, used = stop, int(ends[stop - 1])
    return result
