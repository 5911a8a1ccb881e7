"""Computing in this process: packs of missing sequences, through the model, into segments.

The model is loaded when the first sequence has to be computed, and must give the vectors of the space's canaries. It
computes packs in as many threads as it asks for, beside one that commits.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np

from embedstore.errors import InputError
from embedstore.filling import canaries
from embedstore.filling.committing import Committer, Cost, SegmentLimits
from embedstore.filling.pool import Backlog, Pack, packs_of
from embedstore.filling.target import SpaceTarget
from embedstore.identity import key_array
from embedstore.models.embedder import Embedded, Embedder
from embedstore.records import Vectors
from embedstore.store.space import Space

REFRESH_S = 20.0
"""How often a fill looks what other processes have committed, not to compute it again."""


class LocalComputing:
    """Computes the sequences of a backlog in this process; see `filler.Computing`.

    Parameters
    ----------
    device : see `FillOptions.device`.
    limits : when a segment is committed.
    embedder : a model that is loaded and has been compared with the space; None: load it when it is needed.
    """

    def __init__(self, device: str | None, limits: SegmentLimits, embedder: Embedder | None = None) -> None:
        self._device = device
        self._limits = limits
        self._embedder = embedder
        self._committer: Committer | None = None

    def keep_up(self, backlog: Backlog) -> None:
        """Commit what is due."""
        del backlog
        if self._committer is not None:
            self._committer.commit_if_due()

    def compute(self, backlog: Backlog, *, more: bool) -> None:
        """Compute all that is queued; it may be committed later."""
        if not len(backlog.queued):
            return
        embedder, committer = self._ready(backlog, more=more)
        sequences = backlog.take()
        backlog.tell("computing")
        with closing(embed_packs(embedder, _packs(backlog, sequences, embedder, committer.space))) as results:
            started = time.perf_counter()
            for pack, embedded in results:
                self._keep(backlog, pack, embedded, time.perf_counter() - started)
                backlog.tell()
                started = time.perf_counter()

    def close(self, backlog: Backlog) -> None:
        """Commit what is computed."""
        if self._committer is not None:
            self._committer.close()
            backlog.computed = self._committer.rows_committed

    def _ready(self, backlog: Backlog, *, more: bool) -> tuple[Embedder, Committer]:
        """Load the model, create the space if missing, compare canaries: once, when something must be computed."""
        if self._embedder is None:
            target, missing = backlog.target, len(backlog.queued)
            if target.store is not None:
                target.store.require_writable(backlog.space)
            backlog.tell("loading the model")
            embedder = target.get_model(f"at least {missing}" if more else str(missing)).load(self._device)
            backlog.tell("checking the model")
            backlog.space = prepare_space(target, embedder)
            self._embedder = embedder
        if self._committer is None:
            assert backlog.space is not None  # noqa: S101 - made with the model
            self._committer = Committer(backlog.space, self._limits)
            backlog.uncommitted = self._committer.uncommitted
        return self._embedder, self._committer

    def _keep(self, backlog: Backlog, pack: Pack, embedded: Embedded, seconds: float) -> None:
        """Hand the vectors of a pack to the committer, and note which sequences have none."""
        committer = self._committer
        assert committer is not None  # noqa: S101 - made before the first pack
        reasons = {**_unstorable(embedded.vectors, committer.space.dtype), **embedded.failures}
        good, vectors = pack, embedded.vectors
        if reasons:
            backlog.fail({pack.keys[row]: reason for row, reason in reasons.items()})
            storable = ~np.isin(np.arange(len(pack)), list(reasons))
            good, vectors = pack.only(storable), vectors[storable]
        residues = good.residues
        if len(good):
            committer.add(good.keys, vectors, Cost(residues, seconds))
        backlog.settle(pack.keys)
        backlog.count(len(good), residues, seconds)


def prepare_space(target: SpaceTarget, embedder: Embedder) -> Space:
    """Return the space of a target, created if missing, after the loaded model has reproduced its canaries.

    Raises
    ------
    InputError : there is no store.
    CanaryError : the model does not reproduce the canaries of the space.
    """
    if target.space is not None:
        canaries.check(target.space, embedder)
        return target.space
    if target.store is None:
        raise InputError(f"Cannot fill space {target.name}: there is no store. Create one first.")
    computed = canaries.compute(embedder)
    space = target.store.create_space(target.recipe, target.name, computed)
    canaries.check(space, embedder, computed)  # somebody may have been faster
    return space


def _packs(backlog: Backlog, sequences: dict[bytes, bytes], embedder: Embedder, space: Space) -> Iterator[Pack]:
    """Yield packs of sequences that were taken, without what other processes have committed meanwhile."""

    def missing(pack: Pack) -> Pack:
        present = space.contains(key_array(pack.keys))
        backlog.settle(pack.only(present).keys)
        return pack.only(~present) if present.any() else pack

    if backlog.refresh(REFRESH_S):
        left = missing(Pack(list(sequences), list(sequences.values())))
        sequences = dict(zip(left.keys, left.sequences, strict=True))
    news = False
    for pack in packs_of(sequences, embedder.pack_residues, embedder.workers):
        news = backlog.refresh(REFRESH_S) or news
        left = missing(pack) if news else pack
        if len(left):
            yield left


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


def _unstorable(vectors: Vectors, dtype: np.dtype[Any]) -> dict[int, str]:
    """Find rows that `dtype` cannot hold, each with the reason."""
    if not len(vectors):
        return {}
    limit = np.finfo(dtype).max
    if max(vectors.max(), -vectors.min()) <= limit:  # false if there is a NaN
        return {}
    rows = np.flatnonzero(~(np.abs(vectors) <= limit).all(axis=1))
    return {int(row): f"its vector has a value that is not finite in {dtype}" for row in rows}
