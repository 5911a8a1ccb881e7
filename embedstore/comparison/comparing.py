"""Comparing: sets of features on the same samples and the same splits.

    samples ─▶ those that every space holds ─▶ folds for each seed ─▶ scores of each set out of fold ─▶ differences
                       └──▶ vectors of some of them ─▶ similarity of spaces      └──▶ comparison.json, comparison.html

In this order: the sets, which spaces they consist of and what these cost; paired differences; similarity; `compare`.

Verdicts and calls that change are in `verdicts` and `calls`.

Differences: in each draw every set is measured on the same groups, so that difficulty common to all sets cancels. A
group is drawn for all seeds at once; which seeds count is drawn too. Intervals are those of `resampling`, of the
difference of the logits of a metric, brought back by the slope between the two. In plain differences they were too wide
where two sets are equal (0.99 instead of 0.95 with five groups a class), and too high where one is worse.

Similarity: how far two spaces agree about the same samples, whatever their dimensions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.atomic import check_folder, complete
from embedstore.classify.averaging import average_log_odds
from embedstore.classify.blocks import Reading, fill_source, relabelled
from embedstore.classify.calling import positive_class
from embedstore.classify.heads import TrainOptions
from embedstore.classify.metrics import Floats, Measures, numbers
from embedstore.classify.provenance import Provenance
from embedstore.classify.resampling import LEVEL, REPLICATES, Draw, Drawn, draws
from embedstore.classify.scores import Scores
from embedstore.classify.splitting import Split, split_samples
from embedstore.classify.training import Unseen, grouped, jsonable, score_unseen
from embedstore.comparison.calls import changed_calls
from embedstore.comparison.verdicts import DecideOptions, Spread, decide, find_named, more_groups, sentence
from embedstore.errors import InputError
from embedstore.features import (
    FillFrom,
    Samples,
    fill_spaces,
    is_merged_file,
    is_missing,
    load_samples,
    schema_of,
    view,
)
from embedstore.filling import SpaceTarget, find_target
from embedstore.models.resolution import ModelOptions
from embedstore.records import Canaries
from embedstore.store.store import SpaceStore

_BASES_OF_A_RESIDUE = 3
_BASES_OF_A_MILLION_CONTIGS = 1_000_000 * 1000
_SECONDS_OF_AN_HOUR = 3600


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """Spaces whose vectors are side by side.

    Attributes
    ----------
    name : "tnf + aac_dpc"; distinct among the sets of a comparison.
    """

    name: str
    spaces: tuple[SpaceTarget, ...]

    @property
    def dim(self) -> int:
        """Number of columns."""
        return sum(target.recipe.dim for target in self.spaces)

    @property
    def seconds_per_residue(self) -> float | None:
        """What a residue of a sample cost, with the three bases that it is translated from; None if not recorded."""
        costs = [(seconds_per_residue(target), target.recipe.molecule) for target in self.spaces]
        known = [seconds * (_BASES_OF_A_RESIDUE if of == "dna" else 1) for seconds, of in costs if seconds is not None]
        return sum(known) if len(known) == len(costs) else None


def hours_for_a_million_contigs(seconds: float | None) -> float | None:
    """Return how long a million contigs of 1,000 bases take, if every chunk of them has one open frame.

    Parameters
    ----------
    seconds : a residue, with the three bases that it is translated from; None: not known.
    """
    residues = _BASES_OF_A_MILLION_CONTIGS / _BASES_OF_A_RESIDUE
    return None if seconds is None else seconds * residues / _SECONDS_OF_AN_HOUR


def seconds_per_residue(target: SpaceTarget) -> float | None:
    """Return what a base or residue cost, as the commits of the space say; None if they do not."""
    if target.space is None:
        return None
    info = target.space.info()
    return info.compute_seconds / info.residues if info.residues and info.compute_seconds else None


def find_sets(
    store: SpaceStore, sets: Sequence[str | Sequence[str]], options: Mapping[str, ModelOptions]
) -> list[FeatureSet]:
    """Find the spaces of sets, given as models or spaces: a sequence of them or "tnf,aac_dpc".

    Raises
    ------
    InputError : there are less than two sets. ModelError : a model is not known, and the store has no such space.
    """
    listed = [sets] if isinstance(sets, str) else sets
    models = [tuple(some.split(",")) if isinstance(some, str) else tuple(some) for some in listed]
    if len(models) < 2:
        raise InputError(
            f"Cannot compare: expected at least two sets of features, found {len(models)}. "
            "Give --models once for each, as `--models old --models new --models old,new`."
        )
    texts = [" + ".join(Path(model).name for model in some) for some in models]
    return [
        FeatureSet(
            text if texts.count(text) == 1 else f"{text} ({texts[: place + 1].count(text)})",
            tuple(find_target(store, model, options.get(model, ModelOptions())) for model in some),
        )
        for place, (text, some) in enumerate(zip(texts, models, strict=True))
    ]


def fill_sets(sets: Sequence[FeatureSet], source: FillFrom) -> list[FeatureSet]:
    """Compute the vectors that are missing from the spaces of sets, one space after the other."""
    targets = distinct_spaces(sets)
    filled, _ = fill_spaces(targets, source)
    by_id = {target.recipe.id: target for target in filled}
    return [replace(some, spaces=tuple(by_id[target.recipe.id] for target in some.spaces)) for some in sets]


def distinct_spaces(sets: Sequence[FeatureSet]) -> list[SpaceTarget]:
    """Return each space once, in the order in which sets name them."""
    return list({target.recipe.id: target for some in sets for target in some.spaces}.values())


def shared_samples(samples: Samples, targets: Sequence[SpaceTarget]) -> tuple[Samples, dict[str, Any]]:
    """Return the samples that have a vector in every space, and JSON values that say how many have not.

    Raises
    ------
    InputError : there is none.
    """
    absent = {target.name: is_missing(samples, target) for target in targets}
    kept = ~np.any(list(absent.values()), axis=0)
    counts = {name: int(rows.sum()) for name, rows in absent.items()}
    if not kept.any():
        found = ", ".join(f"{name} does not have {count:,} of {len(samples):,}" for name, count in counts.items())
        raise InputError(
            f"Cannot compare on {samples.origin}: expected samples with a vector in every space, found none: {found}. "
            "Compute them with --fill."
        )
    return samples.take(np.flatnonzero(kept)), {"samples": int((~kept).sum()), "missing_by_space": counts}


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """The metrics of some sets of features, and what they are in draws of groups and seeds.

    Attributes
    ----------
    paths : of the metrics, "classes/virus/auroc".
    by_seed : (sets, seeds, metrics) float64, NaN where a metric is not defined.
    drawn : draws of groups, and of seeds, with (sets, metrics) in each, means over the seeds.
    """

    paths: tuple[str, ...]
    by_seed: Floats
    drawn: Sequence[tuple[Draw, Floats]]

    def of(self, place: int) -> dict[str, dict[str, Any]]:
        """Describe each metric of one set: mean over the seeds, interval, and value for each seed."""
        values = _mean_defined(self.by_seed[place], axis=0)
        return self._described(self.by_seed[place], values, self._drawn(lambda drawn: drawn[place]).intervals(values))

    def difference(self, place: int, other: int) -> dict[str, dict[str, Any]]:
        """Describe how much larger each metric is in one set than in another."""
        means, found = _mean_defined(self.by_seed, axis=1), self._drawn_difference(place, other)
        apart = found.straight(means[place]) - found.straight(means[other])
        ends = found.intervals(apart, differences=True) * found.slopes(means[place], means[other])[:, None]
        return self._described(self.by_seed[place] - self.by_seed[other], means[place] - means[other], ends)

    def spread(self, place: int, other: int, path: str) -> Spread:
        """Return where the variance of the difference of one metric comes from."""
        means, found = _mean_defined(self.by_seed, axis=1), self._drawn_difference(place, other)
        parts, freedoms = found.variances(differences=True)
        strata = np.array(list(dict.fromkeys(draw.stratum for draw, _ in self.drawn)))
        column, is_class = self.paths.index(path), strata != _OF_SEEDS
        variances = parts[:, column] * found.slopes(means[place], means[other])[column] ** 2
        of_seeds = float(variances[~is_class].sum())
        return Spread(freedoms[is_class] + 1, variances[is_class], self.by_seed.shape[1], of_seeds)

    def differences(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Describe each two sets, the later minus the earlier, as JSON values."""
        return [
            {"of": names[later], "minus": names[earlier], "metrics": self.difference(later, earlier)}
            for earlier, later in combinations(range(len(names)), 2)
        ]

    def _described(self, by_seed: Floats, values: Floats, ends: NDArray[np.float64]) -> dict[str, dict[str, Any]]:
        return {
            path: {
                "value": float(values[column]),
                "interval": ends[column].tolist(),
                "by_seed": by_seed[:, column].tolist(),
            }
            for column, path in enumerate(self.paths)
        }

    def _drawn_difference(self, place: int, other: int) -> Drawn:
        """Differences of the logits of two sets in each draw."""
        straight = Drawn(self.paths).straight
        return self._drawn(lambda drawn: straight(drawn[place]) - straight(drawn[other]))

    def _drawn(self, chosen: Callable[[Floats], Floats]) -> Drawn:
        found = Drawn(self.paths)
        for draw, drawn in self.drawn:
            found.add(draw, chosen(drawn))
        return found


