"""The frames of a window's chunks that become samples, with their DNA and their protein."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedstore.samples.sources import Source
from embedstore.samples.windows import Window
from embedstore.sequences.translation import FRAMES, SixFrames, Spans, reverse_complement


class Frame(NamedTuple):
    """A frame of a chunk that becomes a sample.

    Attributes
    ----------
    id : of the sample. name : of its sequences in FASTA.
    start, end : of its DNA in the source, 0-based, half-open, on the forward strand.
    """

    source: Source
    id: str
    name: str
    start: int
    end: int
    strand: str
    number: int
    dna: bytes
    protein: bytes


def stop_free_frames(window: Window, frames: SixFrames, spans: Spans, is_sample: NDArray[np.bool_]) -> Iterator[Frame]:
    """Give the frames that are samples, named `SOURCE:START-END:STRANDFRAME`, chunk by chunk.

    Their DNA is exactly the codons of their protein, on the frame's strand.

    Parameters
    ----------
    spans : (n, 6, 2) int64, in the window.
    is_sample : (n, 6) bool.
    """
    chunks, places = np.nonzero(is_sample)
    pieces = window.pieces_of_chunks[chunks].tolist()
    for piece, (start, end), place in zip(pieces, spans[chunks, places].tolist(), places.tolist(), strict=True):
        strand, number = FRAMES[place]
        source, shift = window.pieces[piece].source, window.shifts[piece]
        letters = window.letters[start:end]
        dna = letters if strand == "+" else reverse_complement(letters)
        id_ = f"{source.id}:{start + shift + 1}-{end + shift}:{strand}{number}"
        protein = frames.protein(start, end, strand)
        yield Frame(source, id_, id_, start + shift, end + shift, strand, number, dna, protein)
