"""Cut sequences into chunks, and translate the six frames of many chunks at once.

Three bases at any place of a sequence are a codon of one of the frames. So every place is looked up once, in a table
of 125 codons (of A, C, G, T, and anything else), and once more in a table for the other strand. A frame of a chunk is
then every third of these residues, and whether it holds a stop depends on the positions of the stops. Chunks that
overlap, and their frames, share all of that.

Rules: a codon with any base but A, C, G, T is X, even where all its readings would give one residue. Codons that a
genetic code reads both as a stop and as a residue (codes 27, 28 and 31) are that residue, as in NCBI's and Biopython's
translations. Start codons are translated like any other.

Each way to cut is a function from (length of the sequence, length of a chunk) to an (n, 2) int64 array of half-open
bounds, in the order of the sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import InputError

FRAMES: tuple[tuple[str, int], ...] = (("+", 1), ("+", 2), ("+", 3), ("-", 1), ("-", 2), ("-", 3))
"""Strand and number of the six frames, in this order everywhere. Frame 1 of a strand begins at its first base."""

FRAMES_A_STRAND = 3
CODON_BASES = 3
STOP = b"*"
UNKNOWN = b"X"

Spans = NDArray[np.int64]
"""(n, 6, 2) int64: where the whole codons of each frame of n chunks lie, 0-based, half-open, on the forward strand."""

CODONS = tuple(first + second + third for first in "ACGTN" for second in "ACGTN" for third in "ACGTN")
"""The 125 codons in the order of all tables; N stands for any base but A, C, G, T."""

_BASES = "ACGT"
_CODES = bytes(_BASES.find(chr(code)) % 5 for code in range(256))  # all others: -1 % 5 = 4
_COMPLEMENTS = bytes.maketrans(b"ACGTRYSWKMBDHVN", b"TGCAYRSWMKVHDBN")


@dataclass(frozen=True, slots=True)
class GeneticCode:
    """A genetic code as two tables for `bytes.translate`.

    Attributes
    ----------
    number : NCBI's `transl_table`.
    forward : residue of the codon a b c, at place 25 a + 5 b + c.
    reverse : residue of its reverse complement, at the same place.
    """

    number: int
    name: str
    forward: bytes
    reverse: bytes


@cache
def genetic_code(number: int) -> GeneticCode:
    """Return one of NCBI's genetic codes.

    Raises
    ------
    InputError : there is none of that number.
    """
    from Bio.Data import CodonTable  # takes a tenth of a second, and only translation needs it

    tables = CodonTable.unambiguous_dna_by_id
    if number not in tables:
        known = ", ".join(map(str, sorted(tables)))
        raise InputError(f"Cannot translate with genetic code {number}: expected one of NCBI's, {known}.")
    table = tables[number]
    residues = {**dict.fromkeys(table.stop_codons, "*"), **table.forward_table}
    forward = "".join(residues.get(codon, "X") for codon in CODONS)
    reverse = "".join(residues.get(reverse_complement(codon.encode()).decode(), "X") for codon in CODONS)
    padding = bytes(256 - len(CODONS))
    return GeneticCode(number, str(table.names[0]), forward.encode() + padding, reverse.encode() + padding)


def same_code(one: int, other: int) -> bool:
    """Tell whether two codes translate every codon alike; they may differ in their start codons, as 1 and 11 do.

    Parameters
    ----------
    one : number of NCBI's `transl_table`; one that NCBI does not have equals only itself.
    other : the same.
    """
    try:
        return one == other or genetic_code(one).forward == genetic_code(other).forward
    except InputError:
        return False


def reverse_complement(dna: bytes) -> bytes:
    """Return the other strand of canonical DNA; IUPAC codes are complemented too (R and Y, K and M, B and V, …)."""
    return dna.translate(_COMPLEMENTS)[::-1]


def frame_spans(bounds: Bounds) -> Spans:
    """Return where the whole codons of the six frames of each chunk lie; a frame without any has start = end.

    Parameters
    ----------
    bounds : (n, 2) int64.
    """
    starts, ends = bounds[:, :1], bounds[:, 1:]  # (n, 1)
    skipped = np.arange(FRAMES_A_STRAND, dtype=np.int64)  # (3,) bases before the first codon
    lengths = np.maximum(ends - starts - skipped, 0) // CODON_BASES * CODON_BASES  # (n, 3)
    forward = np.stack([starts + skipped, starts + skipped + lengths], axis=2)  # (n, 3, 2)
    reverse = np.stack([ends - skipped - lengths, ends - skipped], axis=2)  # (n, 3, 2)
    return np.concatenate([forward, reverse], axis=1)


def base_codes(dna: bytes) -> NDArray[np.uint8]:
    """(l,) uint8: A, C, G and T of upper-case DNA as 0 to 3, anything else as 4."""
    return np.frombuffer(dna.translate(_CODES), dtype=np.uint8)


def codons_at_places(dna: bytes) -> NDArray[np.uint8]:
    """(l - 2,) uint8: which of `CODONS` begins at every place of upper-case DNA."""
    codes = base_codes(dna)
    found: NDArray[np.uint8] = 25 * codes[:-2] + 5 * codes[1:-1] + codes[2:]
    return found


def may_end(codon: bytes, number: int) -> bool:
    """Tell whether a codon may end a protein; those that are a residue elsewhere (codes 27, 28 and 31) may, too.

    Parameters
    ----------
    codon : three upper-case bases.
    number : of the genetic code.
    """
    from Bio.Data import CodonTable

    return codon.decode() in CodonTable.unambiguous_dna_by_id[number].stop_codons


def strands(dna: bytes, code: GeneticCode) -> tuple[bytes, bytes]:
    """Return the residues of the codons at every place of upper-case DNA, read forwards, and on the other strand."""
    codons = codons_at_places(dna).tobytes()
    return codons.translate(code.forward), codons.translate(code.reverse)


class SixFrames:
    """Both strands of a text of upper-case DNA, translated at every place.

    The text may be several sequences end to end: residues across their borders are never part of a frame of a chunk.
    """

    def __init__(self, dna: bytes, code: GeneticCode) -> None:
        self._strands = strands(dna, code)
        self._stops = tuple(_Marks(strand, STOP) for strand in self._strands)
        self._unknown = _Marks(self._strands[0], UNKNOWN)  # the same codons on both strands

    def open_frames(self, spans: Spans) -> NDArray[np.bool_]:
        """(n, 6) bool: which frames have a codon, and no stop among them."""
        stops = [
            marks.count(spans[:, strand * FRAMES_A_STRAND : (strand + 1) * FRAMES_A_STRAND])
            for strand, marks in enumerate(self._stops)
        ]
        is_open: NDArray[np.bool_] = (np.concatenate(stops, axis=1) == 0) & (spans[..., 1] > spans[..., 0])
        return is_open

    def known_frames(self, spans: Spans) -> NDArray[np.bool_]:
        """(n, 6) bool: which frames have a residue that is not X."""
        codons = (spans[..., 1] - spans[..., 0]) // CODON_BASES
        known: NDArray[np.bool_] = self._unknown.count(spans) < codons
        return known

    def protein(self, start: int, end: int, strand: str) -> bytes:
        """Return the residues of a span of whole codons."""
        if strand == "+":
            return self._strands[0][start : max(end - 2, start) : CODON_BASES]
        return self._strands[1][start : max(end - 2, start) : CODON_BASES][::-1]


class _Marks:
    """Places of one residue in a strand, ready to be counted within spans of whole codons."""

    def __init__(self, strand: bytes, residue: bytes) -> None:
        is_marked = np.frombuffer(strand, dtype=np.uint8) == ord(residue)
        # Codons of one frame lie three places apart: sorted by phase first, those of a span are neighbours.
        self._phase_size = len(strand) // CODON_BASES + 2
        self._places = np.concatenate(
            [np.flatnonzero(is_marked[phase::CODON_BASES]) + phase * self._phase_size for phase in range(CODON_BASES)]
        )

    def count(self, spans: Spans) -> NDArray[np.int64]:
        """(n, f) int64 for (n, f, 2) spans: how many of their codons are marked."""
        starts, ends = spans[..., 0], spans[..., 1]
        first = starts % CODON_BASES * self._phase_size + starts // CODON_BASES
        behind = first + (ends - starts) // CODON_BASES
        return np.searchsorted(self._places, behind) - np.searchsorted(self._places, first)


Bounds = NDArray[np.int64]
"""(n, 2) int64: start and end of each chunk, 0-based, half-open."""


def even_chunks(length_bases: int, chunk_bases: int) -> Bounds:
    """Cover a sequence evenly with as few chunks as possible.

    There are ceil(length / chunk) chunks, all exactly of the chunk length. The first begins where the sequence begins,
    the last ends where it ends, and neighbours overlap by the same number of bases, give or take one. A sequence that
    is shorter than a chunk is one short chunk; an empty one has none.
    """
    if length_bases <= chunk_bases:
        return np.array([[0, length_bases]] if length_bases else [], dtype=np.int64).reshape(-1, 2)
    count = -(-length_bases // chunk_bases)
    starts = np.arange(count, dtype=np.int64) * (length_bases - chunk_bases) // (count - 1)
    return np.stack([starts, starts + chunk_bases], axis=1)


def virnucpro_chunks(length_bases: int, chunk_bases: int) -> Bounds:
    """Cut as VirNucPro does: the same number of chunks, the surplus shared out among one chunk too many.

    Its overlap between neighbours is floor(surplus / n), where n - 1 neighbours share the surplus; what is left over is
    added by ones from the front, and whatever then remains makes the last chunk short (501 bases at 500: 500 and 251).
    """
    count = -(-length_bases // chunk_bases)
    if count < 2:
        return even_chunks(length_bases, chunk_bases)
    surplus_bases = count * chunk_bases - length_bases
    overlap_bases = surplus_bases // count
    longer_overlaps = surplus_bases - overlap_bases * (count - 1)
    place = np.arange(count, dtype=np.int64)
    starts = place * (chunk_bases - overlap_bases) - np.minimum(place, longer_overlaps)
    return np.stack([starts, np.minimum(starts + chunk_bases, length_bases)], axis=1)