_OF_SEEDS = -1
"""Number of the stratum of draws of seeds; others are classes."""


def measure(scores: Sequence[Sequence[Scores]], seed: int, replicates: int = REPLICATES) -> Measured:
    """Measure sets of features on the samples that they were all tested on.

    Parameters
    ----------
    scores : for each set those of each seed; of one seed all sets have the same samples in the same order.
    seed : of the draws.
    """
    tests = scores[0]
    y = np.concatenate([test.y for test in tests])
    groups = np.concatenate([test.samples.groups.codes for test in tests]).astype(np.int64)
    ends = np.cumsum([len(test.y) for test in tests])[:-1]
    measures = [[Measures(one.y, one.probabilities, one.labels) for one in some] for some in scores]
    once = _at(measures, np.split(np.ones(len(y)), ends))
    drawn = [
        (draw, _mean_defined(_at(measures, np.split(draw.times, ends)), axis=1))
        for draw in draws(y, groups, seed, replicates)
    ]
    if len(tests) > 1:
        drawn += _draws_of_seeds(once, seed, replicates)
    return Measured(tuple(path for path, _ in numbers(measures[0][0].at())), once, drawn)


def _draws_of_seeds(by_seed: Floats, seed: int, replicates: int) -> list[tuple[Draw, Floats]]:
    """Draw seeds with replacement; (sets, seeds, metrics) to (sets, metrics) in each draw."""
    count = by_seed.shape[1]
    chosen = np.random.default_rng([seed, count]).integers(count, size=(replicates, count))
    draw = Draw(_OF_SEEDS, count, np.ones(0))
    return [(draw, _mean_defined(by_seed[:, some], axis=1)) for some in chosen]


