"""Training: split by group, fit out of fold, calibrate, refit to everything, and write a folder that says how.

    features ─ splitting ─▶ folds (and a test part, on request)
       each fold: a head that is fitted to the others ─▶ out-of-fold logits of every sample
       out-of-fold logits ─▶ calibration of samples and of sequences ─▶ scores of every sample
       all folds ─▶ the head that is shipped ─▶ classifier.safetensors, .json ─▶ report.html
    (on request: the same once more with the DNA blocks alone ─▶ the fallback)

Scores out of fold are calibrated by what all of them are calibrated by, which does not move one fold against another,
as calibrating each by the other folds would: that costs the AUROC of all folds together one to two hundredths. How well
a calibration by the other folds does is said beside (`calibrated_by_others`).

`assess` is what a report says of scored samples: the class that is looked for first, metrics with intervals, by length
and by group; sequences by length. The classifier is saved before its report is drawn: if drawing fails, the training is
not lost.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.atomic import replacing
from embedstore.classify.blocks import FeatureInput, Reading, open_input, sequences_folder
from embedstore.classify.calibration import Calibration, SequenceCalibration, calibrate, uncalibrated
from embedstore.classify.calling import positive_class
from embedstore.classify.classifier import REPORT_NAME, SCORES_NAME, Classifier, check_output, save_classifier
from embedstore.classify.fallback import dna_features, with_closed
from embedstore.classify.fitting import (
    CrossFitted,
    OnFitted,
    PartRows,
    cross_fit,
    held_out_logits,
    log_losses,
    row_weights,
)
from embedstore.classify.fragments import (
    Fragments,
    assess_fragments,
    calibrated,
    fragment_weights,
    fragments_of,
    how_calibrated,
    scored,
    sequence_calibration,
)
from embedstore.classify.heads import TrainOptions
from embedstore.classify.known import Known, Recall
from embedstore.classify.metrics import PREVALENCES, Measures, Probabilities
from embedstore.classify.provenance import Provenance
from embedstore.classify.relatives import Grouping, group_by_sequence, labels_of
from embedstore.classify.resampling import LEVEL, REPLICATES, intervals
from embedstore.classify.scores import Scores, logits_of, write_scores
from embedstore.classify.splitting import TEST, Split, given_split, split_samples
from embedstore.classify.unseen import CutSources, cut_sources
from embedstore.errors import InputError, StorageError, plain
from embedstore.features import Features, Samples
from embedstore.features.features import Indices
from embedstore.features.merging import read_assignments

_LENGTH_PARTS = 5
"""Samples are told apart by length in fifths of the chunk length."""


def require_labelled(scores: Scores) -> None:
    """Refuse to measure no samples.

    Raises
    ------
    InputError : there is none.
    """
    if not len(scores.y):
        raise InputError("Cannot evaluate: expected labelled samples, found none. Label some, or test on more groups.")


def assess(scores: Scores, seed: int, chunk_length: int | None = None, positive: str | None = None) -> dict[str, Any]:
    """Return all metrics of labelled samples as JSON values; what is not defined is None.

    Parameters
    ----------
    positive : the class that is looked for, see `positive_class`.

    Raises
    ------
    InputError : there is no sample, or no such class.
    """
    require_labelled(scores)
    measures = Measures(scores.y, scores.probabilities, scores.labels)
    groups = scores.samples.groups.codes.astype(np.int64)
    place = positive_class(scores.labels, positive)
    found = {
        "labels": list(scores.labels),
        **({} if place is None else {"positive": {"label": scores.labels[place], **measures.of_positive(place)}}),
        "groups": len(np.unique(groups)),
        "confusion": measures.confusion(np.ones(len(scores.y))).astype(np.int64).tolist(),
        **measures.at(),
        "intervals": {
            "level": LEVEL,
            "replicates": REPLICATES,
            "of": "t over groups, drawn with replacement class by class",
            "numbers": intervals(measures, scores.y, groups, seed),
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
    evaluation : metrics of the test part, or of the scores out of fold, see `assess`; `contigs` are those of fragments
        by length.
    report_failed : why report.html or scores.tsv could not be written; the classifier was written nevertheless.
    """

    output: Path
    classifier: Classifier
    split: Split
    evaluation: dict[str, Any]
    seconds: float
    report_failed: str = ""

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "output": str(self.output),
            "head": self.classifier.head.kind,
            "labels": list(self.classifier.labels),
            "split": self.split.to_json(),
            "grouping": self.classifier.about["grouping"],
            "fit": self.classifier.about["fit"],
            "simple_head": self.classifier.about["simple_head"],
            "evaluation": self.evaluation,
            "seconds": round(self.seconds, 3),
            **({"report_failed": self.report_failed} if self.report_failed else {}),
        }


