"""Computing in this process: packs of missing sequences, through the model, into segments.

The model is loaded when the first sequence has to be computed, and must give the vectors of the space's canaries. It
computes packs in as many threads as it asks for, beside one that commits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from embedstore.errors import InputError
from embedstore.filling import canaries
from embedstore.filling.committing import Committer, Cost, SegmentLimits
from embedstore.filling.pool import Backlog, Pack, packs_of
from embedstore.filling.target import SpaceTarget
from embedstore.identity import key_array
from embedstore.models.embedder import Embedded, Embedder, LevelledEmbedder
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
        self._committers: list[Committer] = []

    def keep_up(self, backlog: Backlog) -> None:
        """Commit what is due."""
        del backlog
        for committer in self._committers:
            committer.commit_if_due()

    def compute(self, backlog: Backlog, *, more: bool) -> None:
        """Compute all that is queued; it may be committed later."""
        if not len(backlog.queued):
            return
        embedder = self._ready(backlog, more=more)
        sequences = backlog.take()
        backlog.tell("computing")
        packs = _packs(backlog, sequences, embedder)
        with closing(embed_packs(_embedding(embedder, backlog), packs, embedder.workers)) as results:
            started = time.perf_counter()
            for pack, embedded in results:
                self._keep(backlog, pack, embedded, time.perf_counter() - started)
                backlog.tell()
                started = time.perf_counter()

    def close(self, backlog: Backlog) -> None:
        """Commit what is computed."""
        for place, committer in enumerate(self._committers):
            committer.close()
            backlog.computed_of[place] = committer.rows_committed

    def _ready(self, backlog: Backlog, *, more: bool) -> Embedder:
        """Load the model, create spaces that are missing, compare canaries: once, when something must be computed."""
        if self._embedder is None:
            target, missing = backlog.target, len(backlog.queued)
            for each, space in zip(backlog.targets, backlog.spaces, strict=True):
                if each.store is not None:
                    each.store.require_writable(space)
            backlog.tell("loading the model")
            embedder = target.get_model(f"at least {missing}" if more else str(missing)).load(self._device)
            backlog.tell("checking the model")
            if len(backlog.targets) > 1:
                embedder = _prepare_spaces(backlog, embedder)
            else:
                backlog.space = prepare_space(target, embedder)
            self._embedder = embedder
        if not self._committers:
            limits = replace(self._limits, size_bytes=self._limits.size_bytes // len(backlog.targets))
            self._committers = [Committer(space, limits) for space in backlog.made]
            backlog.uncommitted = _Uncommitted([committer.uncommitted for committer in self._committers])
        return self._embedder

    def _keep(self, backlog: Backlog, pack: Pack, embedded: Sequence[Embedded], seconds: float) -> None:
        """Hand the vectors of a pack to the committers, and note which sequences have none."""
        several = len(self._committers) > 1
        reasons: dict[int, str] = {}
        for committer, of_space in zip(self._committers, embedded, strict=True):
            failed = {**_unstorable(of_space.vectors, committer.space.dtype), **of_space.failures}
            reasons |= {row: f"{committer.space.name}: {why}" if several else why for row, why in failed.items()}
            wanted = ~np.isin(np.arange(len(pack)), list(failed))
            if several:
                wanted &= ~committer.space.contains(key_array(pack.keys))
            if not wanted.any():
                continue
            whole = bool(wanted.all())
            good, vectors = (pack, of_space.vectors) if whole else (pack.only(wanted), of_space.vectors[wanted])
            committer.add(good.keys, vectors, Cost(good.residues, seconds))
        if reasons:
            backlog.fail({pack.keys[row]: reason for row, reason in reasons.items()})
        good = pack.only(~np.isin(np.arange(len(pack)), list(reasons))) if reasons else pack
        backlog.settle(pack.keys)
        backlog.count(len(good), good.residues, seconds)


class _Uncommitted(Set[bytes]):
    """Keys that are on their way into all spaces that they are missing from."""

    def __init__(self, of_spaces: Sequence[Set[bytes]]) -> None:
        self._of_spaces = of_spaces

    def __contains__(self, key: object) -> bool:
        return any(key in keys for keys in self._of_spaces)

    def __iter__(self) -> Iterator[bytes]:
        return iter(set().union(*self._of_spaces))

    def __len__(self) -> int:
        return len(set().union(*self._of_spaces))

    def __bool__(self) -> bool:
        return any(self._of_spaces)


def _prepare_spaces(backlog: Backlog, embedder: Embedder) -> Embedder:
    """Prepare each of several spaces, and return the model as it serves them all.

    Raises
    ------
    InputError : the model has no layers, or the recipes differ in more than layer and pooling.
    """
    if not isinstance(embedder, LevelledEmbedder):
        raise InputError(
            f"Cannot fill {len(backlog.targets)} spaces together: {embedder.recipe.model} has no layers to choose from."
        )
    together = embedder.for_recipes([target.recipe for target in backlog.targets])
    for place, target in enumerate(backlog.targets):
        backlog.spaces[place] = prepare_space(target, embedder.for_recipes([target.recipe]))
    return together


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


def _packs(backlog: Backlog, sequences: dict[bytes, bytes], embedder: Embedder) -> Iterator[Pack]:
    """Yield packs of sequences that were taken, without what other processes have committed meanwhile."""

    def missing(pack: Pack) -> Pack:
        present = backlog.contains(key_array(pack.keys))
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


Result = TypeVar("Result")


def embed_packs(
    embed: Callable[[Sequence[bytes]], Result], packs: Iterable[Pack], workers: int
) -> Generator[tuple[Pack, Result], None, None]:
    """Yield packs with what `embed` gives for their sequences, in the order in which they are done.

    Parameters
    ----------
    embed : called from several threads if there are several workers.
    packs : drawn from on demand.
    workers : packs that are computed at once.
    """
    if workers <= 1:
        for pack in packs:
            yield pack, embed(pack.sequences)
    else:
        yield from _embed_in_threads(embed, iter(packs), workers)


def _embed_in_threads(
    embed: Callable[[Sequence[bytes]], Result], packs: Iterator[Pack], workers: int
) -> Generator[tuple[Pack, Result], None, None]:
    executor = ThreadPoolExecutor(workers, thread_name_prefix="embedstore-model")
    running: dict[Future[Result], Pack] = {}
    try:
        while True:
            for pack in islice(packs, _PACKS_IN_HAND_PER_WORKER * workers - len(running)):
                running[executor.submit(embed, pack.sequences)] = pack
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()
    finally:
        executor.shutdown(cancel_futures=True)


def _embedding(embedder: Embedder, backlog: Backlog) -> Callable[[Sequence[bytes]], Sequence[Embedded]]:
    """Return what embeds sequences for each space of a backlog."""
    if len(backlog.targets) > 1 and isinstance(embedder, LevelledEmbedder):
        return embedder.embed_all
    return lambda sequences: [embedder.embed(sequences)]


def _unstorable(vectors: Vectors, dtype: np.dtype[Any]) -> dict[int, str]:
    """Find rows that `dtype` cannot hold, each with the reason."""
    if not len(vectors):
        return {}
    limit = np.finfo(dtype).max
    if max(vectors.max(), -vectors.min()) <= limit:  # false if there is a NaN
        return {}
    rows = np.flatnonzero(~(np.abs(vectors) <= limit).all(axis=1))
    return {int(row): f"its vector has a value that is not finite in {dtype}" for row in rows}