def _at(measures: Sequence[Sequence[Measures]], weights: Sequence[Floats]) -> Floats:
    """(sets, seeds, metrics) for samples with these weights."""

    def of_each(some: Sequence[Measures]) -> Iterator[list[float]]:
        for one, times in zip(some, weights, strict=True):
            yield [number for _, number in numbers(one.at(times))]

    return np.array([list(of_each(some)) for some in measures])


def _mean_defined(found: Floats, axis: int) -> Floats:
    """Mean along an axis without NaN; NaN if all is."""
    defined = ~np.isnan(found)
    counts = defined.sum(axis=axis)
    means: Floats = np.where(defined, found, 0).sum(axis=axis) / np.where(counts > 0, counts, np.nan)
    return means


def decided(measured: Measured, names: Sequence[str], options: DecideOptions, positive: str | None) -> dict[str, Any]:
    """Describe the verdict about each set but the reference, see `verdicts`, as JSON values.

    Parameters
    ----------
    positive : label of the class that is looked for; None: there is none.
    """
    reference, path = find_named(names, options.reference), options.path(positive)
    found: dict[str, Any] = {
        "primary": path,
        "metric": options.name(positive),
        "margin": options.margin,
        "reference": names[reference],
    }
    sets = []
    for place in (place for place in range(len(names)) if place != reference):
        metric, spread = measured.difference(place, reference)[path], measured.spread(place, reference, path)
        low, high = metric["interval"]
        verdict = decide(low, high, options.margin)
        is_open = verdict == "undecided"
        one = {
            "set": names[place],
            "verdict": verdict,
            "difference": metric["value"],
            "interval": [low, high],
            "groups": int(spread.groups.sum()),
            "more_groups": more_groups(metric["value"], options.margin, spread) if is_open else None,
        }
        sets.append({**one, "sentence": sentence(found, jsonable(one))})
    return {**found, "sets": sets}


