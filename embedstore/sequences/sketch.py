"""Sketches of sequences, to find near-duplicates and relatives: FracMinHash, as in sourmash, with the same hashes.

    sequences ─▶ canonical k-mers, two bits a base ─▶ MurmurHash3 ─▶ the hashes below 2^64 / scaled ─▶ sorted, distinct

A k-mer is in the sketch of every sequence that has it, or of none, so that the share of a sketch that another one has
estimates the share of k-mers, the containment (Irber et al., 2022). K-mers of DNA find near-duplicates; those of
residues, of proteins or of the six frames, find relatives whose DNA has changed.

Short sources keep a larger share of their k-mers than long ones do (`scaled_for`), as a hundredth of a short one says
little. Two sources are compared by the lesser share: hashes that both have are below both limits anyway.

K-mers are hashed as sourmash does (`kmers`), so that sketches can be compared with its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import InputError
from embedstore.sequences.kmers import Found, Hashes, dna_hashes, frame_hashes, residue_hashes

SketchKind = Literal["dna", "protein", "residues"]

MAX_K_BASES = 32
"""Two bits a base are one number of 64 bits; sourmash's usual k are 21 and 31."""
MAX_K_RESIDUES = 16

_PAIR_BLOCK = 512
"""Sketches that are compared with all others at once."""
_LEVELS = (1, 10, 100, 1000, 10_000)
"""One k-mer of so many may be kept."""
_ENOUGH_HASHES = 2500
"""Of a source of which a larger share of the k-mers is kept."""


