"""Evaluation: how a classifier does on any labelled samples."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.atomic import check_folder, complete
from embedstore.classify.blocks import (
    FeatureInput,
    Reading,
    fill_source,
    find_spaces,
    relabelled,
    require_schema,
    sequences_folder,
)
from embedstore.classify.calling import positive_class
from embedstore.classify.classifier import REPORT_NAME, SCORES_NAME, Classifier, load_classifier
from embedstore.classify.fragments import fragments_of
from embedstore.classify.known import Recognised, recognise
from embedstore.classify.metrics import Measures
from embedstore.classify.provenance import Provenance
from embedstore.classify.scores import Scores, logits_of, write_scores
from embedstore.classify.training import assess, assess_contigs, jsonable, require_labelled
from embedstore.classify.unseen import cut_sources
from embedstore.errors import InputError
from embedstore.features import (
    Features,
    Samples,
    Schema,
    fill_spaces,
    is_merged_file,
    load_samples,
    open_features,
    view,
)

EVALUATION_NAME = "evaluation.json"


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """How a classifier did.

    Attributes
    ----------
    metrics : JSON values, see `training.assess`; `contigs` are those of fragments by length, `unlabelled` samples were
        left out, `groups_seen_in_training` were used to make the classifier, `known_by_sequence` are sources whose
        sequences were.
    scores : what they are computed from.
    report_failed : why report.html could not be drawn; the numbers were written nevertheless.
    """

    classifier: Classifier
    metrics: dict[str, Any]
    scores: Scores
    report_failed: str = ""

    def to_json(self) -> dict[str, Any]:
        """The evaluation as JSON values."""
        return {"classifier": self.classifier.name, "samples_of": self.scores.samples.origin, **self.metrics}


def evaluate(
    samples: FeatureInput,
    classifier: Classifier | str | Path,
    output: str | Path | None = None,
    *,
    reading: Reading | None = None,
    seed: int = 1,
    positive: str | None = None,
    made: Provenance | None = None,
) -> Evaluation:
    """Score labelled samples and measure.

    Parameters
    ----------
    samples : features, a merged file, or samples; their vectors are read from the store of `reading`.
    output : folder for `evaluation.json`, `report.html` and `scores.tsv`; None: nothing is written.
    seed : of the draws of groups.
    positive : the class that reports look at first; None: that of the training.
    made : what the page says of when and by which command; None: now, from Python.

    Raises
    ------
    SchemaError : the features are not arranged, prepared or labelled as the classifier expects; both sides are named.
        This is looked at first.
    MissingEmbeddingError : samples have no vector. InputError : no sample has a label.
    """
    classifier = classifier if isinstance(classifier, Classifier) else load_classifier(classifier)
    how, made = reading or Reading(), made or Provenance.now()
    if output is not None:
        check_folder(Path(output), EVALUATION_NAME, "an evaluation")
    scores, logits, unlabelled = score_labelled(samples, classifier, how)
    looked_for = positive or positive_of(classifier)
    folds = np.zeros(len(scores.y), np.int64)
    fragments = fragments_of(scores.samples, logits, scores.probabilities, scores.y, folds)
    sources = cut_sources(samples, scores.samples, scores.y, scores.labels)
    of_all = sources.recall_of_all(scores, logits, classifier, positive_class(classifier.labels, looked_for))
    recognised = recognise(classifier.recall, scores.samples, sequences_folder(samples, how))
    how.note(recognised.line())
    metrics = {
        **assess(scores, seed, scores.samples.preparation.chunk_length, looked_for),
        **sources.to_json(),
        "contigs": assess_contigs(fragments, classifier, looked_for, seed, of_all=of_all),
        "unlabelled": unlabelled,
        "groups_seen_in_training": groups_seen(classifier, scores),
        "known_by_sequence": {**recognised.to_json(), "of_the_others": of_the_others(scores, recognised)},
    }
    evaluation = Evaluation(classifier, metrics, scores)
    if output is None:
        return evaluation
    return _written(evaluation, Path(output), made.of(samples, how, classifier=classifier.name, seed=seed))


def score_labelled(
    given: FeatureInput, classifier: Classifier, how: Reading
) -> tuple[Scores, NDArray[np.float32], int]:
    """Return the scores of the samples that have a label, by id, their logits, and how many have none.

    Raises
    ------
    EmbedStoreError : as `evaluate`.
    """
    features, labelled = _checked_input(given, classifier, how)
    y = _classes(labelled, features.schema, classifier)
    rows = np.flatnonzero(y >= 0)
    rows = rows[np.argsort(labelled.ids[rows], kind="stable")]
    logits = logits_of(features, rows, classifier.head)
    probabilities = classifier.calibration.probabilities(logits)
    scores = Scores(labelled.take(rows), y[rows], probabilities, classifier.labels)
    require_labelled(scores)
    return scores, logits, int((y < 0).sum())


def _checked_input(given: FeatureInput, classifier: Classifier, how: Reading) -> tuple[Features, Samples]:
    if isinstance(given, Features) or (not isinstance(given, Samples) and is_merged_file(Path(given))):
        features = given if isinstance(given, Features) else open_features(given)
        classifier.schema.require(features.schema, what=features.name, owner=classifier.owner)
        return features, relabelled(features.samples, how)
    if how.store is None:
        raise InputError(
            "Cannot evaluate on a table of samples without a store. Give the store that holds their vectors."
        )
    samples = given if isinstance(given, Samples) else load_samples(given)
    targets = find_spaces(classifier, how.store, how.models, how.options)
    require_schema(classifier, targets, samples.preparation, samples.origin)
    samples = relabelled(samples, how)
    source = fill_source(given, how)
    if source is not None:
        targets = tuple(fill_spaces(targets, source)[0])
    return view(samples, targets), samples


def _classes(samples: Samples, schema: Schema, classifier: Classifier) -> Any:
    """(n,) int64: the class of each sample in the classifier's order, -1 without a label."""
    names = samples.labels.names.tolist()
    used = [names[code] for code in np.unique(samples.labels.codes).tolist() if code >= 0]
    classifier.schema.require_labels(used, what=samples.origin, owner=classifier.owner)
    places = {label: place for place, label in enumerate(classifier.labels)}
    return np.array([places.get(name, -1) for name in names] + [-1], np.int64)[samples.labels.codes]


