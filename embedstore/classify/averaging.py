"""Averaging: several classifiers, or several sets of features, as one.

What is averaged are calibrated log-odds: the mean of the logarithms of the calibrated probabilities, then softmax. Each
member is calibrated before, so that a head with large logits counts no more than one with small logits. Samples and
sequences are treated alike, each with the calibration that a member has for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from embedstore.classify.calibration import Chunks, SequenceCalibration
from embedstore.classify.classifier import Classifier
from embedstore.classify.metrics import Floats, Probabilities
from embedstore.errors import InputError, SchemaError
from embedstore.features import Preparation


def average_log_odds(members: Sequence[Probabilities]) -> Probabilities:
    """Average the log-odds of calibrated probabilities.

    Parameters
    ----------
    members : (n, classes) of each, rows and classes in the same order.
    """
    tiny = np.finfo(np.float64).tiny
    logs = np.mean([np.log(np.maximum(one, tiny)) for one in members], axis=0)
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    found: Probabilities = powers / powers.sum(axis=1, keepdims=True)
    return found


def class_order(classifier: Classifier, labels: Sequence[str]) -> list[int]:
    """Return the place of each label in a classifier's classes, which are the same but for their order."""
    return [classifier.labels.index(label) for label in labels]


def require_alike(classifiers: Sequence[Classifier]) -> None:
    """Refuse to average classifiers that tell other classes, or whose samples are prepared otherwise.

    Raises
    ------
    InputError : there is none, or one has other classes than the first; both are named.
    SchemaError : one was trained on samples that were prepared otherwise; both are named.
    """
    if not classifiers:
        raise InputError("Cannot classify: expected a classifier, found none.")
    first = classifiers[0]
    for other in classifiers[1:]:
        if set(other.labels) != set(first.labels):
            raise InputError(
                f"Cannot average {first.owner} and {other.owner}: expected the same classes, found "
                f"{', '.join(first.labels)} and {', '.join(other.labels)}. Train both on samples labelled alike."
            )
        sides = (first.schema.preparation, other.schema.preparation)
        names = [field.name for field in fields(Preparation) if len({getattr(side, field.name) for side in sides}) > 1]
        if names:
            found = [", ".join(f"{name} {getattr(side, name)}" for name in names) for side in sides]
            raise SchemaError(
                f"Cannot average {first.owner} and {other.owner}: expected samples that are prepared alike, found "
                f"{found[0]} and {found[1]}. Predict with each alone, or train both on the same samples.",
                {name: (str(getattr(sides[0], name)), str(getattr(sides[1], name))) for name in names},
            )


@dataclass(frozen=True, slots=True)
class AveragedSequences:
    """Calibrations of sequences of several classifiers as one.

    Attributes
    ----------
    members : calibration of each; None: its numbers are means of probabilities, and are taken as they are.
    orders : for each, the place of each class of the average among its classes.
    """

    members: tuple[SequenceCalibration | None, ...]
    orders: tuple[tuple[int, ...], ...]

    def probabilities(self, means: Floats, counts: NDArray[np.int64], chunks: Chunks | None = None) -> Probabilities:
        """Return (n, classes) from (n, members · classes) means side by side and (n,) numbers of samples.

        Parameters
        ----------
        chunks : of the sequences; None: each is one chunk.
        """
        classes = len(self.orders[0])
        found = []
        for number, (member, order) in enumerate(zip(self.members, self.orders, strict=True)):
            own = means[:, number * classes : (number + 1) * classes]
            calibrated = own if member is None else member.probabilities(own, counts, chunks)
            found.append(calibrated[:, list(order)])
        return average_log_odds(found)


def sequences_of(classifiers: Sequence[Classifier]) -> SequenceCalibration | AveragedSequences | None:
    """Return the calibration of sequences of one classifier, or of several that are averaged."""
    first = classifiers[0]
    if len(classifiers) == 1:
        return first.sequences
    orders = tuple(tuple(class_order(one, first.labels)) for one in classifiers)
    return AveragedSequences(tuple(one.sequences for one in classifiers), orders)
