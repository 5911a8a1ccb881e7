"""Vectors on their way into the store: collected to segments, committed by one thread beside the model."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from embedstore.identity import key_array
from embedstore.store.space import Space
from embedstore.types import EmbeddingBatch, Vectors


@dataclass(frozen=True, slots=True)
class SegmentLimits:
    """A segment is committed as soon as one of these is reached.

    Rows are limited too, since of every row that is not committed yet the key is kept to recognise its duplicates.
    """

    size_bytes: int = 256 << 20
    rows: int = 1 << 18
    seconds: float = 120.0


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """Vectors of one pack, in the space's dtype, and what they cost.

    Attributes
    ----------
    keys : n keys.
    vectors : (n, dim).
    letters : of their sequences together.
    seconds : that the model took.
    """

    keys: list[bytes]
    vectors: Vectors
    letters: int
    seconds: float


class Committer:
    """Commits what it is given, one segment at a time, in the background.

    At most one commit is outstanding: who computes faster than the disk writes waits for it in `add`. An error of a
    commit is raised by the next call.
    """

    def __init__(self, space: Space, limits: SegmentLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.uncommitted: set[bytes] = set()
        """Keys that were given and are not in the space yet."""
        self.rows_committed = 0
        self.space = space
        self._limits = limits
        self._clock = clock
        self._since = clock()
        self._collected: list[Computed] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedstore-commit")
        self._outstanding: tuple[Future[None], list[bytes]] | None = None

    def add(self, computed: Computed) -> None:
        """Take vectors; commits if a limit is reached."""
        if not self._collected:
            self._since = self._clock()
        self.uncommitted.update(computed.keys)
        self._collected.append(computed)
        self.commit_if_due()

    def commit_if_due(self) -> None:
        """Hand what is collected to the background if a limit is reached."""
        limits, collected = self._limits, self._collected
        if collected and (
            sum(computed.vectors.nbytes for computed in collected) >= limits.size_bytes
            or sum(len(computed.keys) for computed in collected) >= limits.rows
            or self._clock() - self._since >= limits.seconds
        ):
            self._hand_over()

    def close(self) -> None:
        """Commit all that is left, and wait until it is durable."""
        try:
            self._hand_over()
            self._settle()
        finally:
            self._thread.shutdown()

    def _hand_over(self) -> None:
        self._settle()
        if self._collected:
            collected, self._collected = self._collected, []
            keys = [key for computed in collected for key in computed.keys]
            self._outstanding = self._thread.submit(_commit, self.space, keys, collected), keys

    def _settle(self) -> None:
        """Wait for the outstanding commit; an interrupted wait can be taken up again."""
        if self._outstanding is None:
            return
        future, keys = self._outstanding
        wait([future])
        self._outstanding = None
        future.result()
        self.rows_committed += len(keys)
        self.uncommitted.difference_update(keys)


def _commit(space: Space, keys: list[bytes], collected: list[Computed]) -> None:
    vectors = np.concatenate([computed.vectors for computed in collected])
    provenance = {
        "embedstore": version("embedstore"),
        "compute_seconds": sum(computed.seconds for computed in collected),
        "letters": sum(computed.letters for computed in collected),
    }
    collected.clear()  # so that the vectors are in memory once
    space.append(EmbeddingBatch(key_array(keys), vectors), provenance)
