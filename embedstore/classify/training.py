"""Training: split by group, fit, calibrate, test, and write a folder that documents all of it.

    features ─ splitting ─▶ train │ validation │ calibration │ test
                              └─── fit ───┘            │           │
                              network ─ calibration ◀──┘           │
                              classifier ─ assess ◀────────────────┘ ─▶ classifier.safetensors, .json ─▶ report.html

`assess` is what a report says of scored samples: metrics with intervals, by length and by group. The classifier is
saved before its report is drawn: if drawing fails, the training is not lost.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.atomic import replacing
from embedstore.classify.blocks import FeatureInput, Reading, open_input
from embedstore.classify.classifier import REPORT_NAME, SCORES_NAME, Classifier, check_output, save_classifier
from embedstore.classify.heads import Fitted, OnEpoch, PartRows, TrainOptions, fit
from embedstore.classify.metrics import (
    LEVEL,
    PREVALENCES,
    REPLICATES,
    Calibration,
    Measures,
    bootstrap,
    calibrate,
    uncalibrated,
)
from embedstore.classify.provenance import Provenance
from embedstore.classify.scores import Scores, logits_of, score, write_scores
from embedstore.classify.splitting import Part, Split, given_split, split_samples
from embedstore.errors import InputError, StorageError, plain
from embedstore.features import Features, Samples
from embedstore.features.features import Indices
from embedstore.features.merging import read_assignments

_LENGTH_PARTS = 5
"""Samples are told apart by length in fifths of the chunk length."""


def assess(scores: Scores, seed: int, chunk_length: int | None = None) -> dict[str, Any]:
    """Return all metrics of labelled samples as JSON values; what is not defined is None.

    Raises
    ------
    InputError : there is no sample.
    """
    if not len(scores.y):
        raise InputError("Cannot evaluate: expected labelled samples, found none. Label some, or test on more groups.")
    measures = Measures(scores.y, scores.probabilities, scores.labels)
    groups = scores.samples.groups.codes.astype(np.int64)
    found = {
        "labels": list(scores.labels),
        "groups": len(np.unique(groups)),
        "confusion": measures.confusion(np.ones(len(scores.y))).astype(np.int64).tolist(),
        **measures.at(),
        "intervals": {
            "level": LEVEL,
            "replicates": REPLICATES,
            "of": "groups drawn with replacement within their class",
            "numbers": bootstrap(measures, scores.y, groups, seed),
        },
        "prevalences": list(PREVALENCES),
        "by_length": _by_length(scores, chunk_length),
        "by_group": _by_group(scores),
    }
    return jsonable(found)  # type: ignore[no-any-return]


def jsonable(value: Any) -> Any:
    """Return nested values with None in place of numbers that are not defined."""
    if isinstance(value, dict):
        return {name: jsonable(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _by_length(scores: Scores, chunk_length: int | None) -> list[dict[str, Any]]:
    lengths = scores.lengths_bases
    longest = chunk_length or int(lengths.max())
    step = max(1, -(-longest // _LENGTH_PARTS))
    parts = np.minimum((lengths - 1) // step, _LENGTH_PARTS - 1)
    return [
        {"from": int(part * step + 1), "to": int(max((part + 1) * step, lengths[parts == part].max()))}
        | _summary(scores, np.flatnonzero(parts == part))
        for part in np.unique(parts).tolist()
    ]


def _by_group(scores: Scores) -> list[dict[str, Any]]:
    groups = scores.samples.groups
    codes, starts = np.unique(groups.codes[order := np.argsort(groups.codes, kind="stable")], return_index=True)
    rows = np.split(order, starts[1:])
    return [
        {"group": str(groups.names[code]) if code >= 0 else "", **_summary(scores, some)}
        for code, some in zip(codes.tolist(), rows, strict=True)
    ]


def _summary(scores: Scores, rows: Indices) -> dict[str, Any]:
    found = Measures(scores.y[rows], scores.probabilities[rows], scores.labels).at()
    return {
        "samples": len(rows),
        "accuracy": found["accuracy"],
        "auroc": found["auroc"],
        "recall": {label: found["classes"][label]["recall"] for label in scores.labels},
        "samples_by_label": {label: int(found["classes"][label]["samples"]) for label in scores.labels},
    }


_PACKAGES = {"embedstore": "embedstore-bio"} | {name: name for name in ("torch", "numpy", "scipy", "scikit-learn")}
"""Names in `versions`, and of the distributions."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainReport:
    """Result of a training.

    Attributes
    ----------
    evaluation : metrics of the test part, see `assessment.assess`.
    report_failed : why report.html or scores.tsv could not be written; the classifier was written nevertheless.
    """

    output: Path
    classifier: Classifier
    split: Split
    fitted: Fitted
    evaluation: dict[str, Any]
    seconds: float
    report_failed: str = ""

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "output": str(self.output),
            "network": self.classifier.network.kind,
            "labels": list(self.classifier.labels),
            "split": self.split.to_json(),
            "epochs": len(self.fitted.epochs),
            "best_epoch": self.fitted.best_epoch,
            "evaluation": self.evaluation,
            "seconds": round(self.seconds, 3),
            **({"report_failed": self.report_failed} if self.report_failed else {}),
        }


