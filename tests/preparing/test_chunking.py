"""Chunks cover a sequence evenly; VirNucPro's do so nearly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.sequences.translation import even_chunks, virnucpro_chunks

LENGTHS = st.integers(1, 5000)
CHUNKS = st.integers(3, 700)


@given(LENGTHS, CHUNKS)
def test_chunks_cover_a_sequence_evenly_from_its_first_to_its_last_base(length: int, chunk: int) -> None:
    bounds = even_chunks(length, chunk)

    assert len(bounds) == -(-length // chunk)
    assert bounds[0, 0] == 0
    assert bounds[-1, 1] == length
    assert set((bounds[:, 1] - bounds[:, 0]).tolist()) == {min(length, chunk)}
    steps = np.diff(bounds[:, 0])
    assert not len(steps) or (steps.max() - steps.min() <= 1 and steps.max() <= chunk and steps.min() > 0)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (0, []),
        (1, [[0, 1]]),
        (500, [[0, 500]]),
        (501, [[0, 500], [1, 501]]),
        (1000, [[0, 500], [500, 1000]]),
        (1001, [[0, 500], [250, 750], [501, 1001]]),
    ],
)
def test_chunks_of_500(length: int, expected: list[list[int]]) -> None:
    assert even_chunks(length, 500).tolist() == expected


@given(LENGTHS, CHUNKS)
def test_virnucpro_cuts_into_as_many_chunks_and_leaves_no_base_out(length: int, chunk: int) -> None:
    bounds = virnucpro_chunks(length, chunk)

    assert len(bounds) == -(-length // chunk)
    assert bounds[0, 0] == 0
    assert bounds[-1, 1] == length
    assert (bounds[1:, 0] <= bounds[:-1, 1]).all()
    assert (bounds[:-1, 1] - bounds[:-1, 0] == min(chunk, length)).all()


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (501, [[0, 500], [250, 501]]),  # surplus 499, of which 499 // 2 + 1 goes into the only overlap
        (1000, [[0, 500], [500, 1000]]),
        (1001, [[0, 500], [333, 833], [666, 1001]]),  # surplus 499: overlaps of 167
        (1499, [[0, 500], [499, 999], [999, 1499]]),
    ],
)
def test_virnucpro_makes_the_last_chunk_short(length: int, expected: list[list[int]]) -> None:
    assert virnucpro_chunks(length, 500).tolist() == expected
