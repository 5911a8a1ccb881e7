"""Vectors on their way into the store: collected to segments, committed by one thread beside the model."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from embedstore.identity import key_array
from embedstore.interruption import uninterrupted
from embedstore.records import EmbeddingBatch, Vectors
from embedstore.store.space import Space


@dataclass(frozen=True, slots=True)
class SegmentLimits:
    """A segment is committed as soon as one of these is reached.

    Rows are limited too, since of every row that is not committed yet the key is kept to recognise its duplicates.
    """

    size_bytes: int = 256 << 20
    rows: int = 1 << 18
    seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a pack has cost: residues (or bases) computed, and seconds that the model took."""

    residues: int
    seconds: float


class Committer:
    """Commits what it is given, one segment at a time, in the background.

    At most one commit is outstanding: a model that is faster than the disk waits for it in `add`. An error of a
    commit is raised by the next call.
    """

    def __init__(self, space: Space, limits: SegmentLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.space = space
        self.uncommitted: set[bytes] = set()
        """Keys that were given and are not in the space yet."""
        self.rows_committed = 0
        self._limits = limits
        self._clock = clock
        self._capacity_rows = max(1, min(limits.rows, limits.size_bytes // (space.dim * space.dtype.itemsize)))
        self._collected = _Collected(space, self._capacity_rows, clock())
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedstore-commit")
        self._outstanding: tuple[Future[int], list[bytes]] | None = None

    def add(self, keys: list[bytes], vectors: Vectors, cost: Cost) -> None:
        """Take vectors, (n, dim) of finite values, and what they cost; commits if a limit is reached."""
        if len(self._collected.keys) + len(keys) > self._capacity_rows:
            self._hand_over()
            if len(keys) > self._capacity_rows:
                self._collected = _Collected(self.space, len(keys), self._clock())
        self.uncommitted.update(keys)
        self._collected.add(keys, vectors, cost)
        self.commit_if_due()

    def commit_if_due(self) -> None:
        """Hand what is collected to the background if a limit is reached."""
        collected = self._collected
        if len(collected.keys) >= self._capacity_rows or self._clock() - collected.since >= self._limits.seconds:
            self._hand_over()

    def close(self) -> None:
        """Commit all that is left, and wait until it is durable; if that is interrupted, it can be called again."""
        self._hand_over()
        self._settle()

    def _hand_over(self) -> None:
        self._settle()
        fresh = _Collected(self.space, self._capacity_rows, self._clock())
        with uninterrupted():  # no row is lost between the two
            collected, self._collected = self._collected, fresh
            if collected.keys:
                self._outstanding = self._thread.submit(collected.commit), collected.keys

    def _settle(self) -> None:
        """Wait for the outstanding commit; if that is interrupted, it can be called again."""
        if self._outstanding is None:
            return
        future, keys = self._outstanding
        wait([future])
        with uninterrupted():  # what is stored is counted
            self._outstanding = None
            future.result()
            self.rows_committed += len(keys)
            self.uncommitted.difference_update(keys)


class _Collected:
    """Rows of the next segment, in the buffer that is committed; it uses memory only as far as it is filled."""

    def __init__(self, space: Space, capacity_rows: int, since: float) -> None:
        self.keys: list[bytes] = []
        self.since = since
        self._space = space
        self._vectors = np.empty((capacity_rows, space.dim), space.dtype)
        self._residues = 0
        self._seconds = 0.0

    def add(self, keys: list[bytes], vectors: Vectors, cost: Cost) -> None:
        self._vectors[len(self.keys) : len(self.keys) + len(keys)] = vectors
        self.keys += keys  # last of what decides on the rows, so that an interrupt leaves whole ones
        self._residues += cost.residues
        self._seconds += cost.seconds

    def commit(self) -> int:
        provenance = {
            "embedstore": version("embedstore-bio"),
            "compute_seconds": self._seconds,
            "letters": self._residues,
        }
        return self._space.append(EmbeddingBatch(key_array(self.keys), self._vectors[: len(self.keys)]), provenance)
