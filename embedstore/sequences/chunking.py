"""Where a sequence is cut into chunks.

Each way to cut is a function from (length of the sequence, length of a chunk) to an (n, 2) int64 array of half-open
bounds, in the order of the sequence.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bounds = NDArray[np.int64]
"""(n, 2) int64: start and end of each chunk, 0-based, half-open."""


def even_chunks(length_bases: int, chunk_bases: int) -> Bounds:
    """Cover a sequence evenly with as few chunks as possible.

    There are ceil(length / chunk) chunks, all exactly of the chunk length. The first begins where the sequence begins,
    the last ends where it ends, and neighbours overlap by the same number of bases, give or take one. A sequence that
    is shorter than a chunk is one short chunk; an empty one has none.
    """
    if length_bases <= chunk_bases:
        return np.array([[0, length_bases]] if length_bases else [], dtype=np.int64).reshape(-1, 2)
    count = -(-length_bases // chunk_bases)
    starts = np.arange(count, dtype=np.int64) * (length_bases - chunk_bases) // (count - 1)
    return np.stack([starts, starts + chunk_bases], axis=1)


def virnucpro_chunks(length_bases: int, chunk_bases: int) -> Bounds:
    """Cut as VirNucPro does: the same number of chunks, the surplus shared out among one chunk too many.

    Its overlap between neighbours is floor(surplus / n), where n - 1 neighbours share the surplus; what is left over is
    added by ones from the front, and whatever then remains makes the last chunk short (501 bases at 500: 500 and 251).
    """
    count = -(-length_bases // chunk_bases)
    if count < 2:
        return even_chunks(length_bases, chunk_bases)
    surplus_bases = count * chunk_bases - length_bases
    overlap_bases = surplus_bases // count
    longer_overlaps = surplus_bases - overlap_bases * (count - 1)
    place = np.arange(count, dtype=np.int64)
    starts = place * (chunk_bases - overlap_bases) - np.minimum(place, longer_overlaps)
    return np.stack([starts, np.minimum(starts + chunk_bases, length_bases)], axis=1)