def train(
    given: FeatureInput,
    output: str | Path,
    options: TrainOptions | None = None,
    reading: Reading | None = None,
    *,
    split: str | Path | None = None,
    on_epoch: OnEpoch | None = None,
    on_split: Callable[[Split], object] | None = None,
    made: Provenance | None = None,
) -> TrainReport:
    """Train a classifier, test it on groups that it has never seen, and write its folder.

    Parameters
    ----------
    given : features, a merged file, or samples that `reading` joins with the spaces of a store.
    output : the classifier's folder; a classifier that is there is replaced once the new one is complete.
    split : table of sample, source or group, and part (train, validation, calibration, test); None: by groups, seeded.
    made : what the page says of when and by which command; None: now, from Python.

    Raises
    ------
    InputError : samples cannot be split honestly (see `splitting`), or a value is not finite. Nothing is written.
    MissingEmbeddingError : samples have no vector.
    """
    started = time.monotonic()
    options, output = options or TrainOptions(), Path(output)
    reading, made = reading or Reading(), made or Provenance.now()
    check_output(output)
    features, samples = open_input(given, reading)
    if split is None:
        parts = split_samples(samples, options)
    else:
        parts = given_split(samples, read_assignments(split, "part"), options)
    if on_split is not None:
        on_split(parts)
    trained = fit_classifier(features, samples, parts, options, name=str(output), on_epoch=on_epoch)
    evaluation = assess(trained.test, options.seed, samples.preparation.chunk_length)
    classifier = replace(trained.classifier, about={**trained.classifier.about, "test": evaluation})
    save_classifier(classifier, output)
    failed = _write_for_people(
        classifier, trained.test, output, made.of(given, reading, split=split, seed=options.seed)
    )
    return TrainReport(output, classifier, parts, trained.fitted, evaluation, time.monotonic() - started, failed)


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A classifier in memory, how it was fitted, and the scores of its test part."""

    classifier: Classifier
    fitted: Fitted
    test: Scores


def fit_classifier(
    features: Features,
    samples: Samples,
    split: Split,
    options: TrainOptions,
    *,
    name: str = "the classifier",
    on_epoch: OnEpoch | None = None,
) -> Trained:
    """Fit, calibrate and score the test part; nothing is written.

    Parameters
    ----------
    samples : those of the features, with the labels and groups that apply.
    name : of the classifier, for messages.

    Raises
    ------
    InputError : a value of the features is not finite.
    """
    labels = tuple(samples.labels.names.tolist())
    rows = {part: _part(features, samples, split, part) for part in split.rows}
    weights = _class_weights(rows["train"].y, len(labels), balance=options.balance_classes)
    fitted = fit(rows["train"], rows["validation"], weights, options, on_epoch=on_epoch)
    calibration = _calibration(rows.get("calibration"), fitted, options)
    about = {
        "options": options.to_json(),
        "trained_on": samples.origin,
        "split": split.to_json(),
        "class_weights": dict(zip(labels, weights.tolist(), strict=True)),
        "epochs": [epoch.to_json() for epoch in fitted.epochs],
        "best_epoch": fitted.best_epoch,
        "versions": {name: found for name, package in _PACKAGES.items() if (found := _installed(package))},
    }
    classifier = Classifier(replace(features.schema, labels=labels), fitted.network, calibration, about, name)
    test = rows["test"]
    scores = score(features, samples, test.indices, test.y, labels, fitted.network, calibration)
    return Trained(classifier, fitted, scores)


def _part(features: Features, samples: Samples, split: Split, part: Part) -> PartRows:
    rows = split.rows[part]
    return PartRows(features, rows, samples.labels.codes[rows].astype(np.int64))


def _class_weights(y: NDArray[np.int64], classes: int, *, balance: bool) -> NDArray[np.float64]:
    """(classes,) with mean 1 over the samples."""
    if not balance:
        return np.ones(classes)
    counts = np.bincount(y, minlength=classes)
    return len(y) / (classes * counts)


def _calibration(part: PartRows | None, fitted: Fitted, options: TrainOptions) -> Calibration:
    if part is None:
        return uncalibrated(fitted.network.classes)
    weights = _class_weights(part.y, fitted.network.classes, balance=options.balance_classes)
    logits = logits_of(part.features, part.indices, fitted.network)
    return calibrate(logits, part.y, weights[part.y], options.calibration)


def _write_for_people(classifier: Classifier, test: Scores, output: Path, made: Provenance) -> str:
    """Add the files that are for people to a classifier that is saved; return why that failed, if it did."""
    from embedstore.classify.report import drawn_or_why, training_report

    page, failed = drawn_or_why(lambda: training_report(classifier, test, made))
    try:
        with replacing(output / SCORES_NAME) as table:
            write_scores(test, table)
        if page is not None:
            with replacing(output / REPORT_NAME) as file:
                file.write_text(page, encoding="utf-8")
    except StorageError as error:
        failed = failed or plain(error)
    return failed


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
