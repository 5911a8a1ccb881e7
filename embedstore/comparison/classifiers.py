"""Comparing classifiers that are trained already: on the same samples, of groups that made none of them.

    samples ─▶ scores of each classifier ─▶ without groups that one of them has seen ─▶ differences, verdicts, calls

The differences are those of `comparing`: in each draw of groups every classifier is measured on the same ones.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.atomic import check_folder
from embedstore.classify.averaging import require_alike
from embedstore.classify.blocks import FeatureInput, Reading
from embedstore.classify.calling import positive_class
from embedstore.classify.classifier import Classifier, load_classifier
from embedstore.classify.evaluation import groups_seen, positive_of, score_labelled
from embedstore.classify.fragments import fragments_of
from embedstore.classify.provenance import Provenance
from embedstore.classify.resampling import LEVEL, REPLICATES
from embedstore.classify.scores import Scores
from embedstore.classify.training import Unseen, jsonable
from embedstore.comparison.comparing import (
    COMPARISON_NAME,
    Comparison,
    average_unseen,
    averaged_name,
    calls_of,
    decided,
    measure,
    write_comparison,
)
from embedstore.comparison.verdicts import DecideOptions, find_named
from embedstore.errors import InputError


def compare_classifiers(
    given: FeatureInput,
    classifiers: Sequence[Classifier | str | Path],
    reading: Reading,
    output: str | Path | None = None,
    *,
    seed: int = 1,
    decide: DecideOptions | None = None,
    positive: str | None = None,
    made: Provenance | None = None,
) -> Comparison:
    """Score the same labelled samples with several classifiers, and compare. Nothing is trained.

    Samples of groups that were used to make one of the classifiers are left out for all of them, and counted.

    Parameters
    ----------
    given : features, a merged file, or samples; their vectors are read from the store of `reading`.
    classifiers : two or more, that tell the same classes.
    reading : the store, and what else applies to the samples; its `models` are not looked at.
    output : folder for `comparison.json` and `comparison.html`; None: nothing is written.
    seed : of the draws.
    decide : the metric, margin and reference of the verdicts, and which classifiers are averaged too.
    positive : the class that is looked for; None: that of the training, or guessed.
    made : what the page says of when and by which command; None: now, from Python.

    Raises
    ------
    InputError : there are fewer than two classifiers, they do not tell the same classes, one that is named is not
        there, or no sample is left.
    SchemaError : the features are not those of a classifier; both sides are named.
    MissingEmbeddingError : samples have no vector.
    """
    started = time.monotonic()
    wanted, made = decide or DecideOptions(), made or Provenance.now()
    if len(classifiers) < 2:
        raise InputError(f"Cannot compare: expected at least two classifiers, found {len(classifiers)}.")
    if output is not None:
        check_folder(Path(output), COMPARISON_NAME, "a comparison")
    loaded = [each if isinstance(each, Classifier) else load_classifier(each) for each in classifiers]
    _require_same_labels(loaded)
    how = replace(reading, models=())
    names = _distinct([Path(each.name).name for each in loaded])
    members = [find_named(names, name) for name in wanted.average]
    require_alike([loaded[place] for place in members] or loaded[:1])
    described = [_described(*pair) for pair in zip(names, loaded, strict=True)]
    if members:
        names.append(averaged_name([names[place] for place in members]))
        described.append({"name": names[-1], "head": "average", **_together([described[place] for place in members])})
    reference = find_named(names, wanted.reference)
    unseen, left_out = _unseen(loaded, [score_labelled(given, each, how)[:2] for each in loaded])
    if members:
        unseen.append(average_unseen([unseen[place] for place in members]))
    measured, labels = measure([[one.test] for one in unseen], seed), unseen[0].test.labels
    place = positive_class(labels, positive or positive_of(loaded[0]))
    looked_for = None if place is None else labels[place]
    document = {
        "samples_of": unseen[0].test.samples.origin,
        "samples": len(unseen[0].test.y),
        "left_out": left_out,
        "labels": list(labels),
        "positive": looked_for,
        "verdicts": decided(measured, names, wanted, looked_for),
        "calls": calls_of(names, [[one] for one in unseen], reference),
        "intervals": {
            "level": LEVEL,
            "replicates": REPLICATES,
            "of": "t over groups, drawn with replacement class by class, the same draws for every classifier",
        },
        "classifiers": [{**one, "metrics": measured.of(place)} for place, one in enumerate(described)],
        "differences": measured.differences(names),
        "seconds": round(time.monotonic() - started, 3),
    }
    comparison = Comparison(tuple(names), jsonable(document))
    if output is None:
        return comparison
    from embedstore.comparison.page import classifiers_report

    stated = made.of(given, reading, seed=seed)
    return write_comparison(comparison, Path(output), lambda: classifiers_report(comparison.document, stated))


def _require_same_labels(classifiers: Sequence[Classifier]) -> None:
    first = classifiers[0]
    for other in classifiers[1:]:
        if set(other.labels) != set(first.labels):
            raise InputError(
                f"Cannot compare {other.owner} with {first.owner}: expected the same classes, found "
                f"{', '.join(other.labels)} and {', '.join(first.labels)}. Train both on samples labelled alike."
            )


def _unseen(
    classifiers: Sequence[Classifier], scored: Sequence[tuple[Scores, NDArray[np.float32]]]
) -> tuple[list[Unseen], dict[str, Any]]:
    """Return what is said of samples whose groups made none of the classifiers, and JSON values about the others."""
    pairs = [(classifier, scores) for classifier, (scores, _) in zip(classifiers, scored, strict=True)]
    seen = sorted({name for pair in pairs for name in groups_seen(*pair)})
    first = scored[0][0]
    samples = first.samples
    kept = np.flatnonzero(~np.isin(samples.groups.texts(), seen))
    if not len(kept):
        raise InputError(
            f"Cannot compare on {samples.origin}: expected samples of groups that made none of the classifiers, found "
            "none. Give other samples, or compare sets of models, which are trained first (--models)."
        )
    arranged = [
        _with_contigs(classifier, _arranged(scores, kept, first.labels), scores.labels, logits[kept])
        for classifier, (scores, logits) in zip(classifiers, scored, strict=True)
    ]
    return arranged, {"samples": len(samples) - len(kept), "groups_seen_in_training": seen}


def _with_contigs(
    classifier: Classifier, scores: Scores, own_labels: tuple[str, ...], logits: NDArray[np.float32]
) -> Unseen:
    """Add fragments of the sources, scored as `predict` scores sequences."""
    order = [own_labels.index(label) for label in scores.labels]
    fragments = fragments_of(scores.samples, logits, scores.probabilities, scores.y, np.zeros(len(scores.y), np.int64))
    if classifier.sequences is None:
        return Unseen(scores, fragments, fragments.scores)
    contigs = classifier.sequences.probabilities(fragments.logits, fragments.counts, fragments.chunks)
    return Unseen(scores, fragments, contigs[:, order])


def _arranged(scores: Scores, rows: Any, labels: tuple[str, ...]) -> Scores:
    """Take some rows, with the classes in the order of `labels`."""
    places = [scores.labels.index(label) for label in labels]
    names = np.argsort(places)  # of each class of the scores, its place in `labels`
    return Scores(scores.samples.take(rows), names[scores.y[rows]], scores.probabilities[rows][:, places], labels)


def _distinct(names: Sequence[str]) -> list[str]:
    return [
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]


def _described(name: str, classifier: Classifier) -> dict[str, Any]:
    spaces = [block.space for block in classifier.schema.blocks]
    return {"name": name, "head": classifier.head.kind, "spaces": spaces, "dim": classifier.schema.dim}


def _together(members: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Describe the columns of an average: the spaces of its members, each once."""
    spaces = list(dict.fromkeys(space for one in members for space in one["spaces"]))
    return {"spaces": spaces, "dim": sum(one["dim"] for one in members)}
