"""From logits to calibrated probabilities, of samples and of sequences that are made of several samples.

*Samples.* Each class's logit times a scale plus a shift, then softmax. Temperature scaling has one scale for all and no
shift; vector scaling has a scale and a shift for each class, which for two classes is Platt's (Guo et al. 2017, On
calibration of modern neural networks).

*Sequences.* The mean logit of n samples says more, the more there are, but not n times as much, since they are alike:
its scale is a · n^b, b from 0 to 1. Both numbers are fitted, and for vector scaling a shift of each class, the same for
any n. A shift that depends on n was tried: the long sequences are of few genomes, which it then fits. More samples than
any sequence had that this was fitted to count as so many: beyond them nothing is known.

*Open chunks.* Which chunks of a sequence have a stop-free frame says how densely it codes, which the samples, all of
them stop-free, do not: of m chunks a share s is open, and w · (s - s₀) · log m is added to each class's logit, where s₀
is the mean share and w is fitted. Nothing is added for a sequence of one chunk, which is not seen unless it is open.

Both are fitted to logits out of fold, of heads that have not seen the sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from embedstore.classify.heads import CalibrationKind
from embedstore.classify.metrics import Probabilities
from embedstore.errors import InputError

_RIDGE = 1e-3
"""Pull towards leaving logits as they are, which keeps a fit to separable classes finite."""
_SEQUENCE_RIDGE = 1e-2
"""The same for sequences, of which there are few independent ones."""
_LARGEST_LOG_SCALE = 5.0
_BOUNDS = (-_LARGEST_LOG_SCALE, _LARGEST_LOG_SCALE)
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

    found = _minimum(loss, [_BOUNDS] * (1 if kind == "temperature" else 2 * classes))
    scale, shift = spread(found)
    return Calibration(kind, tuple(scale.tolist()), tuple(shift.tolist()))


def _minimum(
    loss: Callable[[NDArray[np.float64]], float], bounds: Sequence[tuple[float, float]]
) -> NDArray[np.float64]:
    from scipy.optimize import minimize

    found = minimize(loss, np.zeros(len(bounds)), method="L-BFGS-B", bounds=bounds)
    return np.asarray(found.x, np.float64)


def _log_loss(logits: NDArray[np.float64], y: NDArray[np.int64], weights: NDArray[np.float64]) -> float:
    right = np.log(np.maximum(_softmax(logits)[np.arange(len(y)), y], np.finfo(np.float64).tiny))
    return -float(np.average(right, weights=weights))


def _softmax(logits: NDArray[np.float64]) -> Probabilities:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Probabilities = powers / powers.sum(axis=1, keepdims=True)
    return found


class Chunks(NamedTuple):
    """How many chunks each of n sequences has, and how many of them gave a sample: (n,) each."""

    total: NDArray[np.int64]
    open: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class OpenChunks:
    """What the share of open chunks adds to the logits of a sequence.

    Attributes
    ----------
    weight : of each class. centre : the share at which nothing is added. most_chunks : more count as so many.

    Raises
    ------
    InputError : a number is not finite, or no chunk is allowed.
    """

    weight: tuple[float, ...]
    centre: float
    most_chunks: int

    def __post_init__(self) -> None:
        if self.most_chunks < 1 or not all(map(math.isfinite, (self.centre, *self.weight))):
            raise InputError("expected finite numbers in the calibration by open chunks")

    def shift(self, chunks: Chunks) -> NDArray[np.float64]:
        """(n, classes) what is added."""
        beyond = _beyond(chunks, self.centre, self.most_chunks)
        return np.outer(beyond, self.weight)

    @classmethod
    def from_json(cls, document: object, classes: int) -> Self:
        """Read it back.

        Raises
        ------
        InputError : it is not one for so many classes.
        """
        names = {"weight", "centre", "most_chunks"}
        if not isinstance(document, dict) or set(document) != names:
            raise InputError(f"expected a calibration by open chunks of {', '.join(sorted(names))}")
        weight, centre, most = document["weight"], document["centre"], document["most_chunks"]
        if not isinstance(weight, list) or len(weight) != classes or not all(map(_is_number, [*weight, centre, most])):
            raise InputError(f"expected {classes} finite weights in the calibration by open chunks")
        if not isinstance(most, int):
            raise InputError("expected a whole number of chunks in the calibration by open chunks")
        return cls(tuple(map(float, weight)), float(centre), most)


def _beyond(chunks: Chunks, centre: float, most_chunks: int) -> NDArray[np.float64]:
    """(n,) shares of open chunks, less the centre, times the logarithm of the number of chunks."""
    total = np.maximum(chunks.total, 1)
    found: NDArray[np.float64] = np.minimum(chunks.open / total, 1) - centre
    found *= np.log(np.minimum(total, most_chunks))
    return found


@dataclass(frozen=True, slots=True)
class SequenceCalibration:
    """Calibration of the mean logit of the samples of a sequence, by their number n.

    Attributes
    ----------
    log_scale, log_scale_slope : the scale of all logits is exp(log_scale + log_scale_slope · log n).
    shift : of each class, added.
    most_samples : larger n count as this.
    open_chunks : what the share of open chunks adds; None: nothing.

    Raises
    ------
    InputError : a number is not finite, or no sample is allowed.
    """

    log_scale: float
    log_scale_slope: float
    shift: tuple[float, ...]
    most_samples: int
    open_chunks: OpenChunks | None = None

    def __post_init__(self) -> None:
        if self.most_samples < 1 or not all(map(math.isfinite, (self.log_scale, self.log_scale_slope, *self.shift))):
            raise InputError("expected finite numbers in the calibration of sequences")

    def probabilities(
        self, mean_logits: NDArray[np.float64], counts: NDArray[np.int64], chunks: Chunks | None = None
    ) -> Probabilities:
        """(n, classes) mean logits and (n,) numbers of samples to probabilities.

        Parameters
        ----------
        chunks : of the sequences; None: each is one chunk.
        """
        logs = np.log(np.minimum(counts, self.most_samples).astype(np.float64))[:, None]  # (n, 1)
        scale = _scale_by_count(self.log_scale, self.log_scale_slope, logs)
        logits = mean_logits * scale + np.array(self.shift)
        if self.open_chunks is not None and chunks is not None:
            logits += self.open_chunks.shift(chunks)
        return _softmax(logits)

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
        names = {"log_scale", "log_scale_slope", "shift", "most_samples"}
        if not isinstance(document, dict) or set(document) - {"open_chunks"} != names:
            raise InputError(f"expected a calibration of sequences of {', '.join(sorted(names))}")
        shift = document["shift"]
        if not isinstance(shift, list) or len(shift) != classes:
            raise InputError(f"expected a list of {classes} numbers as shift of the calibration of sequences")
        numbers = [document["log_scale"], document["log_scale_slope"], *shift]
        most = document["most_samples"]
        if not all(map(_is_number, numbers)) or not _is_number(most) or not isinstance(most, int):
            raise InputError("expected finite numbers in the calibration of sequences")
        stated = document.get("open_chunks")  # classifiers of earlier versions have none
        open_chunks = None if stated is None else OpenChunks.from_json(stated, classes)
        return cls(float(numbers[0]), float(numbers[1]), tuple(map(float, shift)), most, open_chunks)


def _scale_by_count(log_scale: float, slope: float, logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 1) scales of the mean logits of sequences with so many samples, given as logarithms."""
    return np.exp(np.clip(log_scale + slope * logs, -_LARGEST_LOG_SCALE, _LARGEST_LOG_SCALE))