Matrix = NDArray[np.float32]
"""(n, d) float32: one row per sample."""

Similarities = NDArray[np.float64]
"""(n, n) float64."""


def linear_cka(some: Matrix, others: Matrix) -> float:
    """Return how alike the similarities between samples are in two spaces: 1 if one is the other turned and scaled.

    Centred kernel alignment (Kornblith et al. 2019) with the unbiased estimator of HSIC (Song et al. 2012): the plain
    one is near 1/2 for two spaces that have nothing in common, as soon as there are as many columns as samples. So it
    may be slightly below 0. NaN for fewer than 4 samples, or where all vectors of a space are equal.

    Parameters
    ----------
    some, others : (n, d) and (n, e) float32, rows of the same samples.
    """
    if len(some) < 4:
        return float("nan")
    ours, theirs = _similarities(some), _similarities(others)
    scale = _hsic(ours, ours) * _hsic(theirs, theirs)
    return float(_hsic(ours, theirs) / np.sqrt(scale)) if scale > 0 else float("nan")


def neighbour_overlap(some: Matrix, others: Matrix, neighbours: int) -> float:
    """Return which share of the nearest samples by cosine, of each sample, are the same in both spaces.

    Parameters
    ----------
    some, others : (n, d) and (n, e) float32, rows of the same samples.
    neighbours : how many; at most n - 1 are there. By chance it is neighbours / (n - 1).
    """
    count = min(neighbours, len(some) - 1)
    if count < 1:
        return float("nan")
    is_near = _nearest(some, count) & _nearest(others, count)
    return float(is_near.sum() / (count * len(some)))


def canary_cosines(some: Canaries, others: Canaries) -> tuple[float, ...] | None:
    """Return the cosine of the vectors of each fixed sequence; None if dimensions or sequences are not the same."""
    if some.sequences != others.sequences or some.vectors.shape != others.vectors.shape:
        return None
    products = (_unit(some.vectors) * _unit(others.vectors)).sum(axis=1)
    return tuple(products.tolist())


def _similarities(vectors: Matrix) -> Similarities:
    """(n, n) products of the centred vectors, scaled so that none overflows; the diagonal is 0."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    largest = np.abs(centred).max()
    if largest <= np.finfo(np.float32).eps * np.abs(vectors).max():  # only rounding is left
        return np.zeros((len(vectors), len(vectors)))
    centred /= largest
    products: Similarities = centred @ centred.T
    np.fill_diagonal(products, 0)
    return products


def _hsic(ours: Similarities, theirs: Similarities) -> float:
    """Unbiased HSIC, but for a factor that only depends on the number of samples."""
    count = len(ours)
    rows = ours.sum(axis=0) @ theirs.sum(axis=0)
    return float(
        (ours * theirs).sum() + ours.sum() * theirs.sum() / ((count - 1) * (count - 2)) - 2 * rows / (count - 2)
    )


def _nearest(vectors: Matrix, count: int) -> NDArray[np.bool_]:
    """(n, n) bool: which samples are the nearest of each."""
    unit = _unit(vectors)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
    found = np.zeros(cosines.shape, np.bool_)
    np.put_along_axis(found, nearest, True, axis=1)
    return found


def _unit(vectors: Matrix) -> NDArray[np.float64]:
    """Vectors of length 1; those of length 0 stay."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit: NDArray[np.float64] = vectors / np.where(lengths > 0, lengths, 1)
    return unit


COMPARISON_NAME = "comparison.json"
PAGE_NAME = "comparison.html"

SEEDS = 10
_SIMILARITY_SAMPLES = 2000
_NEIGHBOURS = 10

