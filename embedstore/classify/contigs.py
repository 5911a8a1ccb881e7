"""From the scores of samples to one row a sequence: its score, call, how sure it is, or why there is no call.

The score of a sequence is calibrated from the mean logit of its samples and their number (`calibration`); with a
classifier that has no calibration of sequences it is the mean of the scores of its samples. What it is called is
decided once all have a score (`calling`).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from embedstore.atomic import cell
from embedstore.classify.averaging import AveragedSequences
from embedstore.classify.calibration import Chunks, SequenceCalibration
from embedstore.classify.calling import UNCALLED, Called, Calling
from embedstore.classify.metrics import Floats, Probabilities


class SourceCounts(NamedTuple):
    """What was cut from one sequence.

    Attributes
    ----------
    dropped : reasons why chunks gave no sample -> how many.
    closed : chunks without an open frame whose DNA is scored, as the sequence has no sample.
    known_as : the group that the classifier knows the sequence by; "" if it does not.
    """

    source: str
    length_bases: int
    chunks: int
    samples: int
    dropped: dict[str, int]
    closed: int = 0
    known_as: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Contig:
    """One sequence and its scores.

    Attributes
    ----------
    scored : how many of its samples have a score.
    scores : (classes,) of the sequence; None if none of its samples has one.
    shares : (classes,) of its samples that are called so themselves.
    from_dna : the scores are those of its chunks, none of which has an open frame; see `fallback`.
    call : place of the class that it is called; -1: none.
    """

    counts: SourceCounts
    scored: int
    scores: NDArray[np.float64] | None
    shares: NDArray[np.float64]
    from_dna: bool = False
    call: int = -1

    @property
    def confidence(self) -> float:
        """The smaller of the score of the call and of the share of samples that are called so; 0 without a call."""
        if self.scores is None or self.call < 0:
            return 0.0
        return float(min(self.scores[self.call], self.shares[self.call]))

    def outcome(self, labels: Sequence[str]) -> str:
        """Its call, or why it has none."""
        if self.scores is None:
            return why_unscored(self.counts)
        return labels[self.call] if self.call >= 0 else UNCALLED


class Along(Protocol):
    """Takes the scored samples of sequences, one sequence after the other."""

    def add(self, starts: NDArray[np.int64], scores: Probabilities, logits: Floats) -> None: ...

    def end(self, counts: SourceCounts) -> None: ...


class ContigGatherer:
    """Gathers the scores of samples, which come in the order of their sources, sequence by sequence.

    Parameters
    ----------
    sources : in the order of the samples; each says how many of them are its own.
    sequences : calibration of sequences, of one classifier or of several; None: the scores of samples are averaged.
    along : is told the scored samples of each sequence, and where it ends.
    """

    def __init__(
        self,
        sources: Iterable[SourceCounts],
        classes: int,
        sequences: SequenceCalibration | AveragedSequences | None = None,
        along: Along | None = None,
    ) -> None:
        self._sources = iter(sources)
        self._classes = classes
        self._sequences = sequences
        self._along = along
        self._current: SourceCounts | None = None
        self._sum: Floats = np.zeros(1)
        self._left = 0
        self._start(None)

    def add(self, scores: Probabilities, logits: Floats, starts: NDArray[np.int64]) -> Iterator[Contig]:
        """Add the scores and logits of more samples, NaN where a sample has none; yield sequences that are complete.

        Parameters
        ----------
        starts : (n,) first base of each sample, 1-based.
        """
        while len(scores):
            while self._current is None or not self._left:
                yield from self._ended()
                self._start(next(self._sources))
            here, scores = scores[: self._left], scores[self._left :]
            logits_here, logits = logits[: self._left], logits[self._left :]
            starts_here, starts = starts[: self._left], starts[self._left :]
            self._left -= len(here)
            present = ~np.isnan(here[:, 0])
            scored = here[present]
            self._sum = self._sum + (scored if self._sequences is None else logits_here[present]).sum(axis=0)
            self._scored += len(scored)
            self._calls += np.bincount(scored.argmax(axis=1), minlength=self._classes)
            if self._along is not None:
                self._along.add(starts_here[present], scored, logits_here[present])

    def finish(self) -> Iterator[Contig]:
        """Yield the sequences that are left, which have no further samples."""
        yield from self._ended()
        for counts in self._sources:
            self._start(counts)
            yield from self._ended()

    def _ended(self) -> Iterator[Contig]:
        if self._current is not None:
            if self._along is not None:
                self._along.end(self._current)
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
            return Contig(counts, 0, None, np.zeros(self._classes))
        scores = self._sum / self._scored
        if self._sequences is not None:
            opened = counts.chunks - sum(counts.dropped.values())
            chunks = Chunks(np.array([counts.chunks]), np.array([opened]))
            scores = self._sequences.probabilities(scores[None], np.array([self._scored]), chunks)[0]
        return Contig(counts, self._scored, scores, self._calls / self._scored)


class HeldContigs:
    """Holds scored sequences in a file until all of them are there, since what is called may depend on all scores.

    Parameters
    ----------
    path : of the file; it gets 16 bytes a class and 16 more for each sequence.
    calling : how they are called. Where that depends on all scores, those of the class that is looked for are in
        memory, 8 bytes each.
    """

    def __init__(self, path: Path, calling: Calling) -> None:
        self._path = path
        self._calling = calling
        self._scores = array("d")
        self._threshold: float | None = None
        self._called = 0
        self._expected_false = 0.0

    def add(self, contigs: Iterable[Contig]) -> None:
        """Append sequences."""
        positive = self._calling.positive
        with self._path.open("ab") as file:
            for contig in contigs:
                scores = np.full(len(contig.shares), np.nan)
                if contig.scores is not None:
                    scores = self._calling.moved(contig.scores)
                    if self._calling.fdr is not None and positive is not None:
                        self._scores.append(float(scores[positive]))
                file.write(np.concatenate([[contig.scored, contig.from_dna], scores, contig.shares]).tobytes())

    def called(self, sources: Iterable[SourceCounts], classes: int) -> Iterator[Contig]:
        """Yield all with their calls.

        Parameters
        ----------
        sources : in the order of the sequences.
        """
        self._threshold = self._calling.threshold(np.array(self._scores))
        with self._path.open("rb") as file:
            for counts in sources:
                row = np.frombuffer(file.read(8 * (2 + 2 * classes)), np.float64)
                scores, shares = row[2 : classes + 2], row[classes + 2 :]
                if np.isnan(scores[0]):
                    yield Contig(counts, 0, None, shares)
                    continue
                call = self._calling.call(scores, self._threshold)
                if call == self._calling.positive:
                    self._called += 1
                    self._expected_false += 1 - float(scores[call])
                yield Contig(counts, int(row[0]), scores, shares, bool(row[1]), call)

    def outcome(self, labels: Sequence[str]) -> Called:
        """What became of all of them."""
        positive = self._calling.positive
        label = None if positive is None else labels[positive]
        return Called(label, self._calling, self._threshold, self._called, self._expected_false)


class ContigTable:
    """Writes `contigs.tsv`, the header at once.

    Parameters
    ----------
    says_from : add the column `from`, which says of each call what it is from: "samples" or "dna".
    with_known : add the column `known_as`.
    """

    def __init__(
        self, stream: BinaryIO, labels: Sequence[str], *, says_from: bool = False, with_known: bool = False
    ) -> None:
        self._stream = stream
        self._labels = labels
        self._says_from = says_from
        self._with_known = with_known
        names = (
            "source",
            "length",
            "chunks",
            "samples",
            *(f"score_{cell(label)}" for label in labels),
            "call",
            "confidence",
            *(("from",) if says_from else ()),
            *(["known_as"] if with_known else []),
        )
        stream.write(("\t".join(names) + "\n").encode())

    def write(self, contigs: Iterable[Contig]) -> None:
        """Append rows."""
        self._stream.write("".join([f"{self._row(contig)}\n" for contig in contigs]).encode())

    def _row(self, contig: Contig) -> str:
        counts = contig.counts
        facts: list[Any] = [cell(counts.source), counts.length_bases, counts.chunks, counts.samples]
        if contig.scores is None:
            facts += [""] * len(self._labels) + [contig.outcome(self._labels), ""]
        else:
            facts += [f"{number:.6f}" for number in contig.scores.tolist()]
            facts += [cell(contig.outcome(self._labels)), f"{contig.confidence:.6f}" if contig.call >= 0 else ""]
        if self._says_from:
            facts.append("" if contig.scores is None else "dna" if contig.from_dna else "samples")
        if self._with_known:
            facts.append(cell(counts.known_as))
        return "\t".join(map(str, facts))


def why_unscored(counts: SourceCounts) -> str:
    """Say why a sequence has no call: why its chunks were dropped."""
    if counts.samples:
        return "no vector"
    return ", ".join(counts.dropped) or "no open frame"
