"""Comparing classifiers that are trained already: on the same samples, of groups that made none of them.

    samples ─▶ scores of each classifier ─▶ without groups that one of them has seen ─▶ paired differences

The differences are those of `comparing`: in each draw of groups every classifier is measured on the same ones.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.atomic import check_folder, complete
from embedstore.classify.blocks import FeatureInput, Reading
from embedstore.classify.classifier import Classifier, load_classifier
from embedstore.classify.evaluation import groups_seen, score_labelled
from embedstore.classify.resampling import LEVEL, REPLICATES
from embedstore.classify.scores import Scores
from embedstore.classify.training import jsonable
from embedstore.comparison.comparing import COMPARISON_NAME, Comparison, Measured, measure
from embedstore.errors import InputError


def compare_classifiers(
    given: FeatureInput,
    classifiers: Sequence[Classifier | str | Path],
    reading: Reading,
    output: str | Path | None = None,
    *,
    seed: int = 1,
) -> Comparison:
    """Score the same labelled samples with several classifiers, and compare. Nothing is trained.

    Samples of groups that were used to make one of the classifiers are left out for all of them, and counted.

    Parameters
    ----------
    given : features, a merged file, or samples; their vectors are read from the store of `reading`.
    classifiers : two or more, that tell the same classes.
    reading : the store, and what else applies to the samples; its `models` are not looked at.
    output : folder for `comparison.json`; None: nothing is written.
    seed : of the draws.

    Raises
    ------
    InputError : there are fewer than two classifiers, they do not tell the same classes, or no sample is left.
    SchemaError : the features are not those of a classifier; both sides are named.
    MissingEmbeddingError : samples have no vector.
    """
    started = time.monotonic()
    if len(classifiers) < 2:
        raise InputError(f"Cannot compare: expected at least two classifiers, found {len(classifiers)}.")
    if output is not None:
        check_folder(Path(output), COMPARISON_NAME, "a comparison")
    loaded = [each if isinstance(each, Classifier) else load_classifier(each) for each in classifiers]
    _require_same_labels(loaded)
    how = replace(reading, models=())
    scores, left_out = _unseen(loaded, [score_labelled(given, each, how)[0] for each in loaded])
    names = _distinct([Path(each.name).name for each in loaded])
    document = {
        "samples_of": scores[0].samples.origin,
        "samples": len(scores[0].y),
        "left_out": left_out,
        "labels": list(scores[0].labels),
        "intervals": {
            "level": LEVEL,
            "replicates": REPLICATES,
            "of": "t over groups, drawn with replacement class by class, the same draws for every classifier",
        },
        **_described(names, loaded, measure([[one] for one in scores], seed)),
        "seconds": round(time.monotonic() - started, 3),
    }
    comparison = Comparison(tuple(names), jsonable(document))
    if output is not None:
        with complete(Path(output).absolute()) as folder:
            folder.mkdir()
            text = json.dumps(comparison.to_json(), indent=1, ensure_ascii=False)
            (folder / COMPARISON_NAME).write_text(text + "\n", encoding="utf-8")
    return comparison


def _require_same_labels(classifiers: Sequence[Classifier]) -> None:
    first = classifiers[0]
    for other in classifiers[1:]:
        if set(other.labels) != set(first.labels):
            raise InputError(
                f"Cannot compare {other.owner} with {first.owner}: expected the same classes, found "
                f"{', '.join(other.labels)} and {', '.join(first.labels)}. Train both on samples labelled alike."
            )


def _unseen(classifiers: Sequence[Classifier], scores: Sequence[Scores]) -> tuple[list[Scores], dict[str, Any]]:
    """Return the scores of samples whose groups made none of the classifiers, and JSON values about the others."""
    seen = sorted({name for pair in zip(classifiers, scores, strict=True) for name in groups_seen(*pair)})
    samples = scores[0].samples
    kept = np.flatnonzero(~np.isin(samples.groups.texts(), seen))
    if not len(kept):
        raise InputError(
            f"Cannot compare on {samples.origin}: expected samples of groups that made none of the classifiers, found "
            "none. Give other samples, or compare sets of models, which are trained first (--models)."
        )
    arranged = [_arranged(each, kept, scores[0].labels) for each in scores]
    return arranged, {"samples": len(samples) - len(kept), "groups_seen_in_training": seen}


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


def _described(names: Sequence[str], classifiers: Sequence[Classifier], measured: Measured) -> dict[str, Any]:
    described = [
        {
            "name": name,
            "head": classifier.head.kind,
            "spaces": [block.space for block in classifier.schema.blocks],
            "dim": classifier.schema.dim,
            "metrics": measured.of(place),
        }
        for place, (name, classifier) in enumerate(zip(names, classifiers, strict=True))
    ]
    return {"classifiers": described, "differences": measured.differences(names)}
