"""Windows: chunks of one long source, or of many short ones, that are translated at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore.samples.options import PrepareOptions
from embedstore.samples.sources import Source
from embedstore.sequences.chunking import Bounds

WINDOW_BASES = 1 << 19
"""Small enough that tables of a few bytes a base stay in the processor's cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Consecutive chunks of one source.

    Attributes
    ----------
    bounds : (k, 2) int64, in the source.
    first_chunk : number of the first of them in the source, from 0.
    is_last : the source's last chunk is among them.
    """

    source: Source
    bounds: Bounds
    first_chunk: int
    is_last: bool

    @property
    def start(self) -> int:
        """Where its letters begin in the source."""
        return int(self.bounds[0, 0])

    @property
    def letters(self) -> bytes:
        """What its chunks cover."""
        return self.source.letters[self.start : int(self.bounds[-1, 1])]


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Pieces end to end.

    Attributes
    ----------
    letters : of all pieces.
    bounds : (n, 2) int64, of all chunks in `letters`.
    pieces_of_chunks : (n,) int64, which piece each chunk is from.
    shifts : place in the source less place in `letters`, one a piece.
    """

    pieces: tuple[Piece, ...]
    letters: bytes
    bounds: Bounds
    pieces_of_chunks: NDArray[np.int64]
    shifts: tuple[int, ...]


def windows(sources: Iterable[Source], options: PrepareOptions) -> Iterator[Window]:
    """Cut sources into chunks and gather these to windows of about `WINDOW_BASES`, in order."""
    gathered: list[Piece] = []
    bases = 0
    for source in sources:
        for piece in _pieces(source, options):
            gathered.append(piece)
            bases += int(piece.bounds[-1, 1]) - piece.start
            if bases >= WINDOW_BASES:
                yield _window(gathered)
                gathered, bases = [], 0
    if gathered:
        yield _window(gathered)


def _pieces(source: Source, options: PrepareOptions) -> Iterator[Piece]:
    bounds = options.cut(len(source.letters), options.length_bases)
    chunks_at_once = max(1, WINDOW_BASES // options.length_bases)
    for first in range(0, len(bounds), chunks_at_once):
        behind = first + chunks_at_once
        yield Piece(source, bounds[first:behind], first, is_last=behind >= len(bounds))


def _window(pieces: list[Piece]) -> Window:
    letters = [piece.letters for piece in pieces]
    ends = np.cumsum([len(part) for part in letters])
    places = [int(end) - len(part) for end, part in zip(ends, letters, strict=True)]
    shifts = tuple(piece.start - place for piece, place in zip(pieces, places, strict=True))
    bounds = [piece.bounds - shift for piece, shift in zip(pieces, shifts, strict=True)]
    which = np.repeat(np.arange(len(pieces)), [len(piece.bounds) for piece in pieces])
    return Window(tuple(pieces), b"".join(letters), np.concatenate(bounds), which, shifts)