@dataclass(frozen=True, slots=True)
class SketchOptions:
    """What is kept of a sequence.

    Attributes
    ----------
    kind : k-mers of the DNA, of the residues of its six frames ("protein"), or of proteins ("residues").
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
    scaled : (n,) int64. One k-mer of so many is kept of each source.
    """

    options: SketchOptions
    names: tuple[str, ...]
    hashes: Hashes
    starts: NDArray[np.int64]
    scaled: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        options: SketchOptions,
        names: Sequence[str],
        each: Sequence[Hashes],
        scaled: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> Self:
        """Put the sketches of sources one after the other; `scaled` None: that of the options for all."""
        starts = np.cumsum([0, *map(len, each)]).astype(np.int64)
        found = np.full(len(each), options.scaled, np.int64) if scaled is None else np.asarray(scaled, np.int64)
        return cls(options, tuple(names), np.concatenate([*each, np.empty(0, np.uint64)]), starts, found)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(n,) int64: hashes of each source."""
        sizes: NDArray[np.int64] = np.diff(self.starts)
        return sizes

    def each(self) -> Iterator[tuple[str, Hashes, int]]:
        """Name, hashes and `scaled` of each source."""
        bounds = zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)
        for name, (start, end), scaled in zip(self.names, bounds, self.scaled.tolist(), strict=True):
            yield name, self.hashes[start:end], scaled

    def sizes_at(self, scaled: int) -> NDArray[np.int64]:
        """(n,) int64: hashes of each source that are kept if one k-mer of so many is."""
        kept = self.hashes <= np.uint64(replace(self.options, scaled=scaled).max_hash)
        sizes: NDArray[np.int64] = np.diff(np.concatenate([[0], np.cumsum(kept)])[self.starts])
        return sizes

    def joined(self) -> Sketches:
        """Join sources of one name; names are sorted."""
        parts: dict[str, list[tuple[Hashes, int]]] = {}
        for name, hashes, scaled in self.each():
            parts.setdefault(name, []).append((hashes, scaled))
        names = sorted(parts)
        coarsest = [max(scaled for _, scaled in parts[name]) for name in names]
        each = []
        for name, scaled in zip(names, coarsest, strict=True):
            hashes = np.unique(np.concatenate([one for one, _ in parts[name]]))
            each.append(hashes[hashes <= np.uint64(replace(self.options, scaled=scaled).max_hash)])
        return Sketches.of(self.options, names, each, coarsest)


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


def scaled_for(kmers: NDArray[np.int64], most_hashes: int) -> NDArray[np.int64]:
    """(n,) int64: one k-mer of how many to keep of each source: of the short ones all, a tenth, or a hundredth.

    Parameters
    ----------
    kmers : (n,) of each source, about.
    most_hashes : of all sources together; where it would be more, less is kept of every one.
    """
    levels = np.array(_LEVELS)
    enough = kmers[:, None] <= _ENOUGH_HASHES * levels[:3]  # (n, 3)
    scaled: NDArray[np.int64] = levels[np.where(enough.any(axis=1), enough.argmax(axis=1), 2)]
    for least in _LEVELS:
        scaled = np.maximum(scaled, least)
        if (kmers / scaled).sum() <= most_hashes:
            break
    return scaled


def sketch_sources(
    sources: Iterable[tuple[str, Sequence[bytes]]],
    options: SketchOptions,
    *,
    scaled: Mapping[str, int] | None = None,
    threads: int = 2,
) -> Sketches:
    """Sketch sources, each of one or more sequences.

    Parameters
    ----------
    sources : name and canonical sequences (upper case) of each; read lazily, a few ahead.
    scaled : one k-mer of how many is kept, by name; None: as the options say.
    threads : sources that are sketched at once.
    """
    names: list[str] = []
    found: list[Hashes] = []
    with ThreadPoolExecutor(threads) as pool:

        def start(name: str, sequences: Sequence[bytes]) -> Future[Hashes]:
            chosen = options if scaled is None else replace(options, scaled=scaled[name])
            return pool.submit(sketch, sequences, chosen)

        for name, hashes in _ahead(start, sources, 4 * threads):
            names.append(name)
            found.append(hashes)
    return Sketches.of(options, names, found, None if scaled is None else [scaled[name] for name in names])


def _ahead(
    start: Callable[[str, Sequence[bytes]], Future[Hashes]], sources: Iterable[tuple[str, Sequence[bytes]]], most: int
) -> Iterator[tuple[str, Hashes]]:
    waiting: deque[tuple[str, Future[Hashes]]] = deque()
    for name, sequences in sources:
        waiting.append((name, start(name, sequences)))
        if len(waiting) >= most:
            first, result = waiting.popleft()
            yield first, result.result()
    for name, result in waiting:
        yield name, result.result()


def sketch(sequences: Iterable[bytes], options: SketchOptions) -> Hashes:
    """Sketch sequences as one source.

    Parameters
    ----------
    sequences : canonical DNA, or residues if the options say so; upper case.
    """
    # End to end, with one unknown between: no k-mer crosses it, and many short sequences cost what a long one does.
    kept = [hashes for _, hashes in _hashes_of(_unknown(options).join(sequences), options)]
    return np.unique(np.concatenate([*kept, np.empty(0, np.uint64)]))


def _unknown(options: SketchOptions) -> bytes:
    return b"X" if options.kind == "residues" else b"N"


def _hashes_of(text: bytes, options: SketchOptions) -> Iterator[Found]:
    if options.kind == "dna":
        return dna_hashes(text, options.k, options.max_hash)
    if options.kind == "residues":
        return residue_hashes(text, options.k, options.max_hash)
    return frame_hashes(text, options.k, options.max_hash, options.code)


def sketch_short(
    sources: Sequence[tuple[str, Sequence[bytes]]], options: SketchOptions, scaled: NDArray[np.int64]
) -> Sketches:
    """Sketch many short sources at once, as `sketch_sources` would do one by one.

    Parameters
    ----------
    sources : name and canonical sequences of each, all of which are held in memory.
    options : of DNA or of residues.
    scaled : (n,) one k-mer of how many is kept of each.
    """
    unknown = _unknown(options)
    texts = [unknown.join(sequences) for _, sequences in sources]
    ends = np.cumsum([len(text) + 1 for text in texts])
    finest = replace(options, scaled=int(scaled.min())) if len(scaled) else options
    found = [*_hashes_of(unknown.join(texts), finest), (np.empty(0, np.int64), np.empty(0, np.uint64))]
    places, hashes = (np.concatenate(columns) for columns in zip(*found, strict=True))
    greatest = np.array([replace(options, scaled=one).max_hash for one in scaled.tolist()], np.uint64)
    owners = np.searchsorted(ends, places, side="right")
    kept = hashes <= greatest[owners]
    owners, hashes = owners[kept], hashes[kept]
    order = np.lexsort((hashes, owners))
    owners, hashes = owners[order], hashes[order]
    distinct = np.ones(len(hashes), np.bool_)
    distinct[1:] = (owners[1:] != owners[:-1]) | (hashes[1:] != hashes[:-1])
    starts = np.searchsorted(owners[distinct], np.arange(len(sources) + 1))
    names = tuple(name for name, _ in sources)
    return Sketches(options, names, hashes[distinct], starts.astype(np.int64), scaled)


@dataclass(frozen=True, slots=True, eq=False)
class Near:
    """Pairs of sources that share k-mers, as columns, by the place of the first.

    Attributes
    ----------
    first, second : (m,) places of the sources.
    shared : (m,) hashes that both have.
    containment : (m,) share of the k-mers of one that the other one has, 0 to 1.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    shared: NDArray[np.int64]
    containment: NDArray[np.float64]