def calibrate_sequences(
    mean_logits: NDArray[np.float64],
    counts: NDArray[np.int64],
    y: NDArray[np.int64],
    weights: NDArray[np.float64],
    kind: CalibrationKind,
    chunks: Chunks | None = None,
) -> SequenceCalibration:
    """Fit to labelled sequences by their mean log loss.

    Parameters
    ----------
    mean_logits : (n, classes). counts : (n,) samples of each. y : (n,). weights : (n,), how much each counts.
    kind : "temperature" has no shift.
    chunks : of the sequences; None: how many are open is not used.
    """
    classes = mean_logits.shape[1]
    logs = np.log(counts.astype(np.float64))[:, None]
    shifts = classes if kind == "vector" else 0
    centre, most_chunks, beyond = 0.0, 1, np.zeros(len(y))
    if chunks is not None:
        centre, most_chunks = _centre(chunks, weights), int(chunks.total.max())
        beyond = _beyond(chunks, centre, most_chunks)
    opens = classes if np.any(beyond) else 0

    def centred(found: NDArray[np.float64]) -> tuple[float, ...]:
        return tuple((found - found.mean()).tolist())

    def made(parameters: NDArray[np.float64]) -> SequenceCalibration:
        shift = centred(parameters[2 : 2 + shifts]) if shifts else (0.0,) * classes
        open_chunks = OpenChunks(centred(parameters[2 + shifts :]), centre, most_chunks) if opens else None
        return SequenceCalibration(float(parameters[0]), float(parameters[1]), shift, int(counts.max()), open_chunks)

    def loss(parameters: NDArray[np.float64]) -> float:
        logits = mean_logits * _scale_by_count(parameters[0], parameters[1], logs)
        if shifts:
            logits = logits + parameters[2 : 2 + shifts]
        if opens:
            logits = logits + beyond[:, None] * parameters[2 + shifts :]
        return _log_loss(logits, y, weights) + _SEQUENCE_RIDGE * float(parameters @ parameters)

    return made(_minimum(loss, [_BOUNDS, (0.0, 1.0), *([_BOUNDS] * (shifts + opens))]))


def _centre(chunks: Chunks, weights: NDArray[np.float64]) -> float:
    """Mean share of open chunks of the sequences of more than one."""
    long = chunks.total > 1
    if not long.any():
        return 0.0
    return float(np.average(chunks.open[long] / chunks.total[long], weights=weights[long]))
