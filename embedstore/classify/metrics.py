"""How good scores are.

Accuracy, MCC, F1, precision and recall all come from one confusion matrix. Every sample may count several
times (`weights`), which is how a bootstrap over groups is computed. Definitions are scikit-learn's: AUROC is the area
under the trapezoids, AUPRC is average precision, both one class against the rest; the Brier score is halved for two
classes. ECE has 15 bins of equal width of the score of the called class (Guo et al. 2017). An undefined number, such
as a recall without samples of the class, is NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15
FIXED_PRECISIONS = (0.9, 0.95, 0.99)
PREVALENCES = (0.01, 0.1, 0.5)

Floats = NDArray[np.float64]
Probabilities = NDArray[np.float64]
"""(n, classes) float64; each row sums to 1."""
Classes = NDArray[np.int64]
"""(n,) int64: classes of samples."""


@dataclass(frozen=True, slots=True, eq=False)
class _Ranking:
    """Samples sorted by the score of one class, best first.

    Attributes
    ----------
    order : (n,) rows. ends : last place of each run of equal scores. is_class : (n,) bool, sorted.
    """

    order: NDArray[np.int64]
    ends: NDArray[np.int64]
    is_class: NDArray[np.bool_]

    def counts(self, weights: Floats) -> tuple[Floats, Floats]:
        """Samples of the class, and of the others, that score at least as high as each distinct score."""
        ordered = weights[self.order]
        ours = np.cumsum(np.where(self.is_class, ordered, 0.0))[self.ends]
        theirs = np.cumsum(np.where(self.is_class, 0.0, ordered))[self.ends]
        return ours, theirs


class Measures:
    """All metrics of some scored samples, computed for any weights.

    Parameters
    ----------
    y : (n,) the true classes.
    scores : (n, classes) probabilities.
    labels : names of the classes.
    """

    def __init__(self, y: Classes, scores: Probabilities, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self._y = y
        self._called = called(scores)
        self._certainty = scores.max(axis=1)
        self._bins = np.minimum((self._certainty * ECE_BINS).astype(np.int64), ECE_BINS - 1)
        truth = np.eye(len(labels))[y]
        self._squares = ((scores - truth) ** 2).sum(axis=1) / (2 if len(labels) == 2 else 1)
        self._rankings = [_ranking(scores[:, place], y == place) for place in range(len(labels))]

    def confusion(self, weights: Floats) -> Floats:
        """(classes, classes): rows are the true classes, columns the calls."""
        count = len(self.labels)
        pairs = np.bincount(self._y * count + self._called, weights=weights, minlength=count * count)
        return pairs.reshape(count, count).astype(np.float64)

    def at(self, weights: Floats | None = None) -> dict[str, Any]:
        """Return all metrics, `classes` with those of each class.

        Parameters
        ----------
        weights : (n,), how often each sample counts; None: once.
        """
        weights = np.ones(len(self._y)) if weights is None else weights
        confusion = self.confusion(weights)
        each = {label: self._of_class(place, confusion, weights) for place, label in enumerate(self.labels)}
        balanced = self._balanced(weights, confusion)
        return {
            **_overall(confusion, list(each.values())),
            "brier": _mean(self._squares, weights),
            "ece": self._ece(weights),
            "brier_balanced": _mean(self._squares, balanced),
            "ece_balanced": self._ece(balanced),
            "classes": each,
        }

    def _of_class(self, place: int, confusion: Floats, weights: Floats) -> dict[str, Any]:
        hits, of_class, calls = confusion[place, place], confusion[place].sum(), confusion[:, place].sum()
        others = confusion.sum() - of_class
        recall, false_alarms = _ratio(hits, of_class), _ratio(calls - hits, others)
        ours, theirs = self._rankings[place].counts(weights)
        return {
            "samples": float(of_class),
            "precision": _ratio(hits, calls, otherwise=0.0),
            "recall": recall,
            "f1": _ratio(2 * hits, of_class + calls),
            "auroc": _auroc(ours, theirs),
            "auprc": _average_precision(ours, theirs),
            "recall_at_precision": {
                str(precision): _recall_at(ours, theirs, precision) for precision in FIXED_PRECISIONS
            },
            "precision_at_prevalence": {
                str(prevalence): _ratio(recall * prevalence, recall * prevalence + false_alarms * (1 - prevalence))
                for prevalence in PREVALENCES
            },
        }

    def of_positive(self, place: int, weights: Floats | None = None) -> dict[str, Any]:
        """Return what users look at first where one class is looked for among others.

        Parameters
        ----------
        place : of that class in the labels.
        """
        weights = np.ones(len(self._y)) if weights is None else weights
        confusion = self.confusion(weights)
        found = self._of_class(place, confusion, weights)
        others = confusion.sum() - confusion[place].sum()
        return {
            "base_rate": _ratio(float(confusion[place].sum()), float(confusion.sum())),
            "false_positive_rate": _ratio(float(confusion[:, place].sum() - confusion[place, place]), float(others)),
            **{name: found[name] for name in ("auroc", "auprc", "recall", "precision", "precision_at_prevalence")},
        }

    def _ece(self, weights: Floats) -> float:
        """Mean distance of certainty and accuracy, over bins of certainty."""
        right = self._called == self._y
        sums = [
            np.bincount(self._bins, weights=weights * numbers, minlength=ECE_BINS)
            for numbers in (right, self._certainty)
        ]
        return _ratio(float(np.abs(sums[0] - sums[1]).sum()), float(weights.sum()))

    def _balanced(self, weights: Floats, confusion: Floats) -> Floats:
        """Weights with which every class counts alike."""
        totals = confusion.sum(axis=1)
        balanced: Floats = weights / np.where(totals > 0, totals, 1)[self._y]
        return balanced


def called(scores: Probabilities) -> Classes:
    """(n,) the class with the highest score; of equal ones the first."""
    found: Classes = scores.argmax(axis=1).astype(np.int64)
    return found


def _ranking(scores: Floats, is_class: NDArray[np.bool_]) -> _Ranking:
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1) if len(scores) else np.arange(0)
    return _Ranking(order, ends, is_class[order])


def _overall(confusion: Floats, each: list[dict[str, Any]]) -> dict[str, Any]:
    """Metrics of all classes together; the means of the classes are plain (macro)."""
    total, true, calls = confusion.sum(), confusion.sum(axis=1), confusion.sum(axis=0)
    right = np.trace(confusion)
    covariance = right * total - true @ calls
    spread = np.sqrt(float(total**2 - true @ true)) * np.sqrt(float(total**2 - calls @ calls))
    return {
        "samples": float(total),
        "accuracy": _ratio(right, total),
        "balanced_accuracy": _mean_defined(each, "recall"),
        "mcc": _ratio(covariance, spread, otherwise=0.0),
        **{name: _mean_defined(each, name) for name in ("precision", "recall", "f1", "auroc", "auprc")},
    }


def _auroc(ours: Floats, theirs: Floats) -> float:
    if not len(ours) or not ours[-1] or not theirs[-1]:
        return float("nan")
    return float(np.trapezoid(np.append(0, ours) / ours[-1], np.append(0, theirs) / theirs[-1]))


def _average_precision(ours: Floats, theirs: Floats) -> float:
    if not len(ours) or not ours[-1]:
        return float("nan")
    found = ours + theirs
    precision = np.divide(ours, found, out=np.zeros_like(ours), where=found > 0)
    return float((np.diff(ours, prepend=0.0) / ours[-1]) @ precision)


def _recall_at(ours: Floats, theirs: Floats, precision: float) -> float:
    """Largest recall of any threshold with at least that precision; 0 if there is none."""
    if not len(ours) or not ours[-1]:
        return float("nan")
    reached = ours >= precision * (ours + theirs)
    return float(ours[reached].max(initial=0.0) / ours[-1])


def _ratio(part: float, whole: float, otherwise: float = float("nan")) -> float:
    return float(part / whole) if whole else otherwise


def _mean(numbers: Floats, weights: Floats) -> float:
    return _ratio(float(numbers @ weights), float(weights.sum()))


def _mean_defined(each: list[dict[str, Any]], name: str) -> float:
    numbers = [one[name] for one in each if not np.isnan(one[name])]
    return float(np.mean(numbers)) if numbers else float("nan")


def numbers(document: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Yield all numbers of nested metrics with their paths."""
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{above}{name}/")
        elif name != "samples":
            yield f"{above}{name}", float(value)
