"""Verdicts: may one set of features stand in for another, by one metric and a margin that were chosen beforehand?

The difference d = set − reference of the primary metric has a paired 95 % interval from `low` to `high`. The rules are
those of a non-inferiority trial, applied in this order; each interval falls under exactly one:

    better         low > 0                   all of the interval is above 0
    not inferior   low > −margin             it may be lower, but not by the margin
    inferior       high < −margin            it is lower by more than the margin
    undecided      low ≤ −margin ≤ high      more groups are needed; also where there is no interval

A wrong verdict should have a probability of 2.5 %. A long test simulates it, with 5, 10 and 20 groups a class: "better"
came in 2.5 to 2.8 % where the two are equal; where the set is worse by exactly the margin, "not inferior" came in 4.0
to 4.2 %, since the spread is found too small where the worse set was lucky, and "inferior" in 2.0 to 2.2 %.

How many more groups would decide is an estimate: with f times as many groups in every class, and if the difference is
what was found, the standard error is s(f) = √(Σ variance of a class / f + variance of the seeds). A verdict is reached
with a probability of `POWER` once (t₀.₉₇₅ + t₀.₈) · s(f) ≤ |d + margin|, with the degrees of freedom of f times the
groups. The spread of few groups is itself uncertain by half.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedstore.classify.resampling import LEVEL, welch
from embedstore.errors import InputError

Verdict = Literal["better", "not inferior", "inferior", "undecided"]

OF_CLASS = {"auroc": "AUROC", "auprc": "AUPRC", "f1": "F1", "precision": "precision", "recall": "recall"}
"""Metrics that are those of the positive class, if there is one, and else means over the classes."""
OF_ALL = {"balanced_accuracy": "balanced accuracy", "mcc": "MCC", "accuracy": "accuracy"}

MARGIN = 0.01
POWER = 0.8
_MOST_TIMES = 1000
"""Times as many groups; where more would be needed, no number is given."""
_LEAST_DIGITS, _MOST_DIGITS = 3, 6


@dataclass(frozen=True, slots=True)
class DecideOptions:
    """What is decided, chosen before anyone looks at the numbers.

    Attributes
    ----------
    primary : the metric: one of `OF_CLASS` or `OF_ALL`; more is better.
    margin : a set that is worse by less than this is good enough.
    reference : the set that others are held against; None: the first.
    average : sets whose scores are averaged, as one more contender; none, or two and more.

    Raises
    ------
    InputError : there is no such metric, the margin is not from 0 to below 1, or one set alone is to be averaged.
    """

    primary: str = "auroc"
    margin: float = MARGIN
    reference: str | None = None
    average: Sequence[str] = ()

    def __post_init__(self) -> None:
        known = {**OF_CLASS, **OF_ALL}
        if self.primary not in known:
            raise InputError(f"Cannot decide by {self.primary}: expected one of {', '.join(known)}.")
        if not 0 <= self.margin < 1:
            raise InputError(f"Cannot decide: expected a margin from 0 to below 1, found {self.margin}.")
        if len(self.average) == 1:
            raise InputError(f"Cannot average {self.average[0]} alone: expected two sets or more.")

    def path(self, positive: str | None) -> str:
        """Path of the metric among those of a set, see `metrics.numbers`."""
        return f"classes/{positive}/{self.primary}" if positive and self.primary in OF_CLASS else self.primary

    def name(self, positive: str | None) -> str:
        """Name of the metric for people."""
        if self.primary in OF_ALL:
            return OF_ALL[self.primary]
        return f"{OF_CLASS[self.primary]} of {positive}" if positive else OF_CLASS[self.primary]


def decide(low: float | None, high: float | None, margin: float) -> Verdict:
    """Return the verdict about a difference from its interval; see the rules of this module.

    Parameters
    ----------
    low, high : ends of the interval of set − reference; None or NaN: there is none.
    """
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return "undecided"
    if low > 0:
        return "better"
    if low > -margin:
        return "not inferior"
    return "inferior" if high < -margin else "undecided"


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """Where the variance of a difference comes from.

    Attributes
    ----------
    groups : (classes,) how many groups each class has. variances : (classes,) what each adds.
    seeds : how many. of_seeds : what they add, which more groups do not lessen.
    """

    groups: NDArray[np.float64]
    variances: NDArray[np.float64]
    seeds: int = 1
    of_seeds: float = 0.0

    def reach(self, times: float) -> float:
        """How far from −margin a difference must be to be told from it, with so many times the groups."""
        from scipy.stats import t as student

        parts = np.append(self.variances / times, self.of_seeds)
        freedoms = np.append(np.maximum(self.groups * times - 1, 1), max(self.seeds - 1, 1))
        total, freedom = welch(parts, freedoms)
        quantiles = student.ppf(0.5 + LEVEL / 2, freedom) + student.ppf(POWER, freedom)
        return float(quantiles * np.sqrt(total))


def more_groups(difference: float, margin: float, spread: Spread) -> int | None:
    """Estimate how many more groups, of all classes in their present shares, would decide; None: too many to say.

    Parameters
    ----------
    difference : set − reference, as found.
    """
    distance = abs(difference + margin)
    if not math.isfinite(distance) or not np.isfinite(spread.variances).all():
        return None
    if spread.reach(_MOST_TIMES) > distance:
        return None
    low, high = 1.0, float(_MOST_TIMES)
    if spread.reach(low) <= distance:
        return 0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if spread.reach(middle) > distance else (low, middle)
    return int(np.ceil(spread.groups * (high - 1)).sum())


def find_named(names: Sequence[str], wanted: str | None) -> int:
    """Return the place of a set in a comparison, by its name or as it was given ("tnf,aac_dpc"); None: the first.

    Raises
    ------
    InputError : there is no such set; those that there are are named.
    """
    if wanted is None:
        return 0
    for text in (wanted, Path(wanted).name, " + ".join(Path(part).name for part in wanted.split(","))):
        if text in names:
            return list(names).index(text)
    raise InputError(f"Cannot find {wanted} in this comparison: expected one of {', '.join(names)}.")


def sentence(found: Mapping[str, Any], decided: Mapping[str, Any]) -> str:
    """Say in a sentence what was decided about one set.

    Parameters
    ----------
    found : `verdicts` of a comparison's document. decided : one of its `sets`.
    """
    low, high = decided["interval"]
    margin, metric, name, reference = found["margin"], found["metric"], decided["set"], found["reference"]
    if decided["difference"] is None or low is None or high is None:
        return (
            f"{name} against {reference}: undecided in {metric}, since there is no interval: at least two groups of "
            "every class are needed."
        )
    said = {
        "better": f"{name} is better than {reference} in {metric}",
        "not inferior": f"{name} is not inferior to {reference} in {metric}",
        "inferior": f"{name} is inferior to {reference} in {metric}",
        "undecided": f"{name} against {reference} is undecided in {metric}",
    }[decided["verdict"]]
    digits = _digits((low, high), margin)
    numbers = [f"{number:.{digits}f}".replace("-", "−") for number in (decided["difference"], low, high)]
    text = f"{said} (difference {numbers[0]}, {numbers[1]} to {numbers[2]}; margin {margin:g})"
    if decided["verdict"] == "not inferior" and high < 0:
        text += ": it is lower, but by less than the margin"
    if decided["verdict"] == "undecided":
        more = decided["more_groups"]
        text += (
            ": more groups than can be estimated would be needed to decide"
            if more is None
            else f": about {more:,} more groups, beside {decided['groups']:,}, would decide"
        )
    return f"{text}."


def _digits(ends: Sequence[float], margin: float) -> int:
    """How many decimals are needed so that the rounded ends are on the same side of 0 and of −margin."""
    for digits in range(_LEAST_DIGITS, _MOST_DIGITS):
        sides = [(end > limit, round(end, digits) > limit) for end in ends for limit in (0.0, -margin)]
        sides += [(end < limit, round(end, digits) < limit) for end in ends for limit in (0.0, -margin)]
        if all(exact == rounded for exact, rounded in sides):
            return digits
    return _MOST_DIGITS
