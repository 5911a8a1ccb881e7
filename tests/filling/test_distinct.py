"""Counting distinct keys: exact, in memory and from sorted runs on disk."""

from __future__ import annotations

import numpy as np
import pytest

from embedstore.filling.intake import DistinctKeys, sorted_distinct


def random_keys(rows: int, distinct: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (distinct, 24), dtype=np.uint8)[random.integers(0, distinct, rows)]


@pytest.mark.parametrize("capacity", [100, 1000, 1 << 20])
def test_count_is_exact_whether_in_memory_or_spilled(capacity: int) -> None:
    keys = random_keys(20_000, 7_000, seed=1)
    with DistinctKeys(capacity) as counter:
        for start in range(0, len(keys), 77):
            counter.add(keys[start : start + 77])
        assert counter.count() == len(np.unique(keys, axis=0))


def test_count_can_be_asked_for_midway() -> None:
    keys = random_keys(5_000, 5_000, seed=2)
    with DistinctKeys(500) as counter:
        counter.add(keys[:2_000])
        assert counter.count() == len(np.unique(keys[:2_000], axis=0))
        counter.add(keys[1_000:])
        assert counter.count() == len(np.unique(keys, axis=0))


def test_no_keys_are_zero() -> None:
    with DistinctKeys() as counter:
        counter.add(np.empty((0, 24), np.uint8))
        assert counter.count() == 0


def test_keys_that_differ_only_at_their_end_are_distinct() -> None:
    keys = np.zeros((6, 24), np.uint8)
    keys[:, 23] = [3, 1, 2, 1, 3, 3]
    keys[5, 0] = 255
    np.testing.assert_array_equal(sorted_distinct(keys), np.unique(keys, axis=0))