OnTrained = Callable[[str, int, Unseen], object]
"""Told the name of a set, the seed, and what the heads of the folds say of samples that they have not seen."""


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Results of sets of features.

    Attributes
    ----------
    names : of the sets, in the order given.
    document : all that was found, as JSON values; what is not defined is None.
    report_failed : why comparison.html could not be drawn; comparison.json was written nevertheless.
    """

    names: tuple[str, ...]
    document: dict[str, Any]
    report_failed: str = ""

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return self.document


def compare(
    samples: Samples | str | Path,
    sets: Sequence[str | Sequence[str]],
    output: str | Path | None = None,
    *,
    reading: Reading,
    relatives: bool | None = None,
    options: TrainOptions | None = None,
    seeds: int = SEEDS,
    decide: DecideOptions | None = None,
    on_trained: OnTrained | None = None,
    made: Provenance | None = None,
) -> Comparison:
    """Train on several sets of features with the same splits, and compare.

    Samples without a vector in any one of the spaces are left out of all sets, and counted.

    Parameters
    ----------
    samples : labelled samples.
    sets : of each the models or spaces that make its columns, as a sequence or "tnf,aac_dpc".
    reading : the store, and what else applies to the samples; its `models` are not looked at.
    output : folder for `comparison.json` and `comparison.html`; None: nothing is written.
    relatives : keep groups together whose sequences are alike, see `train`.
    options : how each classifier is trained; its seed is the first of so many `seeds`, each of which has its own folds.
    decide : the metric, margin and reference of the verdicts, and which sets are averaged too.
    made : what the page says of when and by which command; None: now, from Python.

    Raises
    ------
    InputError : there are less than two sets or no seeds, a set that is named is not there, samples have no labels or
        cannot be split, or none of them is in every space.
    ModelError : a model is not known, and the store has no such space.
    """
    started = time.monotonic()
    options, made, wanted = options or TrainOptions(), made or Provenance.now(), decide or DecideOptions()
    if seeds < 1:
        raise InputError(f"Cannot compare: expected at least one seed, found {seeds}.")
    if output is not None:
        check_folder(Path(output), COMPARISON_NAME, "a comparison")
    found = find_sets(_store(samples, reading), sets, reading.options)
    labelled = relabelled(samples if isinstance(samples, Samples) else load_samples(samples), reading)
    contenders = _with_average(found, wanted)
    find_named([some.name for some in contenders], wanted.reference)
    for some in found:
        schema_of(some.spaces, labelled)
    grouping = grouped(samples, labelled, reading, relatives)
    split_samples(labelled, options, grouping.links)  # what cannot be split is refused before anything is computed
    place = positive_class(tuple(labelled.labels.names.tolist()), options.positive)
    positive = None if place is None else str(labelled.labels.names[place])
    source = fill_source(samples, reading)
    if source is not None:
        found = fill_sets(found, source)
        contenders = _with_average(found, wanted)
    targets = distinct_spaces(found)
    shared, left_out = shared_samples(labelled, targets)
    seeded = [replace(options, seed=options.seed + number) for number in range(seeds)]
    splits = [(training, split_samples(shared, training, grouping.links)) for training in seeded]
    unseen = [_tested(some, shared, splits, on_trained) for some in found]
    if len(contenders) > len(found):
        members = [unseen[place] for place in _averaged(found, wanted)]
        unseen.append([average_unseen(some) for some in zip(*members, strict=True)])
    measured = measure([[one.test for one in some] for some in unseen], options.seed)
    names = [some.name for some in contenders]
    document = {
        "samples_of": labelled.origin,
        "samples": len(shared),
        "left_out": left_out,
        "labels": shared.labels.names.tolist(),
        "options": options.to_json(),
        **grouping.to_json(splits[0][1].groups),
        "splits": [{"seed": training.seed, **split.to_json()} for training, split in splits],
        "positive": positive,
        "verdicts": decided(measured, names, wanted, positive),
        "calls": calls_of(names, unseen, find_named(names, wanted.reference)),
        **_measured(contenders, measured),
        "spaces": [_space_facts(target) for target in targets],
        "similarity": _similarity(targets, shared, options.seed),
        "seconds": round(time.monotonic() - started, 3),
    }
    comparison = Comparison(tuple(names), jsonable(document))
    if output is None:
        return comparison
    from embedstore.comparison.page import comparison_report

    stated = made.of(samples, reading)
    return write_comparison(comparison, Path(output), lambda: comparison_report(comparison.document, stated))


def _averaged(sets: Sequence[FeatureSet], options: DecideOptions) -> list[int]:
    """Return the places of the sets whose scores are averaged."""
    names = [some.name for some in sets]
    places = [find_named(names, name) for name in options.average]
    if len(set(places)) < len(places):
        raise InputError(f"Cannot average a set with itself: found {', '.join(options.average)}. Name each set once.")
    return places


def _with_average(sets: Sequence[FeatureSet], options: DecideOptions) -> list[FeatureSet]:
    """Add the average of sets, if it is wanted, whose spaces are those of its members."""
    members = [sets[place] for place in _averaged(sets, options)]
    if not members:
        return list(sets)
    name = averaged_name([some.name for some in members])
    return [*sets, FeatureSet(name, tuple(distinct_spaces(members)))]


def averaged_name(names: Sequence[str]) -> str:
    """Name the average of some sets or classifiers."""
    return f"{' & '.join(names)} averaged"


def average_unseen(members: Sequence[Unseen]) -> Unseen:
    """Average the calibrated log-odds of the same samples, and of the same fragments."""
    test = replace(members[0].test, probabilities=average_log_odds([one.test.probabilities for one in members]))
    return Unseen(test, members[0].fragments, average_log_odds([one.contigs for one in members]))


def calls_of(names: Sequence[str], unseen: Sequence[Sequence[Unseen]], reference: int) -> list[dict[str, Any]]:
    """Describe for each set but the reference which fragments are called otherwise, see `calls`, as JSON values."""
    return [
        {"of": name, "reference": names[reference], **changed_calls(unseen[reference], unseen[place])}
        for place, name in enumerate(names)
        if place != reference
    ]


def _store(given: Samples | str | Path, reading: Reading) -> SpaceStore:
    if reading.store is None:
        raise InputError("Cannot compare without a store. Give the store that holds the vectors.")
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
) -> list[Unseen]:
    """Train on one set with each seed; return what is said out of fold, or of the test parts."""
    features, found = view(samples, some.spaces, check=False), []
    for training, split in splits:
        unseen = score_unseen(features, samples, split, training)
        if on_trained is not None:
            on_trained(some.name, training.seed, unseen)
        found.append(unseen)
    return found


def _measured(sets: Sequence[FeatureSet], measured: Measured) -> dict[str, Any]:
    intervals = {
        "level": LEVEL,
        "replicates": REPLICATES,
        "of": "t over groups, drawn with replacement class by class, and over seeds, the same draws for every set",
    }
    described = [
        {
            "name": some.name,
            "spaces": [target.name for target in some.spaces],
            "dim": some.dim,
            "seconds_per_residue": some.seconds_per_residue,
            "hours_for_a_million_contigs": hours_for_a_million_contigs(some.seconds_per_residue),
            "metrics": measured.of(place),
        }
        for place, some in enumerate(sets)
    ]
    differences = measured.differences([some.name for some in sets])
    return {"intervals": intervals, "sets": described, "differences": differences}


def _space_facts(target: SpaceTarget) -> dict[str, Any]:
    facts = {"name": target.name, "id": target.recipe.id, "molecule": target.recipe.molecule, "dim": target.recipe.dim}
    return {**facts, "seconds_per_residue": seconds_per_residue(target)}


def _similarity(targets: Sequence[SpaceTarget], samples: Samples, seed: int) -> dict[str, Any]:
    """Compare the vectors of some samples, drawn whatever the order of the table."""
    by_id = np.argsort(samples.ids, kind="stable")
    count = min(len(by_id), _SIMILARITY_SAMPLES)
    drawn = np.random.default_rng(seed).choice(len(by_id), count, replace=False)
    some = samples.take(by_id[np.sort(drawn)])
    vectors = {target.name: view(some, [target], check=False).rows() for target in targets}
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


def write_comparison(comparison: Comparison, path: Path, draw: Callable[[], str]) -> Comparison:
    """Write the folder; return the comparison with why its page could not be drawn, if so.

    Parameters
    ----------
    draw : the page.
    """
    from embedstore.classify.report import drawn_or_why

    page, failed = drawn_or_why(draw)
    with complete(path.absolute()) as folder:
        folder.mkdir()
        if page is not None:
            (folder / PAGE_NAME).write_text(page, encoding="utf-8")
        document = json.dumps(comparison.to_json(), indent=1, ensure_ascii=False)
        (folder / COMPARISON_NAME).write_text(document + "\n", encoding="utf-8")
    return replace(comparison, report_failed=failed)
