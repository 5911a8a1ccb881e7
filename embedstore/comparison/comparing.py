"""Comparing: sets of features on the same samples and the same splits.

samples ─▶ those that every space holds ─▶ a split for each seed ─▶ a classifier for each set ─▶ paired differences
                     └──▶ vectors of some of them ─▶ similarity of the spaces      └──▶ comparison.json, comparison.html
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.classify.assessment import jsonable
from embedstore.classify.inputs import Reading, fill_source, relabelled
from embedstore.classify.intervals import LEVEL, REPLICATES
from embedstore.classify.options import TrainOptions
from embedstore.classify.scores import Scores
from embedstore.classify.splitting import Split, split_samples
from embedstore.classify.training import Trained, fit_classifier
from embedstore.comparison.differences import Measured, measure
from embedstore.comparison.sets import (
    FeatureSet,
    distinct_spaces,
    fill_sets,
    find_sets,
    seconds_per_letter,
    shared_samples,
)
from embedstore.comparison.similarity import canary_cosines, linear_cka, neighbour_overlap
from embedstore.errors import InputError
from embedstore.features import Samples, is_merged_file, load_samples, schema_of, view
from embedstore.filling import SpaceTarget
from embedstore.output import check_folder, complete
from embedstore.store.store import SpaceStore

COMPARISON_NAME = "comparison.json"
PAGE_NAME = "comparison.html"

SEEDS = 3
_SIMILARITY_SAMPLES = 2000
_NEIGHBOURS = 10

OnTrained = Callable[[str, int, Trained], object]
"""Told the name of a set, the seed, and what was trained."""


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """How sets of features did.

    Attributes
    ----------
    names : of the sets, in the order given.
    document : all that was found, as JSON values; what is not defined is None.
    report_failed : why comparison.html could not be drawn; comparison.json was written all the same.
    """

    names: tuple[str, ...]
    document: dict[str, Any]
    report_failed: str = ""

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return self.document


def compare(
    given: Samples | str | Path,
    sets: Sequence[str | Sequence[str]],
    reading: Reading,
    output: str | Path | None = None,
    options: TrainOptions | None = None,
    *,
    seeds: int = SEEDS,
    on_trained: OnTrained | None = None,
) -> Comparison:
    """Train on several sets of features with the same splits, and compare.

    Samples that lack a vector in any space are left out of all sets, and counted.

    Parameters
    ----------
    given : labelled samples.
    sets : of each the models or spaces that make its columns, as a sequence or "tnf,aac_dpc".
    reading : the store, and what else applies to the samples; its `models` are not looked at.
    output : folder for `comparison.json` and `comparison.html`; None: nothing is written.
    options : how each classifier is trained; its seed is the first of so many `seeds`, each of which has its own split.

    Raises
    ------
    InputError : there are less than two sets or no seeds, samples have no labels or cannot be split, or none of them
        is in every space.
    ModelError : a model is not known, and the store has no such space.
    """
    started = time.monotonic()
    options = options or TrainOptions()
    if seeds < 1:
        raise InputError(f"Cannot compare: expected at least one seed, found {seeds}.")
    if output is not None:
        check_folder(Path(output), COMPARISON_NAME, "a comparison")
    found = find_sets(_store(given, reading), sets, reading.options)
    samples = relabelled(given if isinstance(given, Samples) else load_samples(given), reading)
    for some in found:
        schema_of(some.spaces, samples)
    split_samples(samples, options)  # what cannot be split is refused before anything is computed
    source = fill_source(given, reading)
    if source is not None:
        found = fill_sets(found, source)
    targets = distinct_spaces(found)
    shared, left_out = shared_samples(samples, targets)
    seeded = [replace(options, seed=options.seed + number) for number in range(seeds)]
    splits = [(training, split_samples(shared, training)) for training in seeded]
    scores = [_tested(some, shared, splits, on_trained) for some in found]
    document = {
        "samples_of": samples.origin,
        "samples": len(shared),
        "left_out": left_out,
        "labels": shared.labels.names.tolist(),
        "options": options.to_json(),
        "splits": [{"seed": training.seed, **split.to_json()} for training, split in splits],
        **_measured(found, measure(scores, options.seed)),
        "spaces": [_space_facts(target) for target in targets],
        "similarity": _similarity(targets, shared, options.seed),
        "seconds": round(time.monotonic() - started, 3),
    }
    comparison = Comparison(tuple(some.name for some in found), jsonable(document))
    return comparison if output is None else _written(comparison, Path(output))


def _store(given: Samples | str | Path, reading: Reading) -> SpaceStore:
    if reading.store is None:
        raise InputError("Cannot compare without a store: give the one with the vectors.")
    if not isinstance(given, Samples) and is_merged_file(Path(given)):
        raise InputError(
            f"Cannot compare on {given}: expected a table of samples, found merged features, whose columns are fixed. "
            "Give the samples.tsv that they were merged from."
        )
    return reading.store


def _tested(
    some: FeatureSet,
    samples: Samples,
    splits: Sequence[tuple[TrainOptions, Split]],
    on_trained: OnTrained | None,
) -> list[Scores]:
    """Train on one set with each seed; return the scores of the test parts."""
    features, scores = view(samples, some.spaces), []
    for training, split in splits:
        trained = fit_classifier(features, samples, split, training, name=some.name)
        if on_trained is not None:
            on_trained(some.name, training.seed, trained)
        scores.append(trained.test)
    return scores


def _measured(sets: Sequence[FeatureSet], measured: Measured) -> dict[str, Any]:
    intervals = {
        "level": LEVEL,
        "replicates": REPLICATES,
        "of": "groups drawn with replacement within their class, and seeds, the same for every set",
    }
    described = [
        {
            "name": some.name,
            "spaces": [target.name for target in some.spaces],
            "dim": some.dim,
            "seconds_per_residue": some.seconds_per_residue,
            "metrics": measured.of(place),
        }
        for place, some in enumerate(sets)
    ]
    differences = [
        {"of": sets[later].name, "minus": sets[earlier].name, "metrics": measured.difference(later, earlier)}
        for earlier, later in combinations(range(len(sets)), 2)
    ]
    return {"intervals": intervals, "sets": described, "differences": differences}


def _space_facts(target: SpaceTarget) -> dict[str, Any]:
    facts = {"name": target.name, "id": target.recipe.id, "molecule": target.recipe.molecule, "dim": target.recipe.dim}
    return {**facts, "seconds_per_letter": seconds_per_letter(target)}


def _similarity(targets: Sequence[SpaceTarget], samples: Samples, seed: int) -> dict[str, Any]:
    """Compare the vectors of some samples, drawn whatever the order of the table."""
    by_id = np.argsort(samples.ids, kind="stable")
    count = min(len(by_id), _SIMILARITY_SAMPLES)
    drawn = np.random.default_rng(seed).choice(len(by_id), count, replace=False)
    some = samples.take(by_id[np.sort(drawn)])
    vectors = {target.name: view(some, [target]).rows() for target in targets}
    pairs = [
        {
            "spaces": [one.name, other.name],
            "linear_cka": linear_cka(vectors[one.name], vectors[other.name]),
            "neighbour_overlap": neighbour_overlap(vectors[one.name], vectors[other.name], _NEIGHBOURS),
            "canary_cosines": None
            if one.space is None or other.space is None
            else canary_cosines(one.space.canaries, other.space.canaries),
        }
        for one, other in combinations(targets, 2)
    ]
    by_chance = min(1.0, _NEIGHBOURS / (count - 1)) if count > 1 else None
    return {"samples": count, "neighbours": _NEIGHBOURS, "overlap_by_chance": by_chance, "pairs": pairs}


def _written(comparison: Comparison, path: Path) -> Comparison:
    """Write the folder; return the comparison with why its page could not be drawn, if so."""
    from embedstore.classify.report import drawn_or_why
    from embedstore.comparison.report import comparison_report

    page, failed = drawn_or_why(lambda: comparison_report(comparison.document))
    with complete(path.absolute()) as folder:
        folder.mkdir()
        if page is not None:
            (folder / PAGE_NAME).write_text(page, encoding="utf-8")
        document = json.dumps(comparison.to_json(), indent=1, ensure_ascii=False)
        (folder / COMPARISON_NAME).write_text(document + "\n", encoding="utf-8")
    return replace(comparison, report_failed=failed)
