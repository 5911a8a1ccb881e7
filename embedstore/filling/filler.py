"""Filling a space: look up, compute what is missing, commit. `preview` counts what a fill would do, without the model.

    records ─▶ window of canonical sequences and keys ─▶ look-up ─▶ pool of missing ones ─▶ packs ─▶ model ─▶ segments

Only the model's work depends on how much is missing: if every vector is there, the model is not even loaded. To resume
a fill, run it again. Memory is bounded by a window, a pool, and two segments, whatever the input.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import InputError
from embedstore.filling import canaries
from embedstore.filling.committing import Committer, Cost, SegmentLimits
from embedstore.filling.intake import DistinctKeys, Intake, Selection, Window
from embedstore.filling.pool import Pack, Pool, embed_packs
from embedstore.filling.summary import DryRun, FillProgress, FillReport, SpaceSummary
from embedstore.filling.target import SpaceTarget
from embedstore.identity import key_array
from embedstore.interruption import signal_of
from embedstore.models.embedder import Embedded, Embedder
from embedstore.models.machine import kept_rate
from embedstore.models.registry import MODELS
from embedstore.records import Keys, Record, Rejection, Vectors
from embedstore.store.space import Space
from embedstore.upkeep import tend

_REFRESH_S = 20.0
"""How often a fill looks what other processes have committed, not to compute it again."""


@dataclass(frozen=True, slots=True)
class FillOptions:
    """How to fill.

    Attributes
    ----------
    device : where the model runs, "cpu", "cuda:0"; None: the best there is.
    any_molecule : embed proteins that look like DNA.
    limits : when a segment is committed.
    """

    device: str | None = None
    any_molecule: bool = False
    limits: SegmentLimits = field(default_factory=SegmentLimits)


OnProgress = Callable[[FillProgress], None]
KeyFilter = Callable[[Keys], NDArray[np.bool_]]
"""(n, 24) uint8 keys -> (n,) bool."""


def fill(
    records: Iterable[Record | Rejection],
    target: SpaceTarget,
    options: FillOptions | None = None,
    *,
    on_progress: OnProgress | None = None,
    selection: Selection | None = None,
    only: KeyFilter | None = None,
) -> FillReport:
    """Compute and store the vector of every sequence that is missing from the target space.

    Whatever ends it early, an error or Ctrl-C, what was computed until then is committed first. An error is raised
    then; after Ctrl-C, or what else raises KeyboardInterrupt (see `embedstore.interruption`), the report says
    `interrupted`.

    Parameters
    ----------
    on_progress : called often, with the same object each time.
    selection : takes in the ids and keys of all accepted records.
    only : leaves out the sequences for whose keys it is false; `unique` counts the others.

    Raises
    ------
    MoleculeError : the input is of the other molecule than the model.
    CanaryError : the model does not reproduce the canaries of the space.
    ModelError : vectors are missing, and the model is not available.
    StoreError : the store refuses.
    """
    with DistinctKeys() as distinct:
        walk = Walk(on_progress, selection, only, distinct)
        return Fill(records, target, options or FillOptions(), walk).run()


def open_intake(records: Iterable[Record | Rejection], target: SpaceTarget, *, any_molecule: bool) -> Intake:
    """Return the intake for a space: its molecule decides what a record must be."""
    molecule = target.recipe.molecule
    others = [spec.name for spec in MODELS.values() if spec.molecule != molecule]
    return Intake(records, molecule, any_molecule, others)


def prepare_space(target: SpaceTarget, embedder: Embedder) -> Space:
    """Return the space of a target, created if missing, after the loaded model has reproduced its canaries.

    Raises
    ------
    InputError : there is no store. CanaryError : the model does not reproduce the canaries of the space.
    """
    space = target.space
    if space is None:
        if target.store is None:
            raise InputError(f"Cannot fill space {target.name}: there is no store. Create one first.")
        space = target.store.create_space(target.recipe, target.name, canaries.compute(embedder))
    canaries.check(space, embedder)
    return space


@dataclass(frozen=True, slots=True)
class Walk:
    """Options of a fill that follow its records; see `fill`."""

    on_progress: OnProgress | None
    selection: Selection | None
    only: KeyFilter | None
    distinct: DistinctKeys


class Fill:
    """One run of `fill`. `embedstore.distributed` overrides who computes the queued sequences."""

    def __init__(
        self, records: Iterable[Record | Rejection], target: SpaceTarget, options: FillOptions, walk: Walk
    ) -> None:
        self._target = target
        self._options = options
        self._on_progress = walk.on_progress
        self._selection = walk.selection
        self._only = walk.only
        self._distinct = walk.distinct
        self._intake = open_intake(records, target, any_molecule=options.any_molecule)
        self._space = target.space
        self._embedder: Embedder | None = None
        self._committer: Committer | None = None
        self._pool = Pool()
        self._failures: dict[bytes, str] = {}
        self._failed: list[Rejection] = []
        self._compute_seconds = 0.0
        self._progress = FillProgress()

    def run(self) -> FillReport:
        started = time.perf_counter()
        try:
            self._work()
            self._store_rest()
            self._tend()
            return self._report(time.perf_counter() - started)
        except KeyboardInterrupt as stop:
            self._store_rest()  # a second Ctrl-C stops this, too
            return self._report(time.perf_counter() - started, signal_of(stop))
        except BaseException:
            self._commit_rest()
            raise

    def _work(self) -> None:
        if self._space is not None:
            self._space.check_files()  # a key whose vector is gone must not count as stored
        for window in self._intake:
            self._look_up(window)
            if self._pool.full:
                self._compute(f"at least {len(self._pool)}")
        self._compute(str(len(self._pool)))

    def _store_rest(self) -> None:
        self._commit_rest()
        if self._space is not None:
            self._space.settle()

    def _commit_rest(self) -> None:
        if self._committer is not None:
            self._committer.close()

    def _tend(self) -> None:
        """Leave the space well arranged for its next readers."""
        space = self._space if self._count_computed() else None
        if space is not None and tend(space) is None:
            space.optimise()

    def _look_up(self, window: Window) -> None:
        """Queue the sequences of a window that have no vector yet."""
        if self._only is not None:
            window = window.only(self._only(window.key_array()))
        keys = window.key_array()
        self._distinct.add(keys)
        if self._selection is not None:
            self._selection.add(window)
        present = self._space.contains(keys) if self._space is not None else np.zeros(len(keys), np.bool_)
        rows = np.flatnonzero(~present).tolist()
        if self._failures:
            self._failed += [
                _rejection(window, row, self._failures) for row in rows if window.keys[row] in self._failures
            ]
            rows = [row for row in rows if window.keys[row] not in self._failures]
        if self._committer is not None:
            uncommitted = self._committer.uncommitted
            rows = [row for row in rows if window.keys[row] not in uncommitted]
            self._committer.commit_if_due()
        self._pool.add(window, rows)
        self._tell_progress()

    def _compute(self, missing: str) -> None:
        """Embed all queued sequences."""
        if not len(self._pool):
            return
        embedder, committer = self._prepared(missing)
        with closing(embed_packs(embedder, self._packs(embedder, committer.space))) as results:
            started = time.perf_counter()
            for pack, embedded in results:
                seconds = time.perf_counter() - started
                self._compute_seconds += seconds
                self._keep(pack, embedded, committer, seconds)
                self._tell_progress()
                started = time.perf_counter()
        self._pool = Pool()

    def _prepared(self, missing: str) -> tuple[Embedder, Committer]:
        """Load the model, create the space if missing, compare canaries: once, when something must be computed."""
        if self._embedder is None or self._committer is None:
            if self._target.store is not None:
                self._target.store.require_writable(self._space)
            embedder = self._target.load_model(self._options.device, missing)
            self._space = prepare_space(self._target, embedder)
            self._embedder, self._committer = embedder, Committer(self._space, self._options.limits)
        return self._embedder, self._committer

    def _packs(self, embedder: Embedder, space: Space) -> Iterator[Pack]:
        """Yield packs of the queue, without what other processes have committed meanwhile."""
        space.refresh()
        refreshed = time.monotonic()
        waiting = self._pool.keys()
        self._pool.settle(key.tobytes() for key in waiting[space.contains(waiting)])
        news = False
        for pack in self._pool.packs(embedder.pack_residues, embedder.workers):
            if time.monotonic() - refreshed > _REFRESH_S:
                space.refresh()
                refreshed, news = time.monotonic(), True
            if news:
                present = space.contains(key_array(pack.keys))
                self._pool.settle(pack.only(present).keys)
                pack = pack.only(~present)
            if len(pack):
                yield pack

    def _keep(self, pack: Pack, embedded: Embedded, committer: Committer, seconds: float) -> None:
        """Hand the vectors of a pack to the committer, and note which sequences have none."""
        dtype = committer.space.dtype
        reasons = {**_unstorable(embedded.vectors, dtype), **embedded.failures}
        good, vectors = pack, embedded.vectors
        if reasons:
            failures = {pack.keys[row]: reason for row, reason in reasons.items()}
            self._failures.update(failures)
            self._failed.extend(self._pool.rejections(failures))
            storable = ~np.isin(np.arange(len(pack)), list(reasons))
            good, vectors = pack.only(storable), vectors[storable]
        if len(good):
            committer.add(good.keys, vectors, Cost(good.residues, seconds))
        self._pool.settle(pack.keys)
        self._progress.computed += len(good)
        self._progress.residues_computed += good.residues

    def _tell_progress(self) -> None:
        if self._on_progress is not None:
            progress = self._progress
            progress.read, progress.rejected = self._intake.read, len(self._intake.rejected)
            progress.failed = len(self._failed)
            progress.waiting, progress.residues_waiting = self._count_waiting()
            self._on_progress(progress)

    def _report(self, seconds: float, signal: str | None = None) -> FillReport:
        unique = self._distinct.count()
        computed = self._count_computed()
        return FillReport(
            space=SpaceSummary.of(self._target.recipe, self._space.name if self._space else self._target.name),
            read=self._intake.read,
            unique=unique,
            hits=unique - computed - len(self._failures) - self._count_left(),
            computed=computed,
            rejected=tuple(self._intake.rejected),
            failed=tuple(self._failed),
            seconds=seconds,
            compute_seconds=self._compute_seconds,
            signal=signal,
        )

    def _count_computed(self) -> int:
        return self._committer.rows_committed if self._committer is not None else 0

    def _count_waiting(self) -> tuple[int, int]:
        """Count queued sequences and their residues."""
        return len(self._pool), self._pool.residues

    def _waiting(self) -> Keys:
        """(n, 24) uint8: distinct keys of queued sequences."""
        return self._pool.keys()

    def _count_left(self) -> int:
        """Count what is still queued: nothing, unless the fill was interrupted."""
        waiting = self._waiting()
        if self._space is None or not len(waiting):
            return len(waiting)
        missing = self._space.missing(waiting)
        return sum(key.tobytes() not in self._failures for key in missing)


def _rejection(window: Window, row: int, reasons: Mapping[bytes, str]) -> Rejection:
    record = window.records[row]
    return Rejection(record.file, record.line, record.id, reasons[window.keys[row]])


def _unstorable(vectors: Vectors, dtype: np.dtype[Any]) -> dict[int, str]:
    """Find rows that `dtype` cannot hold, each with the reason."""
    if not len(vectors):
        return {}
    limit = np.finfo(dtype).max
    if max(vectors.max(), -vectors.min()) <= limit:  # false if there is a NaN
        return {}
    rows = np.flatnonzero(~(np.abs(vectors) <= limit).all(axis=1))
    return {int(row): f"its vector has a value that is not finite in {dtype}" for row in rows}


ROUGH_RESIDUES_PER_SECOND: dict[str, float] = {
    "tnf": 3e7,
    "aac_dpc": 3e7,
    "esm2_t6_8m": 6e3,
    "esm2_t12_35m": 1.4e3,
    "esm2_t30_150m": 3e2,
    "esm2_t33_650m": 70.0,
    "esm2_t36_3b": 15.0,
    "fastesm2_650": 70.0,
    "dnabert_s": 2e3,
}
"""Residues or bases a second on two processor cores, by the model's name in the recipe: for spaces whose commits do not
tell yet, on machines where `bench` has not measured it.

