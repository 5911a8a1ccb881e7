"""How much alike two spaces are, where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from labelled_spaces import Rows

from embedstore.comparison.comparing import canary_cosines, linear_cka, neighbour_overlap
from embedstore.records import Canaries


def rows(count: int, dim: int, seed: int = 1) -> Rows:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def rotated(vectors: Rows) -> Rows:
    dim = vectors.shape[1]
    return (vectors @ np.linalg.qr(rows(dim, dim, seed=9))[0]).astype(np.float32)


def test_a_space_is_entirely_like_itself() -> None:
    vectors = rows(60, 8)
    assert linear_cka(vectors, vectors) == pytest.approx(1, abs=1e-12)
    assert neighbour_overlap(vectors, vectors, 10) == 1


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_cka_does_not_see_rotation_scale_and_shift(scale: float) -> None:
    vectors = rows(60, 8)
    assert linear_cka(vectors, scale * rotated(vectors) + np.float32(3 * scale)) == pytest.approx(1, abs=1e-4)


def test_neighbours_by_cosine_do_not_see_rotation_and_scale() -> None:
    vectors = rows(60, 8)
    assert neighbour_overlap(vectors, 1000 * rotated(vectors), 5) > 0.99


def test_cka_is_near_0_for_unrelated_spaces_of_more_columns_than_samples() -> None:
    assert abs(linear_cka(rows(200, 1000), rows(200, 800, seed=2))) < 0.05


def test_cka_does_not_depend_on_the_order_of_the_spaces_and_sees_what_is_shared() -> None:
    shared, other = rows(200, 5), rows(200, 5, seed=2)
    both = np.concatenate([shared, other], axis=1)
    assert linear_cka(shared, both) == pytest.approx(linear_cka(both, shared))
    assert linear_cka(shared, both) == pytest.approx(np.sqrt(0.5), abs=0.05)


def test_overlap_of_unrelated_spaces_is_that_of_chance() -> None:
    assert neighbour_overlap(rows(300, 9), rows(300, 7, seed=2), 30) == pytest.approx(30 / 299, abs=0.02)


def test_few_samples_have_few_neighbours_and_no_cka() -> None:
    assert neighbour_overlap(rows(3, 2), rows(3, 2, seed=2), 10) == 1
    assert np.isnan(neighbour_overlap(rows(1, 2), rows(1, 2), 10))
    assert np.isnan(linear_cka(rows(3, 2), rows(3, 2)))


def test_equal_vectors_have_no_cka() -> None:
    assert np.isnan(linear_cka(np.full((20, 4), 0.1, np.float32), rows(20, 4)))


def test_zero_vectors_have_neighbours_without_a_warning() -> None:
    assert 0 <= neighbour_overlap(np.zeros((20, 4), np.float32), rows(20, 4), 5) <= 1


def test_canaries_are_compared_where_dimensions_and_sequences_agree() -> None:
    some = Canaries(("MKV", "AAA"), np.array([[1, 0], [1, 1]], np.float32))
    turned = Canaries(("MKV", "AAA"), np.array([[0, 2], [3, 3]], np.float32))
    assert canary_cosines(some, turned) == pytest.approx((0, 1))
    assert canary_cosines(some, Canaries(("MKV", "CCC"), some.vectors)) is None
    assert canary_cosines(some, Canaries(("MKV", "AAA"), np.ones((2, 3), np.float32))) is None
