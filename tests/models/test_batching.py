from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedstore.models import packs


@given(st.lists(st.integers(0, 50)), st.integers(1, 120), st.integers(1, 4))
def test_packs_partition_the_sequences_within_the_budget(lengths: list[int], budget: int, workers: int) -> None:
    result = packs(lengths, budget, workers)
    assert sorted(int(position) for pack in result for position in pack) == list(range(len(lengths)))
    for pack in result:
        assert len(pack) == 1 or sum(lengths[position] for position in pack) <= budget


def test_longest_come_first_and_equal_lengths_keep_their_order() -> None:
    assert [pack.tolist() for pack in packs([3, 9, 3, 5, 20], 9)] == [[4], [1], [3, 0], [2]]


def test_many_lengths_are_packed_tightly() -> None:
    lengths = np.random.default_rng(0).integers(50, 500, 5000)
    result = packs(lengths, 4096)
    assert len(result) <= 1.1 * lengths.sum() / 4096


def test_the_last_packs_of_several_workers_are_small() -> None:
    lengths = np.random.default_rng(0).integers(50, 500, 2000)
    sizes = [int(lengths[pack].sum()) for pack in packs(lengths, 4096, workers=2)]
    assert min(sizes[:-12]) > 3500
    assert max(sizes[-3:]) <= 1024 + 500
    assert sizes[:-12] == [int(lengths[pack].sum()) for pack in packs(lengths, 4096)][: len(sizes) - 12]
