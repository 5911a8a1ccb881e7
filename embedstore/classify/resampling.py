"""How uncertain metrics are: t intervals over groups, since the samples of one genome are not independent.

Groups are drawn with replacement, one class at a time, while the others stay as they are. The variance of a metric over
the draws of a class, times g / (g - 1) for its g groups, is what that class adds to the variance of the metric; the
degrees of freedom are Welch's and Satterthwaite's. Shares are treated on the logit scale, where they are nearer to
normal. A percentile bootstrap of few groups covers too little: 0.79 to 0.87 instead of 0.95 for five a class, where
these cover 0.93 to 0.97 (`tests/classify/test_resampling.py` simulates both).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore.classify.metrics import Classes, Floats, Measures, numbers

LEVEL = 0.95
REPLICATES = 300
_LEAST_SHARE = 1e-3
_OF_BOTH_SIGNS = ("mcc",)


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """One draw of the groups of one class.

    Attributes
    ----------
    stratum : number of the class whose groups are drawn. groups : how many it has.
    times : (n,) how often each sample is in the draw.
    """

    stratum: int
    groups: int
    times: Floats


def draws(y: Classes, groups: NDArray[np.int64], seed: int, replicates: int = REPLICATES) -> Iterator[Draw]:
    """Yield draws of groups with replacement, class by class; a group counts to its most frequent class.

    Parameters
    ----------
    groups : (n,) numbers of the samples' groups.
    replicates : of all classes together.
    """
    used, members = np.unique(groups, return_inverse=True)
    classes = int(y.max()) + 1
    counts = np.bincount(members * classes + y, minlength=len(used) * classes).reshape(len(used), classes)
    strata = counts.argmax(axis=1)
    generator = np.random.default_rng(seed)
    present = np.unique(strata).tolist()
    for stratum in present:
        candidates = np.flatnonzero(strata == stratum)
        for _ in range(-(-replicates // len(present))):
            times = np.ones(len(used))
            times[candidates] = np.bincount(
                generator.integers(len(candidates), size=len(candidates)), minlength=len(candidates)
            )
            yield Draw(int(stratum), len(candidates), times[members])


class Drawn:
    """The values of metrics in draws, by class."""

    def __init__(self) -> None:
        self._values: dict[int, list[Floats]] = {}
        self._groups: dict[int, int] = {}

    def add(self, draw: Draw, values: Floats) -> None:
        """Add the values of all metrics in a draw; NaN where one is not defined."""
        self._values.setdefault(draw.stratum, []).append(values)
        self._groups[draw.stratum] = draw.groups

    def intervals(self, values: Floats, *, shares: bool = True) -> NDArray[np.float64]:
        """Return (..., 2): the interval of each metric; NaN where it is not defined.

        Parameters
        ----------
        values : of the metrics, in all samples.
        shares : they are between 0 and 1; otherwise differences, of any size.
        """
        from scipy.stats import t as student

        made = _logit if shares else np.asarray
        parts, freedoms = [], []
        for stratum, each in self._values.items():
            count = self._groups[stratum]
            drawn = made(np.stack(each))
            enough = (~np.isnan(drawn)).sum(axis=0) > 1
            variance = np.full(drawn.shape[1:], np.nan)
            variance[enough] = np.nanvar(drawn[:, enough], axis=0) if drawn.ndim > 1 else np.nanvar(drawn)
            parts.append(variance * count / max(count - 1, 1))
            freedoms.append(max(count - 1, 1))
        each_part = np.stack(parts)
        total = np.nansum(each_part, axis=0)
        squares = np.nansum(each_part**2 / np.array(freedoms).reshape(-1, *[1] * total.ndim), axis=0)
        freedom = np.where(squares > 0, total**2 / np.where(squares > 0, squares, 1), 1)
        half = student.ppf(0.5 + LEVEL / 2, freedom) * np.sqrt(total)
        middle = made(values)
        ends = np.stack([middle - half, middle + half], axis=-1)
        return np.clip(_from_logit(ends), 0, 1) if shares else ends


def _logit(shares: Floats) -> Floats:
    found: Floats = np.log((shares + _LEAST_SHARE) / (1 - shares + _LEAST_SHARE))
    return found


def _from_logit(logits: Floats) -> Floats:
    share = 1 / (1 + np.exp(-logits))
    found: Floats = share * (1 + 2 * _LEAST_SHARE) - _LEAST_SHARE
    return found


def intervals(
    measures: Measures, y: Classes, groups: NDArray[np.int64], seed: int, replicates: int = REPLICATES
) -> dict[str, tuple[float, float]]:
    """Return the interval of each metric, by its path ("classes/virus/auroc").

    Parameters
    ----------
    groups : (n,) numbers of the samples' groups.
    """
    found = dict(numbers(measures.at()))
    both = np.array([path.rsplit("/", 1)[-1] in _OF_BOTH_SIGNS for path in found])

    def shares(values: Mapping[str, float]) -> Floats:
        numbers_ = np.array(list(values.values()))
        return np.where(both, (numbers_ + 1) / 2, numbers_)

    drawn = Drawn()
    for draw in draws(y, groups, seed, replicates):
        drawn.add(draw, shares(dict(numbers(measures.at(draw.times)))))
    ends = drawn.intervals(shares(found))
    ends = np.where(both[:, None], 2 * ends - 1, ends)
    return {path: (float(low), float(high)) for path, (low, high) in zip(found, ends.tolist(), strict=True)}