def train(
    samples: FeatureInput,
    output: str | Path,
    *,
    reading: Reading | None = None,
    options: TrainOptions | None = None,
    split: str | Path | None = None,
    relatives: bool | None = None,
    on_fitted: OnFitted | None = None,
    on_split: Callable[[Split], object] | None = None,
    made: Provenance | None = None,
) -> TrainReport:
    """Train a classifier, test it on groups that it has never seen, and write its folder.

    Parameters
    ----------
    samples : features, a merged file, or samples that `reading` joins with the spaces of a store.
    output : the classifier's folder; a classifier that is there is replaced once the new one is complete.
    split : table of sample, source or group, and part (train or fold 1, fold 2, …, and test); None: by groups, seeded.
    relatives : keep groups together whose sequences are alike; needs the `dna.fna` that `prepare` wrote beside the
        table. None: where that is there, and `reading` has no table of groups. False: groups are those of the table.
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
    features, labelled = open_input(samples, reading)
    grouping = grouped(samples, labelled, reading, relatives)
    if split is None:
        parts = split_samples(labelled, options, grouping.links)
    else:
        parts = given_split(labelled, read_assignments(split, "part"), options, grouping.links)
    apart = grouping.apart(parts.groups)
    if apart:
        reading.note(f"Warning: {apart:,} pairs of groups that are alike are in two parts: scores may be too good.")
    if on_split is not None:
        on_split(parts)
    of_dna = dna_features(features) if options.dna_only_fallback else None
    trained = fit_classifier(features, labelled, parts, options, name=str(output), on_fitted=on_fitted)
    fallback = None
    if of_dna is not None:
        of_both = with_closed(samples, reading, of_dna, labelled, parts)
        fallback = _fallback(*of_both, options, on_fitted, opened=labelled)
    tested = trained.test
    evaluation = trained.assessed(cut_sources(samples, tested.samples, tested.y, tested.labels))
    if fallback is not None:
        evaluation["dna_only_fallback"] = fallback.about["test"]
    found = {**grouping.to_json(parts.groups), "test": evaluation}
    about, recall = {**trained.classifier.about, **found}, _recall(grouping, labelled, parts)
    classifier = replace(trained.classifier, about=about, fallback=fallback, recall=recall)
    save_classifier(classifier, output)
    stated = made.of(samples, reading, split=split, seed=options.seed)
    failed = _write_for_people(classifier, trained.test, output, stated)
    return TrainReport(output, classifier, parts, evaluation, time.monotonic() - started, failed)


_OF_FALLBACK = ("tested_on", "samples", "groups", "positive", "auroc", "auprc", "balanced_accuracy", "ece_balanced")
"""What is said of a fallback, of the samples and the closed chunks that it is tested on; and contigs of these."""


def _fallback(
    features: Features,
    samples: Samples,
    split: Split,
    options: TrainOptions,
    on_fitted: OnFitted | None,
    *,
    opened: Samples,
) -> Classifier:
    """Fit a head to DNA alone, with the folds of the other one, and measure it, also on chunks not `opened`."""
    # Not all of its samples have an open frame, so how many chunks of a sequence are open is not to be used.
    samples = replace(samples, preparation=replace(samples.preparation, frames="stop-free or closed"))
    trained = fit_classifier(features, samples, split, options, name="the head on DNA alone", on_fitted=on_fitted)
    measured, test = trained.assessed(), trained.test
    shown = {name: measured[name] for name in (*_OF_FALLBACK, "contigs") if name in measured}
    closed = np.flatnonzero(~np.isin(test.samples.ids, opened.ids))
    if len(closed):
        found = Measures(test.y[closed], test.probabilities[closed], test.labels).at()
        shown["closed_chunks"] = jsonable(
            {"chunks": len(closed), **{name: found[name] for name in ("auroc", "balanced_accuracy", "ece_balanced")}}
        )
    about = {name: trained.classifier.about[name] for name in ("fit", "simple_head")}
    return replace(trained.classifier, about={**about, "test": shown})


def grouped(given: FeatureInput, samples: Samples, reading: Reading, relatives: bool | None) -> Grouping:
    """Find which groups of samples are alike by sequence, and say how groups are made; see `group_by_sequence`.

    Parameters
    ----------
    given : what the samples are of.
    relatives : see `train`.
    """
    folder, has_clusters = sequences_folder(given, reading), reading.groups is not None
    grouping = group_by_sequence(samples, folder, asked=relatives, has_clusters=has_clusters)
    for line in grouping.lines():
        reading.note(line)
    return grouping


def _recall(grouping: Grouping, samples: Samples, split: Split) -> Recall | None:
    """Return what remembers the groups that are trained on, if their sequences are there."""
    if not grouping.sketches:
        return None
    trained_on = [name for part in split.folds for name in split.groups[part]]
    known = Known.of(grouping.sketches, labels_of(samples), trained_on)
    return lambda: known


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A classifier in memory, and how it did.

    Attributes
    ----------
    test : scores of the test part; without one those out of fold, of all samples.
    logits : (n, classes) of the same.
    fragments : of the sources of these.
    crossed : probabilities of fragments by a calibration that is fitted to the other folds, see `assess_fragments`.
    calibrations : JSON values that compare the scores of samples with others.
    """

    classifier: Classifier
    test: Scores
    logits: NDArray[np.float32]
    fragments: Fragments
    crossed: Probabilities | None
    calibrations: dict[str, Any]

    def assessed(self, sources: CutSources | None = None) -> dict[str, Any]:
        """Return all metrics of the tested samples, see `assess`, and of fragments, as JSON values.

        Parameters
        ----------
        sources : what the tested samples were cut from, if that is known.
        """
        options = self.classifier.about["options"]
        seed, positive = options["seed"], options["positive"]
        place = positive_class(self.classifier.labels, positive)
        of_all = {} if sources is None else sources.recall_of_all(self.test, self.logits, self.classifier, place)
        return {
            "tested_on": "folds" if TEST not in self.classifier.about["split"]["groups"] else "test",
            **assess(self.test, seed, self.classifier.schema.preparation.chunk_length, positive),
            **self.calibrations,
            **({} if sources is None else sources.to_json()),
            "contigs": assess_contigs(self.fragments, self.classifier, positive, seed, self.crossed, of_all),
        }


