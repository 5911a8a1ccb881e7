"""Scores along a sequence, and its parts of one call, which in a long contig may be a prophage.

Every chunk is scored as `predict` scores a sequence: from the mean logit of its frames and their number. Chunks without
a score are gaps.

*Segments.* The chunks of a sequence are divided so that the log likelihood of the parts' calls, less `PENALTY` for each
change, is highest; a call's log likelihood is the sum of the logarithms of its scores, chunk by chunk. That is optimal
partitioning with one known parameter for each call, found exactly by dynamic programming in one pass (Viterbi), so that
long sequences take no longer a chunk. A part is an indication and no more: chunks of a host that look like a virus, one
after the other, make one too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from embedstore.atomic import cell
from embedstore.classify.averaging import AveragedSequences
from embedstore.classify.calibration import SequenceCalibration
from embedstore.classify.contigs import SourceCounts
from embedstore.classify.metrics import Classes, Floats, Probabilities
from embedstore.sequences.translation import Bounds

TRACK_NAME = "scores.bedgraph"
SEGMENTS_NAME = "segments.tsv"

PENALTY = 10.0
"""How much the log likelihood must gain from each change of the call along a sequence."""


def segments(log_scores: Floats, penalty: float = PENALTY) -> list[tuple[int, int, int]]:
    """Divide the chunks of a sequence into parts of one call.

    Parameters
    ----------
    log_scores : (n, classes), of each chunk in order.
    penalty : for each change.

    Returns
    -------
    First chunk, chunk behind the last, and class of each part.
    """
    best = [0.0] * log_scores.shape[1]
    came_from: list[list[int]] = []
    for row in log_scores.tolist():
        highest = max(best)
        other = best.index(highest)
        came_from.append([place if kept >= highest - penalty else other for place, kept in enumerate(best)])
        best = [max(kept, highest - penalty) + gain for kept, gain in zip(best, row, strict=True)]
    call = best.index(max(best))
    found = []
    behind = len(came_from)
    for first in range(len(came_from) - 1, -1, -1):
        before = came_from[first][call] if first else -1
        if before != call:
            found.append((first, behind, call))
            behind, call = first, before
    return found[::-1]


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """Scored samples of the current sequence: (n,) first bases, 0-based; (n, classes) scores and logits."""

    starts: NDArray[np.int64]
    scores: Probabilities
    logits: Floats


class Track:
    """Writes `scores.bedgraph` and `segments.tsv`, sequence by sequence.

    Parameters
    ----------
    create : opens a file of a name.
    positive : place of the class whose score is written.
    cut : tells where a sequence of a length is cut into chunks.
    sequences : calibration of sequences; None: the scores of samples are averaged.
    """

    def __init__(
        self,
        create: Callable[[str], BinaryIO],
        labels: Sequence[str],
        positive: int,
        cut: Callable[[int], Bounds],
        sequences: SequenceCalibration | AveragedSequences | None,
    ) -> None:
        self._track, self._segments = create(TRACK_NAME), create(SEGMENTS_NAME)
        self._labels = [cell(label) for label in labels]
        self._positive = positive
        self._cut = cut
        self._sequences = sequences
        self._pieces: list[_Piece] = []
        self._segments.write(f"source\tstart\tend\tcall\tmean_score_{self._labels[positive]}\tchunks\n".encode())

    def add(self, starts: NDArray[np.int64], scores: Probabilities, logits: Floats) -> None:
        """Add scored samples of the current sequence.

        Parameters
        ----------
        starts : (n,) first base of each, 1-based.
        """
        self._pieces.append(_Piece(starts - 1, scores, logits))

    def end(self, counts: SourceCounts) -> None:
        """Write the current sequence."""
        pieces, self._pieces = self._pieces, []
        if not sum(len(piece.starts) for piece in pieces):
            return
        bounds = self._cut(counts.length_bases)
        starts = np.concatenate([piece.starts for piece in pieces])
        chunks = np.searchsorted(bounds[:, 0], starts, side="right") - 1
        present, members, samples = np.unique(chunks, return_inverse=True, return_counts=True)
        means = np.zeros((len(present), len(self._labels)))
        np.add.at(
            means, members, np.concatenate([one.scores if self._sequences is None else one.logits for one in pieces])
        )
        means /= samples[:, None]
        scores = means if self._sequences is None else self._sequences.probabilities(means, samples)
        self._write(cell(counts.source), self._without_overlaps(bounds)[present], scores)

    @staticmethod
    def _without_overlaps(bounds: Bounds) -> Bounds:
        """End each chunk where the next one begins."""
        found = bounds.copy()
        found[:-1, 1] = np.minimum(bounds[:-1, 1], bounds[1:, 0])
        return found

    def _write(self, name: str, bounds: Bounds, scores: Probabilities) -> None:
        numbers: Classes | Floats = scores[:, self._positive]
        rows = zip(bounds.tolist(), numbers.tolist(), strict=True)
        self._track.write("".join([f"{name}\t{start}\t{end}\t{one:.6f}\n" for (start, end), one in rows]).encode())
        log_scores = np.log(np.maximum(scores, np.finfo(np.float64).tiny))
        for first, behind, call in segments(log_scores):
            start, end = bounds[first, 0] + 1, bounds[behind - 1, 1]
            mean = numbers[first:behind].mean()
            self._segments.write(
                f"{name}\t{start}\t{end}\t{self._labels[call]}\t{mean:.6f}\t{behind - first}\n".encode()
            )
