"""What a report says of scored samples: metrics with intervals, by length and by group, from the same scores."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from embedstore.classify.intervals import LEVEL, REPLICATES, bootstrap
from embedstore.classify.metrics import PREVALENCES, Measures
from embedstore.classify.scores import Scores
from embedstore.errors import InputError
from embedstore.features.samples import Indices

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
