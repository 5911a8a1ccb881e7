"""How good scores are, how uncertain that is, and from logits to calibrated probabilities.

*Measures.* Accuracy, MCC, F1, precision and recall all come from one confusion matrix. Every sample may count several
times (`weights`), which is how a bootstrap over groups is computed. Definitions are scikit-learn's: AUROC is the area
under the trapezoids, AUPRC is average precision, both one class against the rest; the Brier score is halved for two
classes. ECE has 15 bins of equal width of the score of the called class (Guo et al. 2017). An undefined number, such
as a recall without samples of the class, is NaN.

*Intervals.* A bootstrap over groups, since the samples of one genome are not independent.

*Calibration.* Each class's logit times a scale plus a shift, then softmax. Temperature scaling has one scale for all
and no shift; vector scaling has a scale and a shift for each class, which for two classes is Platt's (Guo et al. 2017,
On calibration of modern neural networks). Both are fitted to the calibration part, which the network has never seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from embedstore.classify.heads import CalibrationKind
from embedstore.errors import InputError

ECE_BINS = 15
FIXED_PRECISIONS = (0.9, 0.95, 0.99)
PREVALENCES = (0.01, 0.1, 0.5)

Floats = NDArray[np.float64]
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


LEVEL = 0.95
REPLICATES = 300


def bootstrap(
    measures: Measures, y: Classes, groups: NDArray[np.int64], seed: int, replicates: int = REPLICATES
) -> dict[str, tuple[float, float]]:
    """Return the interval of each metric, by its path ("classes/virus/auroc"), from drawing groups with replacement.

    Groups are drawn within their most frequent class, so that every class stays.

    Parameters
    ----------
    groups : (n,) numbers of the samples' groups.
    """
    drawn: dict[str, list[float]] = {}
    for times in draws(y, groups, seed, replicates):
        for path, number in numbers(measures.at(times)):
            drawn.setdefault(path, []).append(number)
    return {path: interval(np.array(found)) for path, found in drawn.items()}


def draws(y: Classes, groups: NDArray[np.int64], seed: int, replicates: int = REPLICATES) -> Iterator[Floats]:
    """Yield how often each sample, (n,), is in one draw of groups with replacement, many times.

    Parameters
    ----------
    groups : (n,) numbers of the samples' groups, drawn within their most frequent class.
    """
    used, members = np.unique(groups, return_inverse=True)
    classes = int(y.max()) + 1
    counts = np.bincount(members * classes + y, minlength=len(used) * classes).reshape(len(used), classes)
    strata = counts.argmax(axis=1)
    generator = np.random.default_rng(seed)
    for _ in range(replicates):
        times = np.zeros(len(used))
        for stratum in np.unique(strata):
            candidates = np.flatnonzero(strata == stratum)
            np.add.at(times, generator.choice(candidates, len(candidates)), 1)
        yield times[members]


def interval(found: Floats) -> tuple[float, float]:
    """Return the middle of some numbers, as much of them as LEVEL says; NaN are left out."""
    defined = found[~np.isnan(found)]
    if not len(defined):
        return float("nan"), float("nan")
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return float(low), float(high)


def numbers(document: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Yield all numbers of nested metrics with their paths."""
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{above}{name}/")
        elif name != "samples":
            yield f"{above}{name}", float(value)


Probabilities = NDArray[np.float64]
"""(n, classes) float64; each row sums to 1."""

_RIDGE = 1e-3
"""Pull towards leaving logits as they are, which keeps a fit to separable classes finite."""
_LARGEST_LOG_SCALE = 5.0
_LARGEST_NUMBER = 1e9
_KINDS: dict[str, CalibrationKind] = {"temperature": "temperature", "vector": "vector", "none": "none"}


@dataclass(frozen=True, slots=True)
class Calibration:
    """Scale and shift of each class's logit.

    Raises
    ------
    InputError : they differ in number, or one is not a finite number.
    """

    kind: CalibrationKind
    scale: tuple[float, ...]
    shift: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.scale) != len(self.shift) or not all(map(math.isfinite, self.scale + self.shift)):
            raise InputError(
                f"Cannot calibrate: expected as many finite scales as shifts, found {self.scale} and {self.shift}."
            )

    def probabilities(self, logits: NDArray[np.float32]) -> Probabilities:
        """(n, classes) logits to probabilities."""
        scaled = logits.astype(np.float64) * np.array(self.scale) + np.array(self.shift)
        return _softmax(scaled)

    def to_json(self) -> dict[str, Any]:
        """The calibration as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: object, classes: int) -> Self:
        """Read a calibration back.

        Raises
        ------
        InputError : it is not one for so many classes.
        """
        if not isinstance(document, dict) or set(document) != {"kind", "scale", "shift"}:
            raise InputError("expected a calibration of kind, scale and shift")
        lists = (document["scale"], document["shift"])
        if not all(isinstance(numbers, list) and len(numbers) == classes for numbers in lists):
            raise InputError(f"expected lists of {classes} numbers as scale and shift of the calibration")
        if not all(_is_number(number) for numbers in lists for number in numbers):
            raise InputError(
                f"expected finite numbers up to {_LARGEST_NUMBER:.0e} as scale and shift of the calibration"
            )
        kind = _KINDS.get(str(document["kind"]))
        if kind is None:
            raise InputError(f"expected a calibration of kind {', '.join(_KINDS)}")
        return cls(kind, tuple(map(float, lists[0])), tuple(map(float, lists[1])))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST_NUMBER


def uncalibrated(classes: int) -> Calibration:
    """Leave logits as they are."""
    return Calibration("none", (1.0,) * classes, (0.0,) * classes)


def calibrate(
    logits: NDArray[np.float32], y: NDArray[np.int64], weights: NDArray[np.float64], kind: CalibrationKind
) -> Calibration:
    """Fit to labelled samples by their mean log loss.

    Parameters
    ----------
    logits : (n, classes). y : (n,). weights : (n,), how much each counts.
    """
    classes = logits.shape[1]
    if kind == "none":
        return uncalibrated(classes)
    wide = logits.astype(np.float64)

    def spread(parameters: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        scale = np.exp(np.clip(parameters[: 1 if kind == "temperature" else classes], -_LARGEST_LOG_SCALE, None))
        shift = np.zeros(classes) if kind == "temperature" else parameters[classes:]
        return np.broadcast_to(scale, (classes,)), shift

    def loss(parameters: NDArray[np.float64]) -> float:
        scale, shift = spread(parameters)
        return _log_loss(wide * scale + shift, y, weights) + _RIDGE * float(parameters @ parameters)

    found = _minimum(loss, 1 if kind == "temperature" else 2 * classes)
    scale, shift = spread(found)
    return Calibration(kind, tuple(scale.tolist()), tuple(shift.tolist()))


def _minimum(loss: Callable[[NDArray[np.float64]], float], parameters: int) -> NDArray[np.float64]:
    from scipy.optimize import minimize

    bounds = [(-_LARGEST_LOG_SCALE, _LARGEST_LOG_SCALE)] * parameters
    found = minimize(loss, np.zeros(parameters), method="L-BFGS-B", bounds=bounds)
    return np.asarray(found.x, np.float64)


def _log_loss(logits: NDArray[np.float64], y: NDArray[np.int64], weights: NDArray[np.float64]) -> float:
    right = np.log(np.maximum(_softmax(logits)[np.arange(len(y)), y], np.finfo(np.float64).tiny))
    return -float(np.average(right, weights=weights))


def _softmax(logits: NDArray[np.float64]) -> Probabilities:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Probabilities = powers / powers.sum(axis=1, keepdims=True)
    return found
