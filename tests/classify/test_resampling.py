"""Intervals: what they hold, and how often, by simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from embedstore.classify.metrics import Classes, Measures
from embedstore.classify.resampling import Draw, Drawn, intervals

LABELS = ("host", "virus")


def measures_of(seed: int, groups: int = 10, spread: float = 1.0, each: int = 20) -> tuple[Measures, Classes, Classes]:
    """Samples of groups that differ, so many of each class; the logit of a sample is its group's plus noise."""
    generator = np.random.default_rng(seed)
    members = np.repeat(np.arange(2 * groups), each)
    y = (members % 2).astype(np.int64)
    logits = generator.normal(0, spread, 2 * groups)[members] + generator.normal(0, 1, len(y)) + 1.5 * (2 * y - 1)
    score = 1 / (1 + np.exp(-logits))
    return Measures(y, np.stack([1 - score, score], axis=1), LABELS), y, members


def test_interval_holds_the_number_and_is_wider_with_fewer_groups() -> None:
    measures, y, _ = measures_of(1, 200, 0.0, 5)
    many = intervals(measures, y, np.arange(2000) // 5, seed=1, replicates=100)
    few = intervals(measures, y, np.arange(2000) // 5 % 2 + 2 * (np.arange(2000) // 400), seed=1, replicates=100)
    auroc = measures.at()["auroc"]
    assert many["auroc"][0] < auroc < many["auroc"][1]
    assert few["auroc"][1] - few["auroc"][0] > many["auroc"][1] - many["auroc"][0]
    assert many == intervals(measures, y, np.arange(2000) // 5, seed=1, replicates=100)


def test_numbers_stay_within_their_range_and_one_group_has_no_interval() -> None:
    measures, y, members = measures_of(2, 3)
    for path, (low, high) in intervals(measures, y, members, seed=1).items():
        assert (-1 if path == "mcc" else 0) <= low <= measures_value(measures, path) <= high <= 1
    measures, y, members = measures_of(2, 1)
    assert np.isnan(intervals(measures, y, members, seed=1)["auroc"]).all()


def measures_value(measures: Measures, path: str) -> float:
    found: Any = measures.at()
    for name in path.split("/"):
        found = found[name]
    return float(found)


def test_a_difference_of_equal_values_has_no_width() -> None:
    drawn = Drawn(("auroc", "mcc"))
    for stratum in (0, 1):
        for _ in range(5):
            drawn.add(Draw(stratum, 4, np.ones(1)), np.zeros(2))
    assert drawn.intervals(np.zeros(2), differences=True).tolist() == [[0, 0], [0, 0]]


@pytest.mark.slow
@pytest.mark.parametrize("groups", [5, 10, 20])
def test_intervals_cover_the_truth_as_often_as_they_say(groups: int) -> None:
    """Groups of equal size: 0.93 to 0.97; where sizes are very unequal and few groups decide, 0.90 was seen."""
    truth = np.mean([measures_of(seed, 2000, each=2)[0].at()["auroc"] for seed in range(1000, 1010)])
    hits = 0
    for seed in range(400):
        measures, y, members = measures_of(seed, groups)
        low, high = intervals(measures, y, members, seed, replicates=200)["auroc"]
        hits += low <= truth <= high
    assert 0.92 <= hits / 400 <= 0.98
