"""Sketches of sequences, to find near-duplicates and relatives: FracMinHash, as in sourmash, with the same hashes.

    sequences ─▶ canonical k-mers, two bits a base ─▶ MurmurHash3 ─▶ the hashes below 2^64 / scaled ─▶ sorted, distinct

A k-mer is in the sketch of every sequence that has it, or of none, so that the share of a sketch that another one has
estimates the share of k-mers, the containment (Irber et al., 2022). K-mers of DNA find near-duplicates; those of its
six frames, as residues, find relatives whose DNA has changed.

K-mers are hashed as sourmash does (MurmurHash3 x64 128 with seed 42, its first 64 bits, of upper-case ASCII, of the
lesser of both strands), so that sketches can be compared with its own. K-mers that have, or are translated from,
another base than A, C, G or T are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import InputError
from embedstore.sequences.translation import FRAMES_A_STRAND, base_codes, genetic_code, strands

Hashes = NDArray[np.uint64]
"""(n,) uint64, sorted and distinct."""

SketchKind = Literal["dna", "protein"]

MAX_K_BASES = 32
"""Two bits a base are one number of 64 bits; sourmash's usual k are 21 and 31."""
MAX_K_RESIDUES = 16

_SEED = 42
_MULTIPLIERS = (np.uint64(0x87C37B91114253D5), np.uint64(0x4CF5AD432745937F))
_FINAL_MULTIPLIERS = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))
_PIECE_BASES = 1 << 14
"""K-mers that are hashed at once: arrays that stay in a processor's cache."""
_PAIR_BLOCK = 512
"""Sketches that are compared with all others at once."""


@dataclass(frozen=True, slots=True)
class SketchOptions:
    """What is kept of a sequence.

    Attributes
    ----------
    kind : k-mers of the DNA, or of the residues of its six frames.
    k : bases of a k-mer, at most 32, or residues, at most 16.
    scaled : one k-mer of so many is kept.
    code : NCBI's number of the genetic code, for residues.

    Raises
    ------
    InputError : a value is out of its range.
    """

    kind: SketchKind = "dna"
    k: int = 21
    scaled: int = 100
    code: int = 11

    def __post_init__(self) -> None:
        most = MAX_K_BASES if self.kind == "dna" else MAX_K_RESIDUES
        if not 1 <= self.k <= most:
            raise InputError(f"Cannot sketch: expected k-mers of 1 to {most} {self.kind} symbols, found k = {self.k}.")
        if self.scaled < 1:
            raise InputError(f"Cannot sketch: expected to keep one k-mer of 1 or more, found scaled = {self.scaled}.")

    @property
    def max_hash(self) -> int:
        """The greatest hash that is kept, as sourmash has it."""
        return round((2**64 - 1) / self.scaled) if self.scaled > 1 else 2**64 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Sketches:
    """Sketches of several sources, by the same options.

    Attributes
    ----------
    names : of the sources.
    hashes : (h,) uint64. One source after the other, each sorted and distinct.
    starts : (n + 1,) int64. Where the hashes of each source begin.
    """

    options: SketchOptions
    names: tuple[str, ...]
    hashes: Hashes
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, options: SketchOptions, names: Sequence[str], each: Sequence[Hashes]) -> Self:
        """Put the sketches of sources one after the other."""
        starts = np.cumsum([0, *map(len, each)]).astype(np.int64)
        return cls(options, tuple(names), np.concatenate([*each, np.empty(0, np.uint64)]), starts)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(n,) int64: hashes of each source."""
        sizes: NDArray[np.int64] = np.diff(self.starts)
        return sizes


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sources that share k-mers.

    Attributes
    ----------
    first, second : places of the sources.
    shared : hashes that both have.
    containment : share of the smaller sketch that the other one has, 0 to 1.
    """

    first: int
    second: int
    shared: int
    containment: float


def sketch_sources(
    sources: Iterable[tuple[str, Sequence[bytes]]], options: SketchOptions, *, threads: int = 2
) -> Sketches:
    """Sketch sources, each of one or more sequences.

    Parameters
    ----------
    sources : name and canonical DNA sequences (upper case) of each; read lazily, a few ahead.
    threads : sources that are sketched at once.
    """
    names: list[str] = []
    found: list[Hashes] = []
    with ThreadPoolExecutor(threads) as pool:
        for name, hashes in _ahead(pool, partial(sketch, options=options), sources, 4 * threads):
            names.append(name)
            found.append(hashes)
    return Sketches.of(options, names, found)


