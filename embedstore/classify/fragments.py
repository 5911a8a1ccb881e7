"""From samples to sequences: fragments of known genomes, which sequences of a length are calibrated and judged by.

What a user wants to know is the class of a contig. So genomes are cut at regular places into fragments of 0.5, 1, 3 and
10 kb, as if those were the contigs; the logits of a fragment's samples, of heads that have not seen the genome, are
averaged, calibrated by their number (see `calibration`), and measured by length. Fragments without a sample, since no
frame of them is open, are not among them; where it is known how many there are (see `unseen`), recall is also given of
all fragments, those without a call included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.classify.calibration import Chunks, SequenceCalibration, calibrate_sequences
from embedstore.classify.fitting import balanced_weights
from embedstore.classify.heads import CalibrationKind, TrainOptions
from embedstore.classify.metrics import Classes, Floats, Measures, Probabilities
from embedstore.classify.resampling import intervals
from embedstore.features import Samples
from embedstore.sequences.translation import FRAMES_A_STRAND

FRAGMENT_BASES = (500, 1000, 3000, 10_000)
_ALL_OPEN_FRAMES = "stop-free"
_REPLICATES = 100
"""Draws for the intervals of each length."""
_LEAST_FRAGMENTS = 20
"""Lengths of which there are fewer fragments, or not one of each class, are not reported."""


@dataclass(frozen=True, slots=True, eq=False)
class Fragments:
    """Fragments of one or several lengths.

    Attributes
    ----------
    length_bases : (n,) of each. y, groups, folds : (n,) its class, group and fold, by number.
    logits, scores : (n, classes) float64, means over its samples. counts : (n,) its samples.
    total_chunks, open_chunks : (n,) its chunks, and those of them with a sample; 1 each where samples are not all the
        stop-free frames, so that these numbers would say something else.
    """

    length_bases: NDArray[np.int64]
    y: Classes
    groups: NDArray[np.int64]
    folds: NDArray[np.int64]
    logits: Floats
    scores: Probabilities
    counts: NDArray[np.int64]
    total_chunks: NDArray[np.int64]
    open_chunks: NDArray[np.int64]

    @property
    def chunks(self) -> Chunks:
        """As a calibration takes them."""
        return Chunks(self.total_chunks, self.open_chunks)

    def __len__(self) -> int:
        return len(self.y)


def fragments_of(
    samples: Samples,
    logits: NDArray[np.float32],
    probabilities: Probabilities,
    y: Classes,
    folds: NDArray[np.int64],
    lengths_bases: Sequence[int] = FRAGMENT_BASES,
    source_bases: NDArray[np.int64] | None = None,
) -> Fragments:
    """Cut the sources of samples into fragments, and average logits and scores of the samples within each.

    A sample belongs to the fragment that holds its middle; the last bases of a source, if they make no whole fragment,
    are left out.

    Parameters
    ----------
    samples : n of them. logits, probabilities : (n, classes). y, folds : (n,).
    lengths_bases : those shorter than a chunk are left out.
    source_bases : length of each source, by its number; None: sources end with their last sample.
    """
    chunk = chunk_bases(samples)
    sources = samples.sources.codes.astype(np.int64)
    ends = np.zeros(len(samples.sources.names) + 1, np.int64)
    np.maximum.at(ends, sources, samples.end if source_bases is None else source_bases[sources])
    middle = (samples.start + samples.end) // 2 - 1
    is_first = _first_of_chunks(sources, samples.start)
    are_all = samples.preparation.frames == _ALL_OPEN_FRAMES
    parts = []
    for length in lengths_bases:
        if length < chunk:
            continue
        place = middle // length
        whole = np.flatnonzero((place + 1) * length <= ends[sources] + chunk // 2)
        most = int(place.max(initial=0)) + 1
        _, first, members, counts = np.unique(
            sources[whole] * most + place[whole], return_index=True, return_inverse=True, return_counts=True
        )
        means = [_sums(numbers[whole], members, len(counts)) / counts[:, None] for numbers in (logits, probabilities)]
        one = whole[first]
        groups = samples.groups.codes[one].astype(np.int64)
        lengths = np.full(len(counts), length, np.int64)
        total = np.full(len(counts), max(1, round(length / chunk)) if are_all else 1, np.int64)
        opened = np.bincount(members, is_first[whole], minlength=len(counts)).astype(np.int64).clip(1, total)
        facts = (means[0], means[1], counts.astype(np.int64), total, opened)
        parts.append(Fragments(lengths, y[one], groups, folds[one], *facts))
    return _concatenated(parts, logits.shape[1])


def chunk_bases(samples: Samples) -> int:
    """Return the length of the chunks that samples were cut from; if nobody stated it, that of the longest sample."""
    return samples.preparation.chunk_length or int((samples.end - samples.start + 1).max(initial=1))


def _first_of_chunks(sources: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) whether each sample is the first of its chunk: frames of one chunk begin at most two bases apart."""
    order = np.lexsort((starts, sources))
    found = np.ones(len(starts), np.bool_)
    same = (np.diff(sources[order]) == 0) & (np.diff(starts[order]) < FRAMES_A_STRAND)
    found[order[1:]] = ~same
    return found


