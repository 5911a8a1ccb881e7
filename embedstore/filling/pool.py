"""Sequences that are queued for the model, with the records that asked for them, and what has become of them.

Many are pooled together, so that sorting them by length into packs pays. A `Backlog` is all that a fill and what
computes for it share: the fill queues sequences, the other takes them, and settles each.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import compress
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from embedstore.filling.intake import Window
from embedstore.filling.summary import FillProgress, OnProgress, Phase
from embedstore.filling.target import SpaceTarget
from embedstore.identity import key_array
from embedstore.models.batching import SMALL_PACKS_PER_WORKER, packs
from embedstore.records import Keys, Rejection
from embedstore.store.space import Space

POOL_RECORDS = 100_000
POOL_RESIDUES = 64 << 20


@dataclass(frozen=True, slots=True)
class Pack:
    """Sequences that one call of the model works on, with their keys."""

    keys: list[bytes]
    sequences: list[bytes]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def residues(self) -> int:
        return sum(map(len, self.sequences))

    def only(self, wanted: NDArray[np.bool_]) -> Pack:
        """Return a pack of those sequences for which `wanted`, (n,), is true."""
        return Pack(list(compress(self.keys, wanted)), list(compress(self.sequences, wanted)))


_label = itemgetter(2, 3, 0)  # file, line and id of a record


class Pool:
    """Distinct sequences without a vector, and the records that asked for them."""

    def __init__(self) -> None:
        self.sequences: dict[bytes, bytes] = {}
        """Canonical sequences by their keys."""
        self._asked: list[bytes] = []
        self._labels: list[tuple[str, int, str]] = []
        """(file, line, id) of the record that asked for the key at the same place of `_asked`."""
        self.residues = 0

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def full(self) -> bool:
        return len(self._asked) >= POOL_RECORDS or self.residues >= POOL_RESIDUES

    def add(self, window: Window, rows: Sequence[int]) -> None:
        """Queue some records of a window; equal sequences are queued once."""
        keys = [window.keys[row] for row in rows]
        self._asked += keys
        self._labels += [_label(window.records[row]) for row in rows]
        for key, row in zip(keys, rows, strict=True):
            if key not in self.sequences:
                sequence = self.sequences[key] = window.sequences[row]
                self.residues += len(sequence)

    def settle(self, keys: Collection[bytes]) -> None:
        """Remove those of some sequences that are queued."""
        for key in keys:
            sequence = self.sequences.pop(key, None)
            if sequence is not None:
                self.residues -= len(sequence)

    def rejections(self, reasons: Mapping[bytes, str]) -> list[Rejection]:
        """Records whose sequence is among `reasons` (key -> why)."""
        return [
            Rejection(*label, reasons[key])
            for key, label in zip(self._asked, self._labels, strict=True)
            if key in reasons
        ]


def packs_of(sequences: Mapping[bytes, bytes], budget_residues: int, workers: int = 1) -> list[Pack]:
    """Pack sequences by length.

    The pack of the longest comes first, so that a machine with too little memory shows it at once; the others come in
    random order, so that processes filling from the same input share the work, and the residues done so far tell how
    long the others will take. The smaller ones that end the work of several workers stay at the end.

    Parameters
    ----------
    sequences : canonical sequences by their keys.
    budget_residues : what a pack may hold.
    workers : how many packs are computed at once.
    """
    keys, values = list(sequences), list(sequences.values())
    positions = packs([len(sequence) for sequence in values], budget_residues, workers)
    full = max(1, len(positions) - (SMALL_PACKS_PER_WORKER * workers if workers > 1 else 0))
    longest, others, last = positions[:1], positions[1:full], positions[full:]
    random.shuffle(others)
    return [
        Pack([keys[place] for place in places], [values[place] for place in places])
        for places in (array.tolist() for array in longest + others + last)
    ]


class Backlog:
    """Sequences that a fill has found missing, and what has become of them.

    Several spaces may be filled together: a sequence is missing where it is missing from one of them, and each takes
    what it has not got.

    Attributes
    ----------
    targets : where their vectors go.
    spaces : where they are looked up, one of each target; None until it exists.
    queued : what has been taken by nobody yet.
    uncommitted : keys that are computed and not in the space yet.
    computed_of : vectors that were computed and stored, of each space.
    compute_seconds : inside the model.
    failures : key -> why it has no vector.
    failed : the records that asked for those.
    progress : what is told of all this.
    """

    def __init__(
        self, target: SpaceTarget, on_progress: OnProgress | None = None, others: Sequence[SpaceTarget] = ()
    ) -> None:
        self.targets = (target, *others)
        self.spaces = [each.space for each in self.targets]
        self.queued = Pool()
        self.uncommitted: Set[bytes] = frozenset()
        self.computed_of = [0] * len(self.targets)
        self.compute_seconds = 0.0
        self.failures: dict[bytes, str] = {}
        self.failed: list[Rejection] = []
        unit = "bases" if target.recipe.molecule == "dna" else "residues"
        self.progress = FillProgress(space=", ".join(each.name for each in self.targets), unit=unit)
        self._on_progress = on_progress
        self._pools = [self.queued]
        """Those that were taken, each until all of its sequences are settled; then what is queued."""
        self._refreshed_s: float | None = None

    @property
    def target(self) -> SpaceTarget:
        """The first of the targets, usually the only one."""
        return self.targets[0]

    @property
    def space(self) -> Space | None:
        """The first of the spaces, usually the only one."""
        return self.spaces[0]

    @space.setter
    def space(self, space: Space | None) -> None:
        self.spaces[0] = space

    @property
    def made(self) -> list[Space]:
        """The spaces that exist."""
        return [space for space in self.spaces if space is not None]

    @property
    def computed(self) -> int:
        """Vectors that were computed and stored, of the first space."""
        return self.computed_of[0]

    @computed.setter
    def computed(self, rows: int) -> None:
        self.computed_of[0] = rows

    def contains(self, keys: Keys) -> NDArray[np.bool_]:
        """Tell which of (n, 24) uint8 keys all of the spaces have: (n,)."""
        present = np.full(len(keys), len(self.made) == len(self.spaces))
        for space in self.made:
            rows = np.flatnonzero(present)
            if len(rows):
                present[rows] = space.contains(keys[rows])
        return present

    def refresh(self, after_s: float = 0.0) -> bool:
        """Read what others have committed, unless that was done in the last `after_s`; tell whether it was now."""
        now = time.monotonic()
        if not self.made or (self._refreshed_s is not None and now - self._refreshed_s < after_s):
            return False
        for space in self.made:
            space.refresh()
        self._refreshed_s = now
        return True

    def take(self) -> dict[bytes, bytes]:
        """Take all that is queued and is not taken already: canonical sequences by their keys."""
        known: set[bytes] = set().union(*[pool.sequences for pool in self._pools[:-1]])
        taken, self.queued = self.queued, Pool()
        self._pools.append(self.queued)
        return {key: sequence for key, sequence in taken.sequences.items() if key not in known}

    def settle(self, keys: Collection[bytes]) -> None:
        """Cross off sequences that have a vector by now, or never will."""
        for pool in self._pools:
            pool.settle(keys)
        self._pools = [pool for pool in self._pools if pool.sequences or pool is self.queued]

    def fail(self, reasons: Mapping[bytes, str]) -> None:
        """Note why sequences, which are not settled yet, have no vector."""
        self.failures.update(reasons)
        for pool in self._pools:
            self.failed.extend(pool.rejections(reasons))

    def count(self, rows: int, residues: int, seconds: float) -> None:
        """Count what was computed, which may not be stored yet."""
        self.compute_seconds += seconds
        self.progress.computed += rows
        self.progress.residues_computed += residues

    def tell(self, phase: Phase | None = None) -> None:
        """Say how far the fill is.

        Parameters
        ----------
        phase : what it does from now on; None: what it did before.
        """
        if self._on_progress is None:
            return
        if phase is not None:
            self.progress.begin(phase)
        self.progress.failed = len(self.failed)
        self.progress.waiting = sum(len(pool.sequences) for pool in self._pools)
        self.progress.residues_waiting = sum(pool.residues for pool in self._pools)
        self._on_progress(self.progress)

    def count_left(self, place: int = 0) -> int:
        """Count distinct sequences that one of the spaces has no vector of: none, unless the fill was interrupted."""
        waiting: set[bytes] = set().union(*[pool.sequences for pool in self._pools])
        space = self.spaces[place]
        if space is None or not waiting:
            return len(waiting)
        return sum(key.tobytes() not in self.failures for key in space.missing(key_array(waiting)))
