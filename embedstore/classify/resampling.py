"""How uncertain metrics are: t intervals over groups, since the samples of one genome are not independent.

Groups are drawn with replacement, one class at a time, while the others stay as they are. The variance of a metric over
the draws of a class, times g / (g - 1) for its g groups, is what that class adds to the variance of the metric; the
degrees of freedom are Welch's and Satterthwaite's. Shares are treated on the logit scale, where they are nearer to
normal. A percentile bootstrap of few groups covers too little: 0.79 to 0.87 instead of 0.95 for five a class, where
these cover 0.93 to 0.97; with ten groups of very unequal sizes 0.90 was seen. A long test simulates these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.classify.metrics import Classes, Floats, Measures, numbers

LEVEL = 0.95
REPLICATES = 300
_LEAST_SHARE = 1e-3
_LEAST_APART = 1e-9
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
    """The values of metrics in draws, by class.

    Parameters
    ----------
    paths : of the metrics, in the order of their values.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._of_both_signs = np.array([path.rsplit("/", 1)[-1] in _OF_BOTH_SIGNS for path in paths])
        self._values: dict[int, list[Floats]] = {}
        self._groups: dict[int, int] = {}

    def add(self, draw: Draw, values: Floats) -> None:
        """Add the values of all metrics in a draw; NaN where one is not defined."""
        self._values.setdefault(draw.stratum, []).append(values)
        self._groups[draw.stratum] = draw.groups

    def intervals(self, values: Floats, *, differences: bool = False) -> NDArray[np.float64]:
        """Return (metrics, 2): the interval of each metric; NaN where it is not defined, or a class has one group only.

        Parameters
        ----------
        values : (metrics,) in all samples.
        differences : they are differences, of any size, and not shares.
        """
        from scipy.stats import t as student

        parts, freedoms = self.variances(differences=differences)
        total, freedom = welch(parts, freedoms[:, None])
        half = student.ppf(0.5 + LEVEL / 2, freedom) * np.sqrt(total)
        if differences:
            return np.stack([values - half, values + half], axis=-1)
        middle = self.straight(values)
        ends = np.stack([middle - half, middle + half], axis=-1)
        shares = np.clip(_from_logit(ends), 0, 1)
        found: NDArray[np.float64] = np.where(self._of_both_signs[:, None], 2 * shares - 1, shares)
        return found

    def variances(self, *, differences: bool = False) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what each stratum adds to the variance of each metric, and its degrees of freedom.

        Parameters
        ----------
        differences : see `intervals`.

        Returns
        -------
        (strata, metrics), NaN where a stratum has one group only, and (strata,), in the order in which they were drawn.
        """
        variances, freedoms = [], []
        for stratum, each in self._values.items():
            count = self._groups[stratum]
            drawn = np.stack(each) if differences else self.straight(np.stack(each))
            variance = np.full(drawn.shape[1], np.nan)
            enough = ((~np.isnan(drawn)).sum(axis=0) > 1) & (count > 1)
            variance[enough] = np.nanvar(drawn[:, enough], axis=0) * count / max(count - 1, 1)
            variances.append(variance)
            freedoms.append(max(count - 1, 1))
        return np.stack(variances), np.array(freedoms, np.float64)

    def straight(self, values: Floats) -> Floats:
        """Turn metrics, (…, metrics), into logits of shares."""
        return _logit(np.where(self._of_both_signs, (values + 1) / 2, values))

    def slopes(self, values: Floats, others: Floats) -> Floats:
        """Return (metrics,): how far two values of each metric are apart, for each unit that their logits are apart."""
        share = (values + others) / 2
        share = np.where(self._of_both_signs, (share + 1) / 2, share)
        scale = np.where(self._of_both_signs, 2.0, 1.0)
        tangent = scale * (share + _LEAST_SHARE) * (1 - share + _LEAST_SHARE) / (1 + 2 * _LEAST_SHARE)
        apart = self.straight(values) - self.straight(others)
        is_apart = np.abs(apart) > _LEAST_APART
        found: Floats = np.where(is_apart, (values - others) / np.where(is_apart, apart, 1), tangent)
        return found


def welch(parts: NDArray[np.float64], freedoms: NDArray[np.float64]) -> tuple[Floats, Floats]:
    """Add variances up; return the sums and their degrees of freedom (Welch and Satterthwaite), along the first axis.

    Parameters
    ----------
    parts : (strata, …) variances. freedoms : of each, broadcast to the same shape.
    """
    total = parts.sum(axis=0)
    squares = (parts**2 / freedoms).sum(axis=0)
    freedom: Floats = np.where(squares > 0, total**2 / np.where(squares > 0, squares, 1), 1)
    return total, freedom


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
    drawn = Drawn(list(found))
    for draw in draws(y, groups, seed, replicates):
        drawn.add(draw, _values(measures.at(draw.times)))
    ends = drawn.intervals(np.array(list(found.values()))).tolist()
    return {path: (low, high) for path, (low, high) in zip(found, ends, strict=True)}


def _values(metrics: Mapping[str, Any]) -> Floats:
    return np.array([number for _, number in numbers(metrics)])