def _ahead(
    pool: ThreadPoolExecutor,
    work: Callable[[Sequence[bytes]], Hashes],
    sources: Iterable[tuple[str, Sequence[bytes]]],
    most: int,
) -> Iterator[tuple[str, Hashes]]:
    waiting: list[tuple[str, Any]] = []
    for name, sequences in sources:
        waiting.append((name, pool.submit(work, sequences)))
        if len(waiting) >= most:
            first, result = waiting.pop(0)
            yield first, result.result()
    for name, result in waiting:
        yield name, result.result()


def sketch(sequences: Iterable[bytes], options: SketchOptions) -> Hashes:
    """Sketch sequences as one source.

    Parameters
    ----------
    sequences : canonical DNA, upper case.
    """
    kept = [
        hashes
        for sequence in sequences
        for hashes in (_dna_hashes(sequence, options) if options.kind == "dna" else _protein_hashes(sequence, options))
    ]
    return np.unique(np.concatenate([*kept, np.empty(0, np.uint64)]))


def shared_pairs(sketches: Sketches, threshold: float, others: Sketches | None = None) -> list[Pair]:
    """Find the pairs whose containment reaches a threshold, by place.

    Parameters
    ----------
    threshold : least share of the smaller sketch, above 0, at most 1.
    others : sketches to compare with; None: each two of `sketches`, the lesser place first.

    Raises
    ------
    InputError : the sketches were made by different options.
    """
    from scipy.sparse import csr_array, triu

    if others is not None and others.options != sketches.options:
        raise InputError(f"Cannot compare sketches: expected {sketches.options}, found {others.options}.")
    known = sketches.hashes if others is None else np.concatenate([sketches.hashes, others.hashes])
    columns = np.unique(known)

    def matrix(some: Sketches) -> csr_array:
        ones = np.ones(len(some.hashes), np.int32)
        places = np.searchsorted(columns, some.hashes)
        return csr_array((ones, places, some.starts), shape=(len(some), len(columns)))

    rows, across = matrix(sketches), matrix(sketches if others is None else others).T.tocsr()
    sizes, other_sizes = sketches.sizes, (sketches if others is None else others).sizes
    pairs: list[Pair] = []
    for start in range(0, len(sketches), _PAIR_BLOCK):
        counts = rows[start : start + _PAIR_BLOCK] @ across
        if others is None:
            counts = triu(counts, k=start + 1)
        counts = counts.tocoo()
        first, second, shared = counts.row + start, counts.col, counts.data
        containments = shared / np.minimum(sizes[first], other_sizes[second])
        near = np.flatnonzero(containments >= threshold)
        found = zip(*(values[near].tolist() for values in (first, second, shared, containments)), strict=True)
        pairs += [Pair(*pair) for pair in found]
    return sorted(pairs, key=lambda pair: (pair.first, pair.second))


def _dna_hashes(sequence: bytes, options: SketchOptions) -> Iterator[Hashes]:
    """Yield the kept hashes of the canonical k-mers of a sequence, piece by piece."""
    codes = base_codes(sequence)
    k = options.k
    for start in range(0, len(codes) - k + 1, _PIECE_BASES):
        piece = codes[start : start + _PIECE_BASES + k - 1]
        forward = _packed(piece, k)
        reverse = _packed((3 - piece)[::-1], k)[::-1]  # 4, no base, becomes 255: those k-mers are left out
        kmers = np.minimum(forward, reverse)
        hashes = _hashed(_ascii(kmers, k), k)
        is_kept = hashes <= np.uint64(options.max_hash)
        is_kept &= _is_known(piece, k)
        yield hashes[is_kept]


def _is_known(codes: NDArray[np.uint8], k: int) -> NDArray[np.bool_] | np.bool_:
    """(n - k + 1,) bool: which k-mers have bases A, C, G and T only."""
    unknown = codes > 3
    if not unknown.any():
        return np.True_
    before = np.concatenate([[0], np.cumsum(unknown)])
    known: NDArray[np.bool_] = before[k:] == before[:-k]
    return known


def _packed(codes: NDArray[np.uint8], k: int) -> NDArray[np.uint64]:
    """(n - k + 1,) uint64: each k-mer with two bits a base, its first base highest; by doubling.

    Of a k-mer with no base (a code above 3) it is some number.
    """
    power, width = codes.astype(np.uint64) & np.uint64(3), 1  # k-mers of 1, 2, 4, … bases
    packed, done = np.zeros(len(codes) + 1, np.uint64), 0
    while True:
        if k & width:  # these bases go in front of those that are packed already
            packed = (power[: len(power) - done] << np.uint64(2 * done)) | packed[width:]
            done |= width
        if done == k:
            return packed
        power = (power[:-width] << np.uint64(2 * width)) | power[width:]
        width *= 2


