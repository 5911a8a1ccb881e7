"""Sequences that are queued for the model: pooled, sorted by length into packs, and computed.

Many are pooled together, so that sorting them by length pays. A loaded model computes packs in as many threads as it
asks for.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import compress, islice
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from embedstore.filling.intake import Window
from embedstore.identity import key_array
from embedstore.models.batching import SMALL_PACKS_PER_WORKER, packs
from embedstore.models.embedder import Embedded, Embedder
from embedstore.records import Keys, Rejection

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

    def keys(self) -> Keys:
        """(n, 24) uint8: keys of queued sequences."""
        return key_array(self.sequences)

    def settle(self, keys: Iterable[bytes]) -> None:
        """Remove sequences from the queue."""
        self.residues -= sum([len(self.sequences.pop(key)) for key in keys])

    def packs(self, budget_residues: int, workers: int = 1) -> list[Pack]:
        """Pack queued sequences by length.

        The pack of the longest comes first, so that a machine with too little memory shows it at once; the others come
        in random order, so that processes filling from the same input share the work, and the residues done so far tell
        how long the others will take. The smaller ones that end the work of several workers stay at the end.
        """
        keys, sequences = list(self.sequences), list(self.sequences.values())
        positions = packs([len(sequence) for sequence in sequences], budget_residues, workers)
        full = max(1, len(positions) - (SMALL_PACKS_PER_WORKER * workers if workers > 1 else 0))
        longest, others, last = positions[:1], positions[1:full], positions[full:]
        random.shuffle(others)
        return [
            Pack([keys[place] for place in places], [sequences[place] for place in places])
            for places in (array.tolist() for array in longest + others + last)
        ]

    def rejections(self, reasons: Mapping[bytes, str]) -> list[Rejection]:
        """Records whose sequence is among `reasons` (key -> why)."""
        return [
            Rejection(*label, reasons[key])
            for key, label in zip(self._asked, self._labels, strict=True)
            if key in reasons
        ]


_PACKS_IN_HAND_PER_WORKER = 2


def embed_packs(embedder: Embedder, packs: Iterable[Pack]) -> Generator[tuple[Pack, Embedded], None, None]:
    """Yield packs with their vectors, in the order in which they are done; `packs` is drawn from on demand."""
    if embedder.workers <= 1:
        for pack in packs:
            yield pack, embedder.embed(pack.sequences)
    else:
        yield from _embed_in_threads(embedder, iter(packs))


def _embed_in_threads(embedder: Embedder, packs: Iterator[Pack]) -> Generator[tuple[Pack, Embedded], None, None]:
    executor = ThreadPoolExecutor(embedder.workers, thread_name_prefix="embedstore-model")
    running: dict[Future[Embedded], Pack] = {}
    try:
        while True:
            for pack in islice(packs, _PACKS_IN_HAND_PER_WORKER * embedder.workers - len(running)):
                running[executor.submit(embedder.embed, pack.sequences)] = pack
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()
    finally:
        executor.shutdown(cancel_futures=True)
