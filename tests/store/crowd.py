"""Processes that do everything at once in one store; each says what it did, and may be killed at any moment."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from sample_rows import open_space, right_vectors, sample_batch, sample_keys

from embedstore.errors import CorruptStoreError
from embedstore.records import Keys
from embedstore.storage.local import LocalStorage
from embedstore.upkeep import collect, compact

NUMBERS = 1_500
GRACE_S = 10.0


def fill(place: Path, seed: int, said: Connection) -> None:
    """Append what overlaps with others'; say which numbers are there when `append` has returned."""
    space = open_space(place)
    random = np.random.default_rng(seed)
    while True:
        numbers = random.integers(0, NUMBERS, random.integers(1, 30)).tolist()
        space.append(sample_batch(sample_keys(numbers), space.recipe))
        said.send(numbers)
        if random.random() < 0.1:
            space.optimise()


def merge(place: Path, seed: int, said: Connection) -> None:
    """Merge all segments, again and again."""
    while True:
        report = compact(open_space(place))
        if report.damaged:
            raise CorruptStoreError(report.damaged[0], "found while merging")
        said.send([])


def clear(place: Path, seed: int, said: Connection) -> None:
    """Collect, again and again."""
    while True:
        said.send([])
        report = collect(LocalStorage(place), grace_s=GRACE_S)
        if report.damaged:
            raise CorruptStoreError(report.damaged[0], "found while collecting")


def read(place: Path, seed: int, said: Connection) -> None:
    """Read with one view for ever: all must be right, and what was read once must stay."""
    space = open_space(place)
    random = np.random.default_rng(seed)
    seen: Keys = space.keys()
    while True:
        if random.random() < 0.3:
            space.refresh()
            seen = np.unique(np.concatenate([seen, space.keys()]), axis=0)
        if len(seen):
            wanted = seen[random.integers(0, len(seen), 50)]
            if space.read(wanted).tobytes() != right_vectors(wanted, space.recipe).tobytes():
                raise CorruptStoreError("a row", "it is not the right one")
        said.send([])


DOINGS: dict[Callable[[Path, int, Connection], None], int] = {fill: 8, merge: 2, clear: 2, read: 4}
"""What is done, and by how many processes at once."""
