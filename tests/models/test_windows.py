from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedstore.models.batching import windows


@given(st.integers(1, 400), st.integers(1, 60), st.data())
def test_every_token_weighs_one_in_windows_that_cover_and_overlap(length: int, most: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, most // 2))
    result = windows(length, most, overlap)
    weights = np.zeros(length)
    for window in result:
        assert window.stop - window.start == min(length, most)
        weights[window.start : window.stop] += window.weights
    np.testing.assert_allclose(weights, 1)
    for left, right in itertools.pairwise(result):
        assert left.stop - right.start >= overlap
        assert right.start > left.start


def test_windows_are_as_few_as_can_be_and_evenly_placed() -> None:
    assert [(w.start, w.stop) for w in windows(1022, 1022, 256)] == [(0, 1022)]
    assert [(w.start, w.stop) for w in windows(1023, 1022, 256)] == [(0, 1022), (1, 1023)]
    assert [w.start for w in windows(35_000, 1022, 256)][:3] == [0, 755, 1510]
    assert len(windows(35_000, 1022, 256)) == 46


def test_without_a_maximal_length_there_is_one_window() -> None:
    assert [(w.start, w.stop) for w in windows(10_000, None, 0)] == [(0, 10_000)]