def fit_classifier(
    features: Features,
    samples: Samples,
    split: Split,
    options: TrainOptions,
    *,
    name: str = "the classifier",
    on_fitted: OnFitted | None = None,
) -> Trained:
    """Fit, calibrate and score; nothing is written.

    Parameters
    ----------
    samples : those of the features, with the labels and groups that apply.
    name : of the classifier, for messages.

    Raises
    ------
    InputError : a value of the features is not finite, or there is no such positive class.
    """
    labels = tuple(samples.labels.names.tolist())
    positive_class(labels, options.positive)
    part, folds, weights = _weighted_rows(features, samples, split, options)
    rows, y = part.indices, part.y
    fitted = cross_fit(part, folds, weights, len(labels), options, on_fitted=on_fitted)
    folded = _Folded(part, samples.take(rows), folds, weights, fitted, labels, options)
    calibration = calibrate(fitted.logits, y, weights, options.calibration)
    scores = Scores(folded.samples, y, calibration.probabilities(fitted.logits), labels)
    fragments = fragments_of(folded.samples, fitted.logits, scores.probabilities, y, folds)
    sequences, crossed = folded.calibrated_fragments(fragments)
    about = {
        "options": options.to_json(),
        "trained_on": samples.origin,
        "split": split.to_json(),
        "fit": fitted.about,
        "simple_head": _simple_head(folded, on_fitted),
        "versions": {name: found for name, package in _PACKAGES.items() if (found := _installed(package))},
    }
    schema = replace(features.schema, labels=labels)
    classifier = Classifier(schema, fitted.head, calibration, about, name, sequences)
    if TEST in split.rows:
        return Trained(classifier, *_tested(features, samples, split.rows[TEST], classifier), None, {})
    return Trained(classifier, scores, fitted.logits, fragments, crossed, folded.calibrations(calibration))


def _weighted_rows(
    features: Features, samples: Samples, split: Split, options: TrainOptions
) -> tuple[PartRows, NDArray[np.int64], NDArray[np.float64]]:
    """Return the training rows by id, whatever the order of the table, the fold of each, and how much it counts."""
    rows, folds = split.training()
    order = np.argsort(samples.ids[rows], kind="stable")
    rows, folds = rows[order], folds[order]
    y = samples.labels.codes[rows].astype(np.int64)
    weights = row_weights(y, samples.groups.codes[rows].astype(np.int64), len(samples.labels.names), options)
    return PartRows(features, rows, y), folds, weights


@dataclass(frozen=True, slots=True, eq=False)
class Unseen:
    """What heads say of samples of groups that they have not seen, and of fragments of their sources.

    Attributes
    ----------
    contigs : (n, classes) calibrated probabilities of the fragments.
    """

    test: Scores
    fragments: Fragments
    contigs: Probabilities


