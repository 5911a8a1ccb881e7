"""Paired differences: how much better one set of features does than another on the very same samples.

In each draw every set is measured on the same groups, so that what is hard for all of them cancels. A group that
several seeds test on is drawn for all of them at once; which seeds count is drawn too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.classify.intervals import REPLICATES, draws, interval, numbers
from embedstore.classify.metrics import Floats, Measures
from embedstore.classify.scores import Scores


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """The metrics of some sets of features, and what they are in draws of groups and seeds.

    Attributes
    ----------
    paths : of the metrics, "classes/virus/auroc".
    by_seed : (sets, seeds, metrics) float64, NaN where a metric is not defined.
    drawn : (replicates, sets, seeds, metrics), the same in each draw of groups.
    seeds : (replicates, seeds) int64, which seeds are in each draw.
    """

    paths: tuple[str, ...]
    by_seed: Floats
    drawn: Floats
    seeds: NDArray[np.int64]

    def of(self, place: int) -> dict[str, dict[str, Any]]:
        """Describe each metric of one set: mean over the seeds, interval, and value for each seed."""
        return self._described(self.by_seed[place], self.drawn[:, place])

    def difference(self, place: int, other: int) -> dict[str, dict[str, Any]]:
        """Describe how much larger each metric is in one set than in another."""
        by_seed = self.by_seed[place] - self.by_seed[other]
        return self._described(by_seed, self.drawn[:, place] - self.drawn[:, other])

    def _described(self, by_seed: Floats, drawn: Floats) -> dict[str, dict[str, Any]]:
        means = _mean_defined(np.take_along_axis(drawn, self.seeds[:, :, None], axis=1), axis=1)
        values = _mean_defined(by_seed, axis=0).tolist()
        return {
            path: {
                "value": values[column],
                "interval": interval(means[:, column]),
                "by_seed": by_seed[:, column].tolist(),
            }
            for column, path in enumerate(self.paths)
        }


def measure(scores: Sequence[Sequence[Scores]], seed: int, replicates: int = REPLICATES) -> Measured:
    """Measure sets of features on the samples that they were all tested on.

    Parameters
    ----------
    scores : for each set those of each seed; of one seed all sets have the same samples in the same order.
    seed : of the draws.
    """
    tests = scores[0]
    y = np.concatenate([test.y for test in tests])
    groups = np.concatenate([test.samples.groups.codes for test in tests]).astype(np.int64)
    ends = np.cumsum([len(test.y) for test in tests])[:-1]
    measures = [[Measures(one.y, one.probabilities, one.labels) for one in some] for some in scores]
    drawn = [_at(measures, np.split(times, ends)) for times in draws(y, groups, seed, replicates)]
    seeds = np.random.default_rng([seed, len(tests)]).integers(len(tests), size=(replicates, len(tests)))
    once = _at(measures, np.split(np.ones(len(y)), ends))
    return Measured(tuple(path for path, _ in numbers(measures[0][0].at())), once, np.array(drawn), seeds)


def _at(measures: Sequence[Sequence[Measures]], weights: Sequence[Floats]) -> Floats:
    """(sets, seeds, metrics) for samples that count so often."""

    def of_each(some: Sequence[Measures]) -> Iterator[list[float]]:
        for one, times in zip(some, weights, strict=True):
            yield [number for _, number in numbers(one.at(times))]

    return np.array([list(of_each(some)) for some in measures])


def _mean_defined(found: Floats, axis: int) -> Floats:
    """Mean along an axis without what is NaN; NaN if all is."""
    defined = ~np.isnan(found)
    counts = defined.sum(axis=axis)
    means: Floats = np.where(defined, found, 0).sum(axis=axis) / np.where(counts > 0, counts, np.nan)
    return means
