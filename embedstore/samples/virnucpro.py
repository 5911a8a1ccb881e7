"""Samples as `prediction.py` of Li-Jing-1997/VirNucPro (at 0f93f27) makes them, for those who must match its runs.

Where it differs from ours: chunks overlap more than they need to at the front and too little behind, so that the last
one may be short; codons with another letter than A, C, G, T are left out of the protein, which then is shorter than
its frame; the DNA of a frame has three bases for each residue that is left, and one more where the chunk has one; only
A, C, G, T are complemented; U is no T. Case does not matter, except that chunks are written as they were read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from embedstore.samples.frames import Frame
from embedstore.samples.sources import Source
from embedstore.samples.windows import Piece, Window
from embedstore.sequences.translation import CODON_BASES, FRAMES, UNKNOWN, SixFrames, Spans

_WHITESPACE = b" \t\r\n\v\f"
_COMPLEMENTS = bytes.maketrans(b"ACGT", b"TGCA")
_STRAND_LETTERS = {"+": "F", "-": "R"}
_LINE_LETTERS = 60


def as_read_by_virnucpro(source: Source) -> Source:
    """Return the source with the letters that VirNucPro would translate, and `raw` without blanks."""
    bare = source.raw.translate(None, _WHITESPACE)
    return replace(source, letters=bare.upper(), raw=bare)


def virnucpro_frames(window: Window, frames: SixFrames, spans: Spans, is_sample: NDArray[np.bool_]) -> Iterator[Frame]:
    """Give the frames that are samples, named `RECORD_chunk_NUMBER` and F1 to R3, chunk by chunk.

    Parameters
    ----------
    spans : (n, 6, 2) int64, in the window.
    is_sample : (n, 6) bool.
    """
    chunks, places = np.nonzero(is_sample)
    pieces = window.pieces_of_chunks[chunks]
    numbers = chunks - np.searchsorted(window.pieces_of_chunks, pieces)  # in the piece
    places_in_window = zip(spans[chunks, places].tolist(), window.bounds[chunks].tolist(), strict=True)
    rows = zip(pieces.tolist(), numbers.tolist(), places.tolist(), places_in_window, strict=True)
    for index, chunk, place, ((span_start, span_end), (chunk_start, chunk_end)) in rows:
        strand, number = FRAMES[place]
        piece, shift = window.pieces[index], window.shifts[index]
        protein = frames.protein(span_start, span_end, strand).replace(UNKNOWN, b"")
        bases = min(len(protein) * CODON_BASES + 1, chunk_end - chunk_start - (number - 1))
        start = chunk_start + number - 1 if strand == "+" else chunk_end - (number - 1) - bases
        letters = window.letters[start : start + bases]
        dna = letters if strand == "+" else letters.translate(_COMPLEMENTS)[::-1]
        suffix = f"_chunk_{piece.first_chunk + chunk + 1}{_STRAND_LETTERS[strand]}{number}"
        source = piece.source
        id_, name = source.id + suffix, source.record_id + suffix
        yield Frame(source, id_, name, start + shift, start + shift + bases, strand, number, dna, protein)


def chunk_records(piece: Piece) -> bytes:
    """Write the chunks of a piece as FASTA in lines of 60, in the case in which they were read."""
    lines = []
    for number, (start, end) in enumerate(piece.bounds.tolist(), start=piece.first_chunk + 1):
        lines.append(f">{piece.source.record_id}_chunk_{number}".encode())
        letters = piece.source.raw[start:end]
        lines += [letters[place : place + _LINE_LETTERS] for place in range(0, len(letters), _LINE_LETTERS)]
    return b"\n".join([*lines, b""])