ESM-2 8M was measured, the other language models follow from their number of parameters (DNABERT-S with five bases a
token). A GPU is some hundred times faster.
"""


def preview(
    records: Iterable[Record | Rejection],
    target: SpaceTarget,
    *,
    any_molecule: bool = False,
    device: str | None = None,
    only: KeyFilter | None = None,
) -> FillReport:
    """Count hits and misses of a fill, and estimate how long the misses would take.

    Parameters
    ----------
    any_molecule : take proteins that look like DNA.
    device : where the model would run; None: the best there is.
    only : leaves out the sequences for whose keys it is false.

    Raises
    ------
    MoleculeError : the input is of the other molecule than the model.
    """
    started = time.perf_counter()
    intake = open_intake(records, target, any_molecule=any_molecule)
    missing_records = missing_residues = 0
    with DistinctKeys() as distinct, DistinctKeys() as missing:
        for window in intake:
            if only is not None:
                window = window.only(only(window.key_array()))
            keys = window.key_array()
            distinct.add(keys)
            if target.space is not None:
                absent = ~target.space.contains(keys)
                missing.add(keys[absent])
                lengths = [len(window.sequences[row]) for row in absent.nonzero()[0].tolist()]
            else:
                missing.add(keys)
                lengths = [len(sequence) for sequence in window.sequences]
            missing_records += len(lengths)
            missing_residues += sum(lengths)
        unique, misses = distinct.count(), missing.count()
    # Equal sequences are computed once; their share is taken to be the same at every length.
    residues = missing_residues * misses / max(missing_records, 1)
    return FillReport(
        space=SpaceSummary.of(target.recipe, target.name),
        read=intake.read,
        unique=unique,
        hits=unique - misses,
        computed=0,
        rejected=tuple(intake.rejected),
        failed=(),
        seconds=time.perf_counter() - started,
        compute_seconds=0.0,
        dry_run=DryRun(misses, _estimated_seconds(target, residues, device)),
    )


def residues_per_second(target: SpaceTarget, device: str | None) -> float | None:
    """Estimate from what the space's commits have cost, else from what `bench` measured, else from the rough constant.

    None: unknown.
    """
    if target.space is not None:
        info = target.space.info()
        if info.residues and info.compute_seconds:
            return info.residues / info.compute_seconds
    return kept_rate(target.recipe, device) or ROUGH_RESIDUES_PER_SECOND.get(target.recipe.model)


def _estimated_seconds(target: SpaceTarget, residues: float, device: str | None) -> float | None:
    if residues == 0:
        return 0.0
    rate = residues_per_second(target, device)
    return None if rate is None else residues / rate
