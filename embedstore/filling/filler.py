"""Filling a space: look up, compute what is missing, commit. `preview` counts what a fill would do, without the model.

    records ─▶ window of canonical sequences and keys ─▶ look-up ─▶ backlog of missing ones ─▶ computing ─▶ report

`run` is given what computes: `computing` in this process, `embedstore.distributed` with workers. Nothing else differs
between fills.

Only the model's work depends on how much is missing: if every vector is there, the model is not even loaded. To resume
a fill, run it again. Memory is bounded by a window, a pool, and two segments, whatever the input.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import InputError
from embedstore.filling.committing import SegmentLimits
from embedstore.filling.computing import LocalComputing
from embedstore.filling.intake import DistinctKeys, Intake, Selection, Window
from embedstore.filling.pool import Backlog
from embedstore.filling.summary import DryRun, FillReport, OnProgress, SpaceSummary
from embedstore.filling.target import SpaceTarget
from embedstore.interruption import signal_of, uninterrupted
from embedstore.models.machine import kept_rate
from embedstore.records import Keys, Record, Rejection
from embedstore.upkeep import tend


@dataclass(frozen=True, slots=True)
class FillOptions:
    """How to fill.

    Attributes
    ----------
    device : where the model runs, "cpu", "cuda:0"; None: the best there is.
    any_molecule : embed proteins that look like DNA.
    limits : when a segment is committed.
    workers : opens who computes in place of this process, as `partial(distributed.computing_with, LocalProcesses(4))`.
    """

    device: str | None = None
    any_molecule: bool = False
    limits: SegmentLimits = field(default_factory=SegmentLimits)
    workers: Callable[[FillOptions], AbstractContextManager[Computing]] | None = None

    def computing(self) -> AbstractContextManager[Computing]:
        """Open who computes."""
        if self.workers is not None:
            return self.workers(self)
        return nullcontext(LocalComputing(self.device, self.limits))


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
    records : sequences to fill, and records that could not be read.
    target : the space, as `find_target` or `Store.target` return it.
    options : device, limits of segments; None: the defaults.
    on_progress : called often, with the same object each time; first before anything is looked up.
    selection : takes in the ids and keys of all accepted records.
    only : leaves out the sequences for whose keys it is false; `unique` counts the others.

    Raises
    ------
    MoleculeError : the input is of the other molecule than the model.
    CanaryError : the model does not reproduce the canaries of the space.
    ModelError : vectors are missing, and the model is not available.
    StoreError : the store refuses.
    """
    return fill_together(records, [target], options, on_progress=on_progress, selection=selection, only=only)[0]


def fill_together(
    records: Iterable[Record | Rejection],
    targets: Sequence[SpaceTarget],
    options: FillOptions | None = None,
    *,
    on_progress: OnProgress | None = None,
    selection: Selection | None = None,
    only: KeyFilter | None = None,
) -> list[FillReport]:
    """Fill several spaces of one model in one pass: other layers, other poolings; see `fill`.

    A sequence is computed once for all spaces that it is missing from.

    Parameters
    ----------
    records : sequences to fill, and records that could not be read.
    targets : the spaces; their recipes differ in layer and pooling alone.
    options : as for `fill`; several spaces are filled in this process.
    on_progress : as for `fill`.
    selection : as for `fill`.
    only : as for `fill`.

    Returns
    -------
    A report for each space.

    Raises
    ------
    EmbedStoreError : as `fill`. InputError : the recipes differ in more, or workers are asked for.
    """
    options = options or FillOptions()
    if len(targets) > 1 and options.workers is not None:
        raise InputError(
            f"Cannot fill {len(targets)} spaces together with workers: expected one space. Fill them one after another."
        )
    with options.computing() as computing:
        intake = open_intake(records, targets[0], any_molecule=options.any_molecule)
        backlog = Backlog(targets[0], on_progress, targets[1:])
        return run(intake, backlog, computing, selection=selection, only=only)


def open_intake(records: Iterable[Record | Rejection], target: SpaceTarget, *, any_molecule: bool) -> Intake:
    """Return the intake for a space: its molecule decides what a record must be."""
    return Intake(records, target.recipe.molecule, any_molecule)


class Windows(Protocol):
    """Sequences to fill, window by window, and how much was read for them so far; `Intake` is the usual one."""

    @property
    def read(self) -> int:
        """Records, rejected ones included."""
        ...

    @property
    def rejected(self) -> Sequence[Rejection]: ...

    def __iter__(self) -> Iterator[Window]: ...


