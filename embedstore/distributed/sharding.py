"""Dividing an input among jobs that do not communicate: those of a job array, of Nextflow, of WDL.

Which shard a sequence belongs to follows from the set of distinct sequences in the input alone: not from the order or
the ids of records, nor from the content of the store. All distinct sequences, longest first and then by key, are dealt
out: at first each to the shard with the smallest total length; later, when neighbours differ little, back and forth:
1 2 3 3 2 1 1 2 3 … So shards are disjoint, each has its share of nearly every length, and equal sequences are together.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import InputError
from embedstore.filling.filler import KeyFilter, open_intake
from embedstore.filling.summary import FillReport
from embedstore.filling.target import SpaceTarget
from embedstore.records import KEY_BYTES, Keys, Record, Rejection

_WORDS = KEY_BYTES // 8
_WEIGHED_PER_SHARD = 1000
_MERGED_RECORDS = 1 << 20  # repeated records are dropped at least this often


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several parts of an input.

    Attributes
    ----------
    number : from 1.
    count : how many there are.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise InputError(
                f"Cannot fill shard {self.number}/{self.count}: expected a number from 1 to the count of shards. "
                "An array of 8 jobs counts from 1/8 to 8/8."
            )

    @classmethod
    def from_text(cls, text: str) -> Shard:
        """Read `i/N`.

        Raises
        ------
        InputError : not of that form, or no such shard.
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if found is None:
            raise InputError(f"Cannot read {text!r} as a shard: expected i/N, for instance 1/8.")
        return cls(int(found[1]), int(found[2]))

    def deal(self, keys: Keys, lengths: NDArray[np.uint32]) -> Keys:
        """Return this shard's part of distinct sequences.

        Parameters
        ----------
        keys : (n, 24) uint8, distinct, in any order.
        lengths : (n,) residues or bases of each.

        Returns
        -------
        (m, 24) uint8, sorted by their bytes.
        """
        words = _words(keys)
        order = np.lexsort((*words.T[::-1], -lengths.astype(np.int64)))
        return _sorted(keys[order[_dealt(lengths[order], self.count) == self.number - 1]])


class KeySet:
    """Keys to be found again.

    Parameters
    ----------
    keys : (n, 24) uint8, distinct, sorted by their bytes.
    """

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self._words = _words(keys)

    def __len__(self) -> int:
        return len(self.keys)

    def __call__(self, keys: Keys) -> NDArray[np.bool_]:
        """Tell for each of (n, 24) uint8 keys whether it is one of them: (n,) bool."""
        asked, mine = _words(keys), self._words
        found = np.zeros(len(asked), np.bool_)
        place = np.searchsorted(mine[:, 0], asked[:, 0])
        open_rows = np.arange(len(asked))
        while len(open_rows):  # nearly always once: keys that share their first word follow each other
            open_rows = open_rows[place[open_rows] < len(mine)]
            candidates = mine[place[open_rows]]
            found[open_rows[(candidates == asked[open_rows]).all(axis=1)]] = True
            open_rows = open_rows[(candidates[:, 0] == asked[open_rows, 0]) & ~found[open_rows]]
            place[open_rows] += 1
        return found


def shard_keys(
    records: Iterable[Record | Rejection], target: SpaceTarget, shard: Shard, *, any_molecule: bool = False
) -> KeySet:
    """Find which sequences of an input belong to a shard: 28 bytes of memory a distinct sequence.

    Raises
    ------
    MoleculeError : the input is of the other molecule than the model.
    """
    sequences = _DistinctLengths()
    for window in open_intake(records, target, any_molecule=any_molecule):
        lengths = np.fromiter(map(len, window.sequences), np.uint32, len(window.sequences))
        sequences.add(window.key_array(), lengths)
    return KeySet(shard.deal(*sequences.distinct()))


def fill_shard(
    read: Callable[[], Iterable[Record | Rejection]],
    target: SpaceTarget,
    shard: Shard,
    fill: Callable[[Iterable[Record | Rejection], KeyFilter], FillReport],
    *,
    any_molecule: bool = False,
) -> FillReport:
    """Fill one shard of an input, which is read twice.

    Parameters
    ----------
    read : reads all records, the same each time.
    target : the space.
    shard : which part.
    fill : fills from records what lies within a filter: `filling.fill`, `fill_with_workers` or `preview`.
    any_molecule : take proteins that look like DNA.

    Returns
    -------
    FillReport : `read` counts the records of the whole input, everything else those of the shard. Records that are no
        sequences belong to shard 1.

    Raises
    ------
    MoleculeError : the input is of the other molecule than the model.
    EmbedStoreError : what `fill` raises.
    """
    report = fill(read(), shard_keys(read(), target, shard, any_molecule=any_molecule))
    return report if shard.number == 1 else replace(report, rejected=())


def _dealt(lengths: NDArray[np.uint32], count: int) -> NDArray[np.intp]:
    """Return for each of (n,) descending lengths who gets it, from 0."""
    rounds, seats = np.divmod(np.arange(len(lengths)), count)
    seats[rounds % 2 == 1] = count - 1 - seats[rounds % 2 == 1]
    poorest = [(0, number) for number in range(count)]  # a heap
    for row, length in enumerate(lengths[: _WEIGHED_PER_SHARD * count].tolist()):
        residues, seats[row] = poorest[0]
        heapq.heapreplace(poorest, (residues + length, int(seats[row])))
    return seats


class _DistinctLengths:
    """Collects keys with the lengths of their sequences; repeated ones are removed from time to time."""

    def __init__(self) -> None:
        self._keys: list[Keys] = []
        self._lengths: list[NDArray[np.uint32]] = []
        self._rows = 0
        self._distinct_rows = 0

    def add(self, keys: Keys, lengths: NDArray[np.uint32]) -> None:
        self._keys.append(keys)
        self._lengths.append(lengths)
        self._rows += len(keys)
        if self._rows >= _MERGED_RECORDS + 2 * self._distinct_rows:
            self._merge()

    def distinct(self) -> tuple[Keys, NDArray[np.uint32]]:
        if not self._keys:
            return np.empty((0, KEY_BYTES), np.uint8), np.empty(0, np.uint32)
        self._merge()
        return self._keys[0], self._lengths[0]

    def _merge(self) -> None:
        keys, lengths = np.concatenate(self._keys), np.concatenate(self._lengths)
        order = _order(keys)
        keys, lengths = keys[order], lengths[order]
        first = np.ones(len(keys), np.bool_)
        first[1:] = (keys[1:] != keys[:-1]).any(axis=1)
        self._keys, self._lengths = [keys[first]], [lengths[first]]
        self._rows = self._distinct_rows = len(self._keys[0])


def _words(keys: Keys) -> NDArray[np.uint64]:
    """(n, 3): the keys as numbers whose order, from the first on, is that of the bytes."""
    return np.ascontiguousarray(keys).view(">u8").astype(np.uint64).reshape(-1, _WORDS)


def _order(keys: Keys) -> NDArray[np.intp]:
    return np.lexsort(_words(keys).T[::-1])


def _sorted(keys: Keys) -> Keys:
    return keys[_order(keys)]
