"""Which sequences are called the class that is looked for, where that is not simply the class with the highest score.

A least score, or a bound on the share of false calls: of calibrated scores p, the called sequences are expected to hold
a share mean(1 - p) of false ones, so the most are called, from the highest score down, whose share is within the bound.
That holds for all the called together, as far as the calibration holds for them and the class is as frequent among the
sequences as the calibration takes it to be: with balanced classes, as frequent as each other one. `prevalence` says how
frequent it is instead, and moves the scores of sequences accordingly (their odds times the ratio of the prior odds).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedstore.classify.classifier import Classifier
from embedstore.classify.metrics import Floats, Probabilities
from embedstore.errors import InputError

_GUESSED_POSITIVE = "virus"

UNCALLED = "uncalled"
"""Stands in place of a call where the class that is looked for is the likeliest, but is below the least score."""


def positive_class(labels: tuple[str, ...], asked: str | None) -> int | None:
    """Return the place of the class that is looked for; None: all alike.

    Parameters
    ----------
    asked : its name; None: of two classes the one that is called "virus", if there is one.

    Raises
    ------
    InputError : there is no class of that name.
    """
    if asked is None:
        folded = [label.casefold() for label in labels]
        return folded.index(_GUESSED_POSITIVE) if len(labels) == 2 and _GUESSED_POSITIVE in folded else None
    if asked not in labels:
        raise InputError(f"Cannot look for the class {asked}: expected one of {', '.join(labels)}.")
    return labels.index(asked)


@dataclass(frozen=True, slots=True)
class Calling:
    """How sequences are called.

    Attributes
    ----------
    positive : place of the class that is looked for; None: the highest score decides alone.
    min_score : of a sequence that is called so; None: the highest score decides.
    fdr : bound on the expected share of false ones among the sequences that are called so.
    prevalence : share of the class among all sequences; None: as the calibration has it.

    Raises
    ------
    InputError : a number is out of range.
    """

    positive: int | None = None
    min_score: float | None = None
    fdr: float | None = None
    prevalence: float | None = None

    def __post_init__(self) -> None:
        for name, number in (("min_score", self.min_score), ("fdr", self.fdr)):
            if number is not None and not 0 <= number <= 1:
                raise InputError(f"Cannot call sequences: expected {name} between 0 and 1, found {number}.")
        if self.prevalence is not None and not 0 < self.prevalence < 1:
            raise InputError(
                f"Cannot call sequences: expected a prevalence above 0 and below 1, found {self.prevalence}."
            )

    def moved(self, scores: Floats) -> Floats:
        """(classes,) scores of a sequence, at the stated prevalence."""
        if self.prevalence is None or self.positive is None:
            return scores
        others = len(scores) - 1
        factors = np.full(len(scores), (1 - self.prevalence) / others)
        factors[self.positive] = self.prevalence
        odds: Floats = scores * factors
        odds /= odds.sum()
        return odds

    def threshold(self, scores: Floats) -> float | None:
        """Return the least score of a sequence that is called the class that is looked for; None: the highest decides.

        Parameters
        ----------
        scores : (n,) of that class, of all sequences that have one.
        """
        if self.fdr is None:
            return self.min_score
        negative, counts = np.unique(-scores, return_counts=True)  # from the highest score down; ties go together
        expected_false = ((1 + negative) * counts).cumsum()
        within = np.flatnonzero(expected_false <= self.fdr * counts.cumsum())
        least = float(-negative[within[-1]]) if len(within) else np.inf
        return max(least, self.min_score or 0.0)

    def call(self, scores: Probabilities, threshold: float | None) -> int:
        """Return the place of the class that (classes,) scores call; -1: none."""
        highest = int(scores.argmax())
        if threshold is None or self.positive is None:
            return highest
        if scores[self.positive] >= threshold:
            return self.positive
        return -1 if highest == self.positive else highest


@dataclass(frozen=True, slots=True)
class Called:
    """What became of it.

    Attributes
    ----------
    threshold : see `Calling.threshold`; infinity: no sequence is within the bound.
    sequences : called the class that is looked for. expected_false : the expected number of false ones among them.
    """

    label: str | None
    calling: Calling
    threshold: float | None
    sequences: int
    expected_false: float

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        threshold = self.threshold
        return {
            "positive": self.label,
            "min_score": self.calling.min_score,
            "fdr": self.calling.fdr,
            "prevalence": self.calling.prevalence,
            "threshold": None if threshold is None or not np.isfinite(threshold) else threshold,
            "sequences": self.sequences,
            "expected_false_share": self.expected_false / self.sequences if self.sequences else None,
        }


def calling_of(
    classifier: Classifier,
    *,
    positive: str | None,
    min_score: float | None,
    fdr: float | None,
    prevalence: float | None,
    needs_positive: bool,
) -> Calling:
    """Check what is asked against a classifier.

    Parameters
    ----------
    positive : name of the class that is looked for; None: that of the classifier's training, or "virus" of two.
    needs_positive : something else is asked that needs such a class.

    Raises
    ------
    InputError : there is no such class, or none is named where one is needed; or scores are to be taken as
        probabilities which they are not, or not at known frequencies.
    """
    options = classifier.about.get("options")
    stated: Mapping[str, Any] = options if isinstance(options, dict) else {}
    trained_for = stated.get("positive")
    if positive is None and isinstance(trained_for, str) and trained_for in classifier.labels:
        positive = trained_for
    place = positive_class(classifier.labels, positive)
    found = Calling(place, min_score, fdr, prevalence)
    asked = needs_positive or any(number is not None for number in (min_score, fdr, prevalence))
    if asked and place is None:
        raise InputError(
            f"Cannot look for one class with {classifier.owner}: expected one of {', '.join(classifier.labels)} as the "
            "positive class, found none. Name it with --positive."
        )
    if (fdr is not None or prevalence is not None) and classifier.sequences is None:
        raise InputError(
            f"Cannot use a false discovery rate or a prevalence with {classifier.owner}: its scores of sequences are "
            "not calibrated. Train it again with calibration, or set a least score (--min-score)."
        )
    if prevalence is not None and not stated.get("balance_classes", True):
        raise InputError(
            f"Cannot move the scores of {classifier.owner} to a prevalence of {prevalence}: expected one whose classes "
            "count alike, found one that was trained with --no-balance."
        )
    return found