class SketchIndex:
    """Finds which of some sources have the hashes of others: an inverted index, so that not all pairs are compared."""

    def __init__(self, sketches: Sketches) -> None:
        from scipy.sparse import csr_array

        self.sketches = sketches
        self._known, columns = np.unique(sketches.hashes, return_inverse=True)
        entries = (np.ones(len(columns), np.int32), columns, sketches.starts)
        self._sources_of = csr_array(entries, shape=(len(sketches), len(self._known))).T.tocsr()
        self._sizes = _SizesAt(sketches)

    def near(
        self, others: Sketches | None, threshold: float, *, least_shared: int = 1, of: Literal["smaller", "first"]
    ) -> Iterator[Near]:
        """Yield pairs of others and sources whose containment reaches a threshold, a block of others at a time.

        Parameters
        ----------
        others : None: the sources themselves, each two once, the lesser place first.
        threshold : above 0, at most 1.
        least_shared : hashes that a pair has in common.
        of : containment of the smaller one of a pair, or of the first.

        Raises
        ------
        InputError : the sketches were made by different options.
        """
        given = self.sketches if others is None else others
        if _but_scaled(given.options) != _but_scaled(self.sketches.options):
            raise InputError(f"Cannot compare sketches: expected {self.sketches.options}, found {given.options}.")
        sizes = self._sizes if others is None else _SizesAt(given)
        for start in range(0, len(given), _PAIR_BLOCK):
            first, second, shared = self._counted(given, start)
            if others is None:
                upper = second > first
                first, second, shared = first[upper], second[upper], shared[upper]
            scaled = np.maximum(given.scaled[first], self.sketches.scaled[second])
            whole = sizes.at(first, scaled)
            if of == "smaller":
                whole = np.minimum(whole, self._sizes.at(second, scaled))
            containment = shared / whole
            near = np.flatnonzero((containment >= threshold) & (shared >= least_shared))
            near = near[np.lexsort((second[near], first[near]))]
            yield Near(first[near], second[near], shared[near], containment[near])

    def _counted(self, given: Sketches, start: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(m,) each: places of pairs that share hashes, and how many, of a block of sketches."""
        from scipy.sparse import csr_array

        bounds = given.starts[start : start + _PAIR_BLOCK + 1]
        hashes = given.hashes[bounds[0] : bounds[-1]]
        places = np.searchsorted(self._known, hashes)
        is_known = np.zeros(len(hashes), np.bool_)
        inside = places < len(self._known)
        is_known[inside] = self._known[places[inside]] == hashes[inside]
        starts = np.concatenate([[0], np.cumsum(is_known)])[bounds - bounds[0]]
        columns = places[is_known]
        rows = csr_array((np.ones(len(columns), np.int32), columns, starts), shape=(len(bounds) - 1, len(self._known)))
        counts = (rows @ self._sources_of).tocoo()
        return counts.row.astype(np.int64) + start, counts.col.astype(np.int64), counts.data.astype(np.int64)


class _SizesAt:
    """How many hashes each source has at each `scaled` that is asked for."""

    def __init__(self, sketches: Sketches) -> None:
        self._sketches = sketches
        self._found: dict[int, NDArray[np.int64]] = {}

    def at(self, places: NDArray[np.int64], scaled: NDArray[np.int64]) -> NDArray[np.int64]:
        """(m,) int64, of the sources at these places, each at its own."""
        sizes = np.empty(len(places), np.int64)
        for level in np.unique(scaled).tolist():
            if level not in self._found:
                self._found[level] = self._sketches.sizes_at(level)
            here = scaled == level
            sizes[here] = self._found[level][places[here]]
        return sizes


def _but_scaled(options: SketchOptions) -> SketchOptions:
    return replace(options, scaled=1)


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
    index = SketchIndex(sketches if others is None else others)
    return [
        Pair(*pair)
        for near in index.near(None if others is None else sketches, threshold, of="smaller")
        for pair in zip(
            *(each.tolist() for each in (near.first, near.second, near.shared, near.containment)), strict=True
        )
    ]
