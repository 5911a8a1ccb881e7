"""Scores of labelled samples, and the table of them that every number of a report can be checked against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedstore.atomic import cell
from embedstore.classify.heads import Head
from embedstore.classify.metrics import Classes, Probabilities, called
from embedstore.features import Features, Samples
from embedstore.features.features import Indices

PIECE_ROWS = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Labelled samples with their scores.

    Attributes
    ----------
    samples : n of them.
    y : (n,) their true classes, places in `labels`.
    probabilities : (n, classes).
    labels : of the classifier.
    """

    samples: Samples
    y: Classes
    probabilities: Probabilities
    labels: tuple[str, ...]

    @property
    def lengths_bases(self) -> NDArray[np.int64]:
        """(n,) how much of its source each sample covers."""
        return self.samples.end - self.samples.start + 1


def logits_of(features: Features, rows: Indices, head: Head) -> NDArray[np.float32]:
    """Compute the logits of rows of features, (k, classes), by pieces of bounded memory.

    Raises
    ------
    InputError : a value is not finite; the sample is named.
    """
    found = [head.logits(features.rows(piece)) for piece in _pieces(rows)]
    return np.concatenate(found) if found else np.empty((0, head.classes), np.float32)


def write_scores(scores: Scores, path: Path) -> None:
    """Write a table: sample, source, group, label, length, a score for each class, call; numbers in full."""
    samples, labels = scores.samples, [cell(label) for label in scores.labels]
    columns = (
        map(cell, samples.ids.tolist()),
        map(cell, samples.sources.texts().tolist()),
        map(cell, samples.groups.texts().tolist()),
        [labels[place] for place in scores.y.tolist()],
        scores.lengths_bases.tolist(),
        scores.probabilities.tolist(),
        [labels[place] for place in called(scores.probabilities).tolist()],
    )
    header = ("sample", "source", "group", "label", "length", *(f"score_{label}" for label in labels), "call")
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write("\t".join(header) + "\n")
        for id_, source, group, label, length, numbers, call in zip(*columns, strict=True):
            stream.write("\t".join([id_, source, group, label, str(length), *map(repr, numbers), call]) + "\n")


def _pieces(rows: Indices) -> Iterator[Indices]:
    for start in range(0, len(rows), PIECE_ROWS):
        yield rows[start : start + PIECE_ROWS]
