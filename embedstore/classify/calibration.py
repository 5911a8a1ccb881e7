"""From logits to probabilities that can be believed: each class's logit times a scale plus a shift, then softmax.

Temperature scaling has one scale for all and no shift; vector scaling has a scale and a shift for each class, which
for two classes is Platt's (Guo et al. 2017, On calibration of modern neural networks). Both are fitted to the
calibration part, which the network has never seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from embedstore.classify.options import CalibrationKind
from embedstore.errors import InputError

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
