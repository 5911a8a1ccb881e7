"""The two built-in models: k-mer and residue composition of sequences. Nothing to download, numpy only.

`tnf`: canonical tetranucleotide frequencies, the usual baseline of metagenomic binning. Each 4-mer of a sequence is
counted together with its reverse complement, which leaves 136 of 256; they are in the alphabetical order of the smaller
of the two. A 4-mer with an ambiguous base is skipped. A row is counts divided by their sum.

`aac_dpc`: amino-acid composition (20) and dipeptide composition (400), the usual baseline of protein classification.
Amino acids are in the order of `AMINO_ACIDS`, pairs in the order of the first, then of the second. B J O U X Z are
skipped: they count neither as a residue nor as part of a pair. The first 20 values are counts divided by the number of
counted residues, the other 400 by the number of counted pairs (zeros where there is none).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from embedstore.identity import Recipe
from embedstore.models.checkpoint import Checkpoint
from embedstore.models.embedder import Embedded

AMINO_ACIDS = b"ACDEFGHIKLMNPQRSTVWY"
_RESIDUES = len(AMINO_ACIDS)
_PAIR_BASE = _RESIDUES + 1  # the last code is any residue that is skipped, and the border between sequences
_BORDER = b"\n"

_NUCLEOTIDES = b"ACGT"
_KMER_BASE = len(_NUCLEOTIDES) + 1  # the last code is any ambiguous base, and the border between sequences

_CHUNK_RESIDUES = 1 << 17  # counting works in the processor's cache


class CompositionEmbedder:
    """Embedder of `tnf` or `aac_dpc`."""

    pack_residues = 4_000_000
    workers = 1

    def __init__(self, recipe: Recipe, frequencies: Callable[[Sequence[bytes]], Embedded]) -> None:
        self.recipe = recipe
        self._frequencies = frequencies

    def embed(self, sequences: Sequence[bytes]) -> Embedded:
        """Count canonical sequences; (n, 136) or (n, 420) float32. One without anything to count is a failure."""
        vectors = np.empty((len(sequences), self.recipe.dim), dtype=np.float32)
        failures: dict[int, str] = {}
        for start, chunk in _chunks(sequences):
            part = self._frequencies(chunk)
            vectors[start : start + len(chunk)] = part.vectors
            failures.update({start + row: reason for row, reason in part.failures.items()})
        return Embedded(vectors, failures)


def load(recipe: Recipe, checkpoint: Checkpoint | None, device: str | None) -> CompositionEmbedder:
    """Return the embedder of `recipe.model`; there are no weights, and it runs on the processor only."""
    del checkpoint, device
    return CompositionEmbedder(recipe, {"tnf": tetranucleotides, "aac_dpc": residues_and_pairs}[recipe.model])


def tetranucleotides(sequences: Sequence[bytes]) -> Embedded:
    """Canonical tetranucleotide frequencies, (n, 136) float32."""
    codes = _codes(sequences, _NUCLEOTIDE_CODES)  # (residues,)
    kmers = ((codes[:-3] * _KMER_BASE + codes[1:-2]) * _KMER_BASE + codes[2:-1]) * _KMER_BASE + codes[3:]
    bins = _CANONICAL_BINS[kmers]  # (residues - 3,)
    counts = _count_rows(bins, sequences, _TNF_DIM + 1)[:, :_TNF_DIM]  # (n, 136)
    totals = counts.sum(axis=1)
    vectors = counts / np.maximum(totals, 1)[:, None]
    reason = "no four adjacent bases are all A, C, G or T"
    return Embedded(vectors.astype(np.float32), {int(row): reason for row in np.flatnonzero(totals == 0)})


def residues_and_pairs(sequences: Sequence[bytes]) -> Embedded:
    """Amino-acid and dipeptide composition, (n, 420) float32."""
    codes = _codes(sequences, _RESIDUE_CODES)  # (residues,)
    bins = codes[:-1] * _PAIR_BASE + codes[1:]  # (residues - 1,)
    counts = _count_rows(bins, sequences, _PAIR_BASE**2).astype(np.float32)
    counts = counts.reshape(-1, _PAIR_BASE, _PAIR_BASE)[:, :-1]  # (n, 20, 21)
    # A border follows every sequence, so that each residue is the first of exactly one pair.
    residues = counts @ np.ones(_PAIR_BASE, np.float32)  # (n, 20); exact, and faster than a sum over a short axis
    pairs = counts[:, :, :-1]  # (n, 20, 20)
    residue_totals = residues.sum(axis=1)  # (n,)
    pair_totals = residue_totals - counts[:, :, -1].sum(axis=1)  # (n,)
    vectors = np.empty((len(sequences), _RESIDUES + _RESIDUES**2), dtype=np.float32)
    np.divide(residues, np.maximum(residue_totals, 1)[:, None], out=vectors[:, :_RESIDUES])
    np.divide(
        pairs,
        np.maximum(pair_totals, 1)[:, None, None],
        out=vectors[:, _RESIDUES:].reshape(pairs.shape, copy=False),
    )
    reason = "no residue is one of the 20 amino acids"
    return Embedded(vectors, {int(row): reason for row in np.flatnonzero(residue_totals == 0)})


def _chunks(sequences: Sequence[bytes]) -> Iterator[tuple[int, Sequence[bytes]]]:
    """Consecutive sequences of about `_CHUNK_RESIDUES` together, each chunk with its first position."""
    start, residues = 0, 0
    for stop, sequence in enumerate(sequences, start=1):
        residues += len(sequence)
        if residues >= _CHUNK_RESIDUES or stop == len(sequences):
            yield start, sequences[start:stop]
            start, residues = stop, 0


def _codes(sequences: Sequence[bytes], table: bytes) -> NDArray[np.uint16]:
    """Code of each symbol, a border after each sequence, and more at the end so that each symbol begins a 4-mer."""
    symbols = _BORDER.join([*sequences, _BORDER * 3]).translate(table)
    return np.frombuffer(symbols, dtype=np.uint8).astype(np.uint16)


def _count_rows(bins: NDArray[np.uint16], sequences: Sequence[bytes], width: int) -> NDArray[np.intp]:
    """Histogram of each sequence, (n, width); `bins` has one entry for each symbol and border, perhaps more."""
    spans = np.fromiter(map(len, sequences), dtype=np.intp, count=len(sequences)) + len(_BORDER)
    flat = np.repeat(np.arange(len(sequences)) * width, spans)  # (symbols,)
    flat += bins[: len(flat)]
    return np.bincount(flat, minlength=len(sequences) * width).reshape(len(sequences), width)


def _table(symbols: bytes, other: int) -> bytes:
    """Table for `bytes.translate`: each symbol to its position, anything else to `other`."""
    table = bytearray([other] * 256)
    for code, symbol in enumerate(symbols):
        table[symbol] = code
    return bytes(table)


def _canonical_bins() -> NDArray[np.uint16]:
    """Bin of each of the 5^4 codes of a 4-mer: alphabetical, one for both strands, the last for ambiguity."""
    shape = (_KMER_BASE,) * 4
    symbols = np.array(np.unravel_index(np.arange(_KMER_BASE**4), shape))  # (4, 625)
    plain = (symbols < len(_NUCLEOTIDES)).all(axis=0)
    complements = np.where(symbols < len(_NUCLEOTIDES), len(_NUCLEOTIDES) - 1 - symbols, symbols)
    reverse_complements = np.ravel_multi_index(tuple(complements[::-1]), shape)  # (625,)
    smaller = np.minimum(np.arange(_KMER_BASE**4), reverse_complements)
    smaller[~plain] = _KMER_BASE**4
    return np.unique(smaller, return_inverse=True)[1].astype(np.uint16)


_RESIDUE_CODES = _table(AMINO_ACIDS, _RESIDUES)
_NUCLEOTIDE_CODES = _table(_NUCLEOTIDES, len(_NUCLEOTIDES))
_CANONICAL_BINS = _canonical_bins()
_TNF_DIM = int(_CANONICAL_BINS.max())