def positive_of(classifier: Classifier) -> str | None:
    """Return the class that the training looked for; None if it does not say, or names one that is not there."""
    options = classifier.about.get("options")
    stated = options.get("positive") if isinstance(options, dict) else None  # the classifier may be a stranger's
    return stated if stated in classifier.labels else None


def groups_seen(classifier: Classifier, scores: Scores) -> list[str]:
    """Groups that training, early stopping or calibration used; for these it is not an independent test."""
    split = classifier.about.get("split")
    parts = split.get("groups") if isinstance(split, dict) else None
    lists = parts.items() if isinstance(parts, dict) else ()  # the classifier may be a stranger's
    used = {str(name) for part, names in lists if part != "test" and isinstance(names, list) for name in names}
    codes = np.unique(scores.samples.groups.codes)
    return sorted(used & {scores.samples.groups.names[code] for code in codes.tolist() if code >= 0})


def of_the_others(scores: Scores, recognised: Recognised) -> dict[str, Any] | None:
    """Measure the samples of sources that the classifier does not know by sequence; None if it knows none, or all."""
    names = scores.samples.sources.names.tolist()
    is_other = np.array([name not in recognised.sources for name in names] + [True])[scores.samples.sources.codes]
    rows = np.flatnonzero(is_other)
    if not recognised.sources or not len(rows):
        return None
    found = Measures(scores.y[rows], scores.probabilities[rows], scores.labels).at()
    groups = len(np.unique(scores.samples.groups.codes[rows]))
    numbers = {name: found[name] for name in ("auroc", "auprc", "balanced_accuracy", "mcc")}
    return jsonable({"samples": len(rows), "groups": groups, **numbers})  # type: ignore[no-any-return]


def _written(evaluation: Evaluation, path: Path, made: Provenance) -> Evaluation:
    """Write the folder; return the evaluation with why its page could not be drawn, if so."""
    from embedstore.classify.report import drawn_or_why, evaluation_report

    page, failed = drawn_or_why(
        lambda: evaluation_report(evaluation.classifier, evaluation.metrics, evaluation.scores, made)
    )
    with complete(path.absolute()) as folder:
        folder.mkdir()
        write_scores(evaluation.scores, folder / SCORES_NAME)
        if page is not None:
            (folder / REPORT_NAME).write_text(page, encoding="utf-8")
        document = json.dumps(evaluation.to_json(), indent=1, ensure_ascii=False)
        (folder / EVALUATION_NAME).write_text(document + "\n", encoding="utf-8")
    return replace(evaluation, report_failed=failed)