@cache
def _eight_bases() -> NDArray[np.uint64]:
    """(65536,) uint64: eight bases of two bits each, as little-endian ASCII."""
    numbers = np.arange(1 << 16, dtype=np.uint32)
    bases = np.frombuffer(b"ACGT", np.uint8)
    text = np.stack([bases[numbers >> (14 - 2 * place) & 3] for place in range(8)], axis=1)
    return np.ascontiguousarray(text).view("<u8")[:, 0]


def _ascii(kmers: NDArray[np.uint64], k: int) -> list[NDArray[np.uint64]]:
    """Return the words of eight bases of k-mers, the last one filled up with zero bytes."""
    table, words = _eight_bases(), []
    for start in range(0, k, 8):
        width = min(8, k - start)
        shift = 2 * (k - start - width)
        bases = (kmers >> np.uint64(shift)) & np.uint64((1 << 2 * width) - 1)
        word = table[(bases << np.uint64(16 - 2 * width)).astype(np.uint16)]
        words.append(word & np.uint64((1 << 8 * width) - 1) if width < 8 else word)
    return words


def _protein_hashes(sequence: bytes, options: SketchOptions) -> Iterator[Hashes]:
    """Yield the kept hashes of the residue k-mers of the six frames, without those that have an X."""
    forward, reverse = strands(sequence, genetic_code(options.code))
    for strand, first in product((forward, reverse[::-1]), range(FRAMES_A_STRAND)):
        residues = np.frombuffer(strand[first::FRAMES_A_STRAND], np.uint8)
        for start in range(0, len(residues) - options.k + 1, _PIECE_BASES):
            piece = residues[start : start + _PIECE_BASES + options.k - 1]
            hashes = _hashed(_residue_words(piece, options.k), options.k)
            is_kept = hashes <= np.uint64(options.max_hash)
            is_kept &= _is_known(np.where(piece == ord("X"), 4, 0).astype(np.uint8), options.k)
            yield hashes[is_kept]


def _residue_words(residues: NDArray[np.uint8], k: int) -> list[NDArray[np.uint64]]:
    count = len(residues) - k + 1
    wide = residues.astype(np.uint64)
    words = []
    for start in range(0, k, 8):
        word = np.zeros(count, np.uint64)
        for place in range(start, min(start + 8, k)):
            word |= wide[place : place + count] << np.uint64(8 * (place - start))
        words.append(word)
    return words


def _hashed(words: list[NDArray[np.uint64]], length: int) -> NDArray[np.uint64]:
    """First 64 bits of MurmurHash3 x64 128 of texts of `length` bytes, 1 to 32, that are given as words of eight."""
    first_multiplier, second_multiplier = _MULTIPLIERS
    h1 = np.full(len(words[0]), _SEED, np.uint64)
    h2 = h1.copy()
    for block in range(length // 16):
        h1 ^= _mixed(words[2 * block], first_multiplier, 31, second_multiplier)
        h1 = _rotated(h1, 27)
        h1 += h2
        h1 *= np.uint64(5)
        h1 += np.uint64(0x52DCE729)
        h2 ^= _mixed(words[2 * block + 1], second_multiplier, 33, first_multiplier)
        h2 = _rotated(h2, 31)
        h2 += h1
        h2 *= np.uint64(5)
        h2 += np.uint64(0x38495AB5)
    tail = words[length // 16 * 2 :]
    if length % 16 > 8:
        h2 ^= _mixed(tail[1], second_multiplier, 33, first_multiplier)
    if length % 16:
        h1 ^= _mixed(tail[0], first_multiplier, 31, second_multiplier)
    h1 ^= np.uint64(length)
    h2 ^= np.uint64(length)
    h1 += h2
    h2 += h1
    return _finished(h1) + _finished(h2)


def _mixed(word: NDArray[np.uint64], before: np.uint64, bits: int, after: np.uint64) -> NDArray[np.uint64]:
    mixed = _rotated(word * before, bits)
    mixed *= after
    return mixed


def _rotated(numbers: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    left = numbers << np.uint64(bits)
    left |= numbers >> np.uint64(64 - bits)
    return left


def _finished(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    for multiplier in _FINAL_MULTIPLIERS:
        numbers ^= numbers >> np.uint64(33)
        numbers *= multiplier
    numbers ^= numbers >> np.uint64(33)
    return numbers