def score_unseen(features: Features, samples: Samples, split: Split, options: TrainOptions) -> Unseen:
    """Return the scores that `fit_classifier` reports, without all else: no head is made that is not needed for them.

    Parameters
    ----------
    samples : those of the features, with the labels and groups that apply.

    Raises
    ------
    InputError : a value of the features is not finite.
    """
    if TEST in split.rows:  # which the head that is fitted to all folds scores
        trained = fit_classifier(features, samples, split, options)
        test, fragments, sequences = trained.test, trained.fragments, trained.classifier.sequences
    else:
        labels = tuple(samples.labels.names.tolist())
        part, folds, weights = _weighted_rows(features, samples, split, options)
        logits = held_out_logits(part, folds, weights, len(labels), options)
        calibration = calibrate(logits, part.y, weights, options.calibration)
        test = Scores(samples.take(part.indices), part.y, calibration.probabilities(logits), labels)
        fragments = fragments_of(test.samples, logits, test.probabilities, part.y, folds)
        sequences = None if options.calibration == "none" else sequence_calibration(fragments, len(labels), options)
    scores = fragments.scores if sequences is None else scored(fragments, sequences)
    return Unseen(test, fragments, scores)


@dataclass(frozen=True, slots=True, eq=False)
class _Folded:
    """Training rows, by id, with what was fitted to them."""

    rows: PartRows
    samples: Samples
    folds: NDArray[np.int64]
    weights: NDArray[np.float64]
    fitted: CrossFitted
    labels: tuple[str, ...]
    options: TrainOptions

    def calibrations(self, calibration: Calibration) -> dict[str, Any]:
        """Compare the scores as they are with those before calibration, and calibrated by a fit to the other folds."""
        y, logits, kind = self.rows.y, self.fitted.logits, self.options.calibration
        if kind == "none":
            return {}
        crossed = np.empty((len(y), len(self.labels)))
        for fold in np.unique(self.folds).tolist():
            others = self.folds != fold
            found = calibrate(logits[others], y[others], self.weights[others], kind)
            crossed[~others] = found.probabilities(logits[~others])
        before = uncalibrated(len(self.labels)).probabilities(logits)
        return {
            "before_calibration": how_calibrated(y, before, self.labels),
            "calibrated_by_others": how_calibrated(y, crossed, self.labels),
        }

    def calibrated_fragments(self, fragments: Fragments) -> tuple[SequenceCalibration | None, Probabilities | None]:
        """Calibrate for sequences, unless samples are not calibrated either."""
        kind = self.options.calibration
        if kind == "none":
            return None, None
        classes = len(self.labels)
        return calibrated(fragments, fragment_weights(fragments, classes, self.options), classes, kind)


def assess_contigs(
    fragments: Fragments,
    classifier: Classifier,
    positive: str | None,
    seed: int,
    crossed: Probabilities | None = None,
    of_all: Mapping[int, Any] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Return the metrics of fragments, scored as `predict` scores sequences, by length, as JSON values.

    Parameters
    ----------
    positive : the class that is looked for, see `positive_class`.
    crossed, of_all : see `assess_fragments`.
    """
    place = positive_class(classifier.labels, positive)
    scores = classifier.sequence_scores(fragments.logits, fragments.scores, fragments.counts, fragments.chunks)
    found = assess_fragments(fragments, scores, classifier.labels, place, seed, crossed, of_all)
    return jsonable(found)  # type: ignore[no-any-return]


def _simple_head(folded: _Folded, on_fitted: OnFitted | None) -> dict[str, Any] | None:
    """Log loss and AUROC out of fold of the default head beside those of another one; None where it is the one."""
    if folded.options.head == "linear":
        return None
    options = replace(folded.options, head="linear", strength=None)
    y, classes = folded.rows.y, len(folded.labels)
    simple = cross_fit(folded.rows, folded.folds, folded.weights, classes, options, on_fitted=on_fitted)

    def measured(logits: NDArray[np.float32]) -> dict[str, float]:
        probabilities = uncalibrated(classes).probabilities(logits)
        return {
            "log_loss": float(np.average(log_losses(logits, y), weights=folded.weights)),
            "auroc": Measures(y, probabilities, folded.labels).at()["auroc"],
        }

    ours, theirs = measured(folded.fitted.logits), measured(simple.logits)
    is_beaten = ours["auroc"] > theirs["auroc"] and ours["log_loss"] < theirs["log_loss"]
    return {"head": "linear", **theirs, "of_this_head": ours, "is_beaten": is_beaten}


def _tested(
    features: Features, samples: Samples, rows: Indices, classifier: Classifier
) -> tuple[Scores, NDArray[np.float32], Fragments]:
    """Score a test part and its fragments by the head that is shipped."""
    y = samples.labels.codes[rows].astype(np.int64)
    logits = logits_of(features, rows, classifier.head)
    scores = Scores(samples.take(rows), y, classifier.calibration.probabilities(logits), classifier.labels)
    return scores, logits, fragments_of(scores.samples, logits, scores.probabilities, y, np.zeros(len(y), np.int64))


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
