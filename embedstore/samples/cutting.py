"""From windows to samples: which frames of which chunks, with their sequences and keys; and why others are none.

A frame becomes a sample if it has a codon, no stop, and a residue that is known. Its DNA is exactly the codons of its
protein, on its own strand. A chunk without such a frame is dropped and counted with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore.identity import canonical, key_array, sequence_key
from embedstore.samples.frames import Frame, stop_free_frames
from embedstore.samples.options import PrepareOptions
from embedstore.samples.sources import Source
from embedstore.samples.table import SampleBatch
from embedstore.samples.virnucpro import as_read_by_virnucpro, virnucpro_frames
from embedstore.samples.windows import Window, windows
from embedstore.sequences.translation import SixFrames, frame_spans

TOO_SHORT = "shorter than the minimal length"
ALL_N = "all N"
NO_OPEN_FRAME = "no open frame"
ALL_X = "only X in its open frames"

REASONS = (TOO_SHORT, ALL_N, NO_OPEN_FRAME, ALL_X)
"""Why a chunk gives no sample."""

_KEPT = len(REASONS)


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """What became of one source.

    Attributes
    ----------
    dropped : chunks by reason; reasons that did not occur are left out.
    """

    source: str
    group: str
    label: str
    length_bases: int
    chunks: int
    samples: int
    dropped: dict[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class CutSamples:
    """The samples of one window, and the sources that end in it.

    Attributes
    ----------
    table : their rows.
    frames : the same with their sequences, in the order of the rows.
    finished : summaries of the sources whose last chunk is in this window, with or without a sample.
    """

    window: Window
    table: SampleBatch
    frames: tuple[Frame, ...]
    finished: tuple[SourceSummary, ...]


def cut_samples(sources: Iterable[Source], options: PrepareOptions) -> Iterator[CutSamples]:
    """Cut sources into samples, a window at a time; memory is bounded by the longest source."""
    tally = _Tally()
    if options.compat == "virnucpro":
        sources = map(as_read_by_virnucpro, sources)
    for window in windows(sources, options):
        frames = SixFrames(window.letters, options.code)
        spans = frame_spans(window.bounds)
        is_open = frames.open_frames(spans)
        is_sample = is_open & frames.known_frames(spans)
        outcomes = _outcomes(window, options, is_open, is_sample)
        is_sample &= (outcomes == _KEPT)[:, np.newaxis]
        cut = virnucpro_frames if options.compat == "virnucpro" else stop_free_frames
        rows = tuple(cut(window, frames, spans, is_sample))
        finished = tally.add(window, outcomes, is_sample.sum(axis=1))
        yield CutSamples(window, _table(rows), rows, finished)


def _outcomes(
    window: Window, options: PrepareOptions, is_open: NDArray[np.bool_], is_sample: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """(n,) place of each chunk's reason in `REASONS`, or `_KEPT`; the first that holds."""
    places_of_n = np.flatnonzero(np.frombuffer(window.letters, dtype=np.uint8) == ord("N"))
    starts, ends = window.bounds[:, 0], window.bounds[:, 1]
    count_of_n = np.searchsorted(places_of_n, ends) - np.searchsorted(places_of_n, starts)
    conditions = [
        ends - starts < options.shortest_bases,
        count_of_n == ends - starts,
        ~is_open.any(axis=1),
        ~is_sample.any(axis=1),
    ]
    return np.select(conditions, list(range(len(REASONS))), default=_KEPT)


def _table(frames: Sequence[Frame]) -> SampleBatch:
    return SampleBatch(
        tuple([frame.id for frame in frames]),
        tuple([frame.source.id for frame in frames]),
        tuple([frame.source.group for frame in frames]),
        tuple([frame.source.label for frame in frames]),
        np.array([frame.start + 1 for frame in frames], dtype=np.int64),
        np.array([frame.end for frame in frames], dtype=np.int64),
        tuple([frame.strand for frame in frames]),
        np.array([frame.number for frame in frames], dtype=np.int64),
        key_array([sequence_key(canonical(frame.dna, "dna")) for frame in frames]),
        key_array([sequence_key(frame.protein) for frame in frames]),
    )


class _Tally:
    """Counts chunks and samples of sources whose chunks come in several windows."""

    def __init__(self) -> None:
        self._reset()

    def add(self, window: Window, outcomes: NDArray[np.int64], samples: NDArray[np.int64]) -> tuple[SourceSummary, ...]:
        """Take in one window's chunks; return the summaries of the sources that end in it."""
        count = len(window.pieces)
        places = window.pieces_of_chunks * (_KEPT + 1) + outcomes
        chunks = np.bincount(places, minlength=count * (_KEPT + 1)).reshape(count, _KEPT + 1)
        samples_of_pieces = np.bincount(window.pieces_of_chunks, weights=samples, minlength=count).astype(np.int64)
        finished = []
        for piece, piece_chunks, piece_samples in zip(window.pieces, chunks, samples_of_pieces.tolist(), strict=True):
            self._chunks += piece_chunks
            self._samples += piece_samples
            if piece.is_last:
                finished.append(self._finish(piece.source))
        return tuple(finished)

    def _finish(self, source: Source) -> SourceSummary:
        *dropped, kept = self._chunks.tolist()
        reasons = {reason: number for reason, number in zip(REASONS, dropped, strict=True) if number}
        chunks = kept + sum(dropped)
        summary = SourceSummary(
            source.id, source.group, source.label, len(source.letters), chunks, self._samples, reasons
        )
        self._reset()
        return summary

    def _reset(self) -> None:
        self._samples = 0
        self._chunks = np.zeros(_KEPT + 1, dtype=np.int64)
