"""K-mers and their hashes, many at once: two bits a base, MurmurHash3 x64 128, as sourmash computes them.

K-mers are hashed as upper-case ASCII with seed 42, of which the first 64 bits count; of DNA the lesser of both strands.
K-mers that have, or are translated from, another base than A, C, G or T are left out. Functions go over a sequence
piece by piece, with arrays that stay in a processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from embedstore.sequences.translation import FRAMES_A_STRAND, base_codes, genetic_code, strands

Hashes = NDArray[np.uint64]
"""(n,) uint64, sorted and distinct."""

_SEED = 42
_MULTIPLIERS = (np.uint64(0x87C37B91114253D5), np.uint64(0x4CF5AD432745937F))
_FINAL_MULTIPLIERS = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))
_PIECE_BASES = 1 << 14
"""K-mers that are hashed at once: arrays that stay in a processor's cache."""


Found = tuple[NDArray[np.int64], NDArray[np.uint64]]
"""(n,) where k-mers begin, and (n,) their hashes."""


def dna_hashes(sequence: bytes, k: int, greatest: int) -> Iterator[Found]:
    """Yield the hashes up to `greatest` of the canonical k-mers of a sequence, piece by piece."""
    codes = base_codes(sequence)
    for start in range(0, len(codes) - k + 1, _PIECE_BASES):
        piece = codes[start : start + _PIECE_BASES + k - 1]
        forward = _packed(piece, k)
        reverse = _packed((3 - piece)[::-1], k)[::-1]  # 4, no base, becomes 255: those k-mers are left out
        kmers = np.minimum(forward, reverse)
        hashes = _hashed(_ascii(kmers, k), k)
        is_kept = hashes <= np.uint64(greatest)
        is_kept &= _is_known(piece, k)
        places = np.flatnonzero(is_kept)
        yield places + start, hashes[places]


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


def frame_hashes(sequence: bytes, k: int, greatest: int, code: int) -> Iterator[Found]:
    """Yield the hashes up to `greatest` of the residue k-mers of the six frames, without those that have an X."""
    forward, reverse = strands(sequence, genetic_code(code))
    for strand, first in product((forward, reverse[::-1]), range(FRAMES_A_STRAND)):
        yield from residue_hashes(strand[first::FRAMES_A_STRAND], k, greatest)


def residue_hashes(protein: bytes, k: int, greatest: int) -> Iterator[Found]:
    """Yield the hashes up to `greatest` of the k-mers of residues, without those that have an X."""
    residues = np.frombuffer(protein, np.uint8)
    for start in range(0, len(residues) - k + 1, _PIECE_BASES):
        piece = residues[start : start + _PIECE_BASES + k - 1]
        hashes = _hashed(_residue_words(piece, k), k)
        is_kept = hashes <= np.uint64(greatest)
        is_kept &= _is_known(np.where(piece == ord("X"), 4, 0).astype(np.uint8), k)
        places = np.flatnonzero(is_kept)
        yield places + start, hashes[places]


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