def _sums(numbers: NDArray[Any], members: NDArray[Any], count: int) -> Floats:
    """(count, classes): sums of rows by the fragment that each is in."""
    found = np.zeros((count, numbers.shape[1]))
    np.add.at(found, members, numbers.astype(np.float64))
    return found


def _concatenated(parts: Sequence[Fragments], classes: int) -> Fragments:
    nothing = np.empty(0, np.int64)
    rows = np.empty((0, classes))
    empty = Fragments(nothing, nothing, nothing, nothing, rows, rows, nothing, nothing, nothing)
    joined = (empty, *parts)
    return Fragments(*(np.concatenate([getattr(part, field.name) for part in joined]) for field in fields(Fragments)))


def fragment_weights(fragments: Fragments, classes: int, options: TrainOptions) -> Floats:
    """(n,) how much each counts: all lengths alike, within a length as samples."""
    weights = np.zeros(len(fragments))
    for length in np.unique(fragments.length_bases).tolist():
        here = np.flatnonzero(fragments.length_bases == length)
        each = balanced_weights(fragments.y[here], fragments.groups[here], classes, options)
        weights[here] = each / each.sum()
    return weights


def calibrated(
    fragments: Fragments, weights: Floats, classes: int, kind: CalibrationKind
) -> tuple[SequenceCalibration | None, Probabilities | None]:
    """Fit to all fragments; return that, and (n, classes) probabilities, each from a fit to the other folds.

    None, where there are too few fragments, or not all classes in what is fitted to.
    """
    if not _all_there(fragments.y, classes):
        return None, None
    found = _fit(fragments, np.arange(len(fragments)), weights, kind)
    crossed = np.empty((len(fragments), classes))
    for fold in np.unique(fragments.folds).tolist():
        held_out = fragments.folds == fold
        others = np.flatnonzero(~held_out)
        fit = found
        if _all_there(fragments.y[others], classes):
            fit = _fit(fragments, others, weights, kind)
        crossed[held_out] = scored(fragments, fit)[held_out]
    return found, crossed


def _fit(fragments: Fragments, some: NDArray[np.int64], weights: Floats, kind: CalibrationKind) -> SequenceCalibration:
    chunks = Chunks(fragments.total_chunks[some], fragments.open_chunks[some])
    logits, counts, y = fragments.logits[some], fragments.counts[some], fragments.y[some]
    return calibrate_sequences(logits, counts, y, weights[some], kind, chunks)


def scored(fragments: Fragments, sequences: SequenceCalibration) -> Probabilities:
    """(n, classes) probabilities, as `predict` scores sequences."""
    return sequences.probabilities(fragments.logits, fragments.counts, fragments.chunks)


def sequence_calibration(fragments: Fragments, classes: int, options: TrainOptions) -> SequenceCalibration | None:
    """Fit to all fragments, as `calibrated` does; None, where there are too few, or not all classes."""
    if not _all_there(fragments.y, classes):
        return None
    weights = fragment_weights(fragments, classes, options)
    return _fit(fragments, np.arange(len(fragments)), weights, options.calibration)


def _all_there(y: Classes, classes: int) -> bool:
    return len(y) >= _LEAST_FRAGMENTS and len(np.unique(y)) == classes


def assess_fragments(
    fragments: Fragments,
    after: Probabilities,
    labels: tuple[str, ...],
    positive: int | None,
    seed: int,
    crossed: Probabilities | None = None,
    of_all: Mapping[int, Any] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Return the metrics of fragments by length, with intervals; lengths with too few fragments are left out.

    Parameters
    ----------
    after : (n, classes) probabilities, calibrated for sequences; `before_calibration` are the means over the samples.
    positive : place of the class that is looked for; None: there is none.
    crossed : like `after`, of each fragment by a calibration that is fitted to the other folds.
    of_all : length -> recall of all fragments, those without a sample included, see `unseen`; empty: it is not known.
    """
    found = []
    others = {"before_calibration": fragments.scores, **({} if crossed is None else {"calibrated_by_others": crossed})}
    for length in np.unique(fragments.length_bases).tolist():
        here = np.flatnonzero(fragments.length_bases == length)
        if not _all_there(fragments.y[here], len(labels)):
            continue
        y = fragments.y[here]
        measures = Measures(y, after[here], labels)
        found.append(
            {
                "length_bases": length,
                "fragments": len(here),
                "groups": len(np.unique(fragments.groups[here])),
                **({} if positive is None else {"positive": measures.of_positive(positive)}),
                **measures.at(),
                **{name: how_calibrated(y, scores[here], labels) for name, scores in others.items()},
                "of_all": of_all.get(length),
                "intervals": intervals(measures, y, fragments.groups[here], seed, _REPLICATES),
            }
        )
    return found


def how_calibrated(y: Classes, scores: Probabilities, labels: tuple[str, ...]) -> dict[str, float]:
    """Return the numbers by which calibrations are compared."""
    found = Measures(y, scores, labels).at()
    return {name: found[name] for name in ("brier_balanced", "ece_balanced")}
