"""From the scores of samples to one row a sequence: its score, call, how sure it is, or why there is no call.

The score of a sequence is calibrated from the mean logit of its samples and their number (`calibration`); with a
classifier that has no calibration of sequences it is the mean of the scores of its samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedstore.atomic import cell
from embedstore.classify.averaging import AveragedSequences
from embedstore.classify.calibration import SequenceCalibration
from embedstore.classify.metrics import Floats, Probabilities


class SourceCounts(NamedTuple):
    """What was cut from one sequence.

    Attributes
    ----------
    dropped : reasons why chunks gave no sample -> how many.
    """

    source: str
    length_bases: int
    chunks: int
    samples: int
    dropped: dict[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Contig:
    """One sequence and its scores.

    Attributes
    ----------
    scored : how many of its samples have a score.
    scores : (classes,) of the sequence; None if none of its samples has one.
    confidence : the smaller of the score of the call and of the share of samples that are called so themselves.
    """

    counts: SourceCounts
    scored: int
    scores: NDArray[np.float64] | None
    confidence: float

    @property
    def call(self) -> int:
        """The class with the highest score."""
        return -1 if self.scores is None else int(self.scores.argmax())


class ContigGatherer:
    """Gathers the scores of samples, which come in the order of their sources, sequence by sequence.

    Parameters
    ----------
    sources : in the order of the samples; each says how many of them are its own.
    sequences : calibration of sequences, of one classifier or of several; None: the scores of samples are averaged.
    """

    def __init__(
        self,
        sources: Iterable[SourceCounts],
        classes: int,
        sequences: SequenceCalibration | AveragedSequences | None = None,
    ) -> None:
        self._sources = iter(sources)
        self._classes = classes
        self._sequences = sequences
        self._current: SourceCounts | None = None
        self._sum: Floats = np.zeros(1)
        self._left = 0
        self._start(None)

    def add(self, scores: Probabilities, logits: Floats) -> Iterator[Contig]:
        """Add the scores and logits of more samples, NaN where a sample has none; yield sequences that are complete."""
        while len(scores):
            while self._current is None or not self._left:
                yield from self._ended()
                self._start(next(self._sources))
            here, scores = scores[: self._left], scores[self._left :]
            logits_here, logits = logits[: self._left], logits[self._left :]
            self._left -= len(here)
            present = ~np.isnan(here[:, 0])
            scored = here[present]
            self._sum = self._sum + (scored if self._sequences is None else logits_here[present]).sum(axis=0)
            self._scored += len(scored)
            self._calls += np.bincount(scored.argmax(axis=1), minlength=self._classes)

    def finish(self) -> Iterator[Contig]:
        """Yield the sequences that are left, which have no further samples."""
        yield from self._ended()
        for counts in self._sources:
            self._start(counts)
            yield from self._ended()

    def _ended(self) -> Iterator[Contig]:
        if self._current is not None:
            yield self._contig(self._current)
            self._current = None

    def _start(self, counts: SourceCounts | None) -> None:
        self._current = counts
        self._left = 0 if counts is None else counts.samples
        self._sum = np.zeros(1)  # as wide as what is added
        self._calls: NDArray[np.int64] = np.zeros(self._classes, np.int64)
        self._scored = 0

    def _contig(self, counts: SourceCounts) -> Contig:
        if not self._scored:
            return Contig(counts, 0, None, 0.0)
        scores = self._sum / self._scored
        if self._sequences is not None:
            scores = self._sequences.probabilities(scores[None], np.array([self._scored]))[0]
        call = int(scores.argmax())
        return Contig(counts, self._scored, scores, min(float(scores[call]), float(self._calls[call] / self._scored)))


class ContigTable:
    """Writes `contigs.tsv`, the header at once."""

    def __init__(self, stream: BinaryIO, labels: Sequence[str]) -> None:
        self._stream = stream
        self._labels = labels
        names = (
            "source",
            "length",
            "chunks",
            "samples",
            *(f"score_{cell(label)}" for label in labels),
            "call",
            "confidence",
        )
        stream.write(("\t".join(names) + "\n").encode())

    def write(self, contigs: Iterable[Contig]) -> None:
        """Append rows."""
        self._stream.write("".join([f"{self._row(contig)}\n" for contig in contigs]).encode())

    def _row(self, contig: Contig) -> str:
        counts = contig.counts
        facts: list[Any] = [cell(counts.source), counts.length_bases, counts.chunks, counts.samples]
        if contig.scores is None:
            facts += [""] * len(self._labels) + [why_unscored(counts), ""]
        else:
            facts += [f"{number:.6f}" for number in contig.scores.tolist()]
            facts += [cell(self._labels[contig.call]), f"{contig.confidence:.6f}"]
        return "\t".join(map(str, facts))


def why_unscored(counts: SourceCounts) -> str:
    """Say why a sequence has no call: why its chunks were dropped."""
    if counts.samples:
        return "no vector"
    return ", ".join(counts.dropped) or "no open frame"