class Computing(Protocol):
    """Computes what a fill finds missing: `LocalComputing`, or workers (`embedstore.distributed`).

    It takes what the backlog has queued, and settles each sequence when its vector is stored or on its way.
    """

    def keep_up(self, backlog: Backlog) -> None:
        """Do what is due; called before each look-up."""
        ...

    def compute(self, backlog: Backlog, *, more: bool) -> None:
        """Take all that is queued, if that is anything.

        Parameters
        ----------
        backlog : whose space may be made for it.
        more : the input goes on: return when more is wanted. Otherwise return when all of the backlog is settled.
        """
        ...

    def close(self, backlog: Backlog) -> None:
        """Store what is computed, whatever ended the fill; if that is interrupted, it can be called again."""
        ...


def run(
    windows: Windows,
    backlog: Backlog,
    computing: Computing,
    *,
    selection: Selection | None = None,
    only: KeyFilter | None = None,
) -> list[FillReport]:
    """Fill the spaces of a backlog, given what computes the missing vectors; see `fill`.

    Parameters
    ----------
    windows : sequences to fill.
    backlog : a new one for the target.
    computing : computes what is missing.
    selection : see `fill`.
    only : see `fill`.

    Raises
    ------
    EmbedStoreError : as `fill`.
    """
    started = time.perf_counter()
    with DistinctKeys() as distinct:
        try:
            backlog.tell("reading")
            backlog.refresh()
            for space in backlog.made:
                space.check_files()  # a key whose vector is gone must not count as stored
            for window in windows:
                computing.keep_up(backlog)
                wanted = window if only is None else window.only(only(window.key_array()))
                _look_up(wanted, backlog, distinct, selection)
                backlog.progress.read, backlog.progress.rejected = windows.read, len(windows.rejected)
                backlog.tell("reading")
                if backlog.queued.full:
                    computing.compute(backlog, more=True)
            computing.compute(backlog, more=False)
            backlog.tell("committing")
            _store_rest(backlog, computing)
            for filled, computed in zip(backlog.spaces, backlog.computed_of, strict=True):
                if filled is not None and computed and tend(filled) is None:
                    filled.optimise()  # well arranged for its next readers
            backlog.tell("done")
            return _reports(windows, backlog, distinct, started)
        except KeyboardInterrupt as stop:
            _store_rest(backlog, computing)  # a second Ctrl-C stops this, too
            return _reports(windows, backlog, distinct, started, signal_of(stop))
        except BaseException:
            computing.close(backlog)
            raise


def _look_up(window: Window, backlog: Backlog, distinct: DistinctKeys, selection: Selection | None) -> None:
    """Queue the sequences of a window that have no vector yet."""
    keys = window.key_array()
    rows = np.flatnonzero(~backlog.contains(keys)).tolist()
    if backlog.failures:
        failed = [row for row in rows if window.keys[row] in backlog.failures]
        backlog.failed += [_rejection(window, row, backlog.failures) for row in failed]
        rows = [row for row in rows if window.keys[row] not in backlog.failures]
    if backlog.uncommitted:
        rows = [row for row in rows if window.keys[row] not in backlog.uncommitted]
    with uninterrupted():  # a window is counted and queued, or neither
        distinct.add(keys)
        if selection is not None:
            selection.add(window)
        backlog.queued.add(window, rows)


def _rejection(window: Window, row: int, reasons: Mapping[bytes, str]) -> Rejection:
    record = window.records[row]
    return Rejection(record.file, record.line, record.id, reasons[window.keys[row]])


def _store_rest(backlog: Backlog, computing: Computing) -> None:
    computing.close(backlog)
    for space in backlog.made:
        space.settle()


def _reports(
    windows: Windows, backlog: Backlog, distinct: DistinctKeys, started: float, signal: str | None = None
) -> list[FillReport]:
    unique = distinct.count()
    return [_report(windows, backlog, unique, place, started, signal) for place in range(len(backlog.targets))]


def _report(
    windows: Windows, backlog: Backlog, unique: int, place: int, started: float, signal: str | None
) -> FillReport:
    target, space, computed = backlog.targets[place], backlog.spaces[place], backlog.computed_of[place]
    return FillReport(
        space=SpaceSummary.of(target.recipe, space.name if space else target.name),
        read=windows.read,
        unique=unique,
        hits=unique - computed - len(backlog.failures) - backlog.count_left(place),
        computed=computed,
        rejected=tuple(windows.rejected),
        failed=tuple(backlog.failed),
        seconds=time.perf_counter() - started,
        compute_seconds=backlog.compute_seconds,
        signal=signal,
    )


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
    records : the input.
    target : the space; it need not exist yet.
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
