"""Filling a space with many workers: the steps of an ordinary fill, but missing sequences are handed out in tasks.

`TaskPlan` cuts the queue into tasks that take a worker some seconds, smaller ones towards the end. `Workers` and
`Executor` are what coordination needs of the workers, whatever runs them. `fill_with_workers` brings both together.

A task whose worker died is tried again; if that kills a worker too, it is split in halves, and those again, until the
sequence that causes it stands alone: it is reported as failed, and all others are computed. Each worker makes its
vectors durable before it sends its receipt, so that only the report depends on this process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from embedstore.distributed.working import Job, Receipt, Task
from embedstore.errors import InputError, WorkerError
from embedstore.filling.filler import Computing, FillOptions, KeyFilter, fill, residues_per_second
from embedstore.filling.intake import Selection
from embedstore.filling.pool import Backlog, Pack
from embedstore.filling.summary import FillReport, OnProgress
from embedstore.filling.target import SpaceTarget
from embedstore.interruption import uninterrupted
from embedstore.records import Record, Rejection
from embedstore.storage.locations import is_url

TASK_SECONDS = 20.0
"""Long against what a task costs beside the model (a commit), short against what a lost one costs."""
_SMALLEST_SHARE = 16
_TASKS_LEFT_PER_WORKER = 2
_MOST_RESIDUES = 128 << 20
"""What travels to a worker in one message. A fast GPU computes 90 million bases of DNA in `TASK_SECONDS`."""
_MOST_RESIDUES_BUILT_IN = 4 << 20  # of models without weights, which are computed as fast as they travel
_MOST_QUEUED_RESIDUES = 512 << 20
"""Full tasks of all workers are in this process's memory: with many workers they are smaller."""
_MOST_RECORDS = 400_000
_UNKNOWN_RESIDUES_PER_SECOND = 1000.0


class TaskPlan:
    """Sequences that are queued to be handed out.

    Within what is added at once, neighbours in length are computed together, longest first. Towards the end tasks get
    smaller, so that no worker waits long for the one that has the last of all (guided self-scheduling).

    Parameters
    ----------
    residues_per_second : of one worker, about; corrected by `learn`.
    workers : how many there are, about.
    most_residues : of one task, however fast they are.
    """

    def __init__(self, residues_per_second: float | None, workers: int, most_residues: float = _MOST_RESIDUES) -> None:
        self._rate = residues_per_second or _UNKNOWN_RESIDUES_PER_SECOND
        self._workers = workers
        self._most_residues = min(most_residues, _MOST_QUEUED_RESIDUES / (_TASKS_LEFT_PER_WORKER * workers))
        self._ordered: deque[tuple[bytes, bytes]] = deque()
        self._again: deque[Task] = deque()
        self._learned_residues = 0
        self._learned_seconds = 0.0
        self.residues = 0
        """Residues or bases that are queued, without those of tasks that were put back."""

    def __bool__(self) -> bool:
        return bool(self._ordered or self._again)

    @property
    def scarce(self) -> bool:
        """Whether more should be added, before the tasks get small."""
        return self.residues < _TASKS_LEFT_PER_WORKER * self._workers * self._full_residues()

    def add(self, keys: Sequence[bytes], sequences: Sequence[bytes]) -> None:
        """Queue sequences, behind those that are queued already."""
        self._ordered.extend(sorted(zip(keys, sequences, strict=True), key=lambda pair: -len(pair[1])))
        self.residues += sum(map(len, sequences))

    def put_back(self, task: Task) -> None:
        """Queue a task that has been handed out before."""
        self._again.append(task)

    def learn(self, residues: int, seconds: float) -> None:
        """Learn how long a worker took for so many residues."""
        self._learned_residues += residues
        self._learned_seconds += seconds
        if self._learned_seconds > 0 and self._learned_residues:
            self._rate = self._learned_residues / self._learned_seconds

    def next(self) -> Task | None:
        """Hand out a task; None if nothing is queued."""
        if self._again:
            return self._again.popleft()
        if not self._ordered:
            return None
        most = self._task_residues()
        keys: list[bytes] = []
        sequences: list[bytes] = []
        residues = 0
        while self._ordered and len(keys) < _MOST_RECORDS:
            length = len(self._ordered[0][1])
            if keys and residues + length > most:
                break
            key, sequence = self._ordered.popleft()
            keys.append(key)
            sequences.append(sequence)
            residues += length
        self.residues -= residues
        return Task(Pack(keys, sequences))

    def _full_residues(self) -> float:
        return min(self._most_residues, self._rate * TASK_SECONDS)

    def _task_residues(self) -> float:
        full = self._full_residues()
        share = self.residues / (_TASKS_LEFT_PER_WORKER * self._workers)
        return min(full, max(share, full / _SMALLEST_SHARE))


@dataclass(frozen=True, slots=True)
class Loss:
    """A worker died while it had a task.

    Attributes
    ----------
    reason : how it died, to follow "the worker".
    """

    reason: str


Outcome = tuple[Task, Receipt | Loss]


class Executor(Protocol):
    """Workers that can be given tasks. Used from one thread."""

    @property
    def workers(self) -> int:
        """How many there are, or are to be, about."""
        ...

    @property
    def in_hand(self) -> int:
        """How many submitted tasks have no outcome yet."""
        ...

    def vacancies(self) -> int:
        """How many tasks should be submitted now."""
        ...

    def submit(self, task: Task) -> None:
        """Have a task computed."""
        ...

    def wait(self, timeout_s: float | None) -> None:
        """Wait until there is an outcome, or something else to see to; not longer than so many seconds."""
        ...

    def outcomes(self) -> list[Outcome]:
        """Return what outcomes there are, without waiting.

        Raises
        ------
        WorkerError : workers cannot be started, cannot be reached, or fail for a reason other than a task.
        """
        ...

    def stop(self) -> list[Outcome]:
        """Have running tasks end early, storing what they have computed; return their outcomes. Nothing follows."""
        ...


class Workers(Protocol):
    """Where tasks can be computed; nothing is started before `open`."""

    @property
    def residues_per_second_divisor(self) -> int:
        """By what the speed of this machine must be divided to be that of one worker, about."""
        ...

    def open(self, job: Job) -> AbstractContextManager[Executor]:
        """Get workers for a job; none of them is left when the context ends.

        Raises
        ------
        WorkerError : they are not available.
        InputError : the options do not suit.
        MissingDependencyError : an extra is not installed.
        """
        ...


_LOSSES_TO_SPLIT = 2
_MOST_LOSSES_IN_A_ROW = 10
_MOST_LOSSES_IN_A_ROW_PER_WORKER = 4


def fill_with_workers(
    records: Iterable[Record | Rejection],
    target: SpaceTarget,
    workers: Workers,
    options: FillOptions | None = None,
    *,
    on_progress: OnProgress | None = None,
    selection: Selection | None = None,
    only: KeyFilter | None = None,
) -> FillReport:
    """Do what `embedstore.filling.fill` does, in other processes; the store then holds the same.

    In a script, call it below `if __name__ == "__main__":`, as worker processes import the script.

    Parameters
    ----------
    records : as in `fill`.
    target : as `Store.target` or `find_target` return it.
    workers : `LocalProcesses`, `DaskScheduler` or `DaskCluster`. None is started before something has to be computed.
    options : as in `fill`.
    on_progress : as in `fill`.
    selection : as in `fill`.
    only : as in `fill`.

    Returns
    -------
    FillReport : `compute_seconds` is the sum over the workers. A sequence of which workers die is among `failed`.

    Raises
    ------
    WorkerError : workers are not available, or die whatever they are given.
    EmbedStoreError : as in `fill`; after what was computed was stored.
    """
    how = replace(options or FillOptions(), workers=partial(computing_with, workers))
    return fill(records, target, how, on_progress=on_progress, selection=selection, only=only)


@contextmanager
def computing_with(workers: Workers, options: FillOptions) -> Iterator[Computing]:
    """Open workers that compute what a fill finds missing: with them bound, the `workers` of `FillOptions`.

    None of them is left when the context ends.

    Parameters
    ----------
    workers : as for `fill_with_workers`.
    options : device, limits.
    """
    with ExitStack() as stack:
        yield _WorkersComputing(workers, options, stack)


class _WorkersComputing:
    """Has the sequences of a backlog computed by workers; see `filler.Computing`."""

    def __init__(self, workers: Workers, options: FillOptions, stack: ExitStack) -> None:
        self._workers = workers
        self._options = options
        self._stack = stack
        self._executor: Executor | None = None
        self._plan = TaskPlan(None, 1)
        self._losses_in_a_row = 0
        self._new_rows = False

    def keep_up(self, backlog: Backlog) -> None:
        """Give out tasks, take what is done, and read what the workers have committed."""
        self._exchange(backlog, timeout_s=0)
        if self._new_rows:
            _find_space(backlog)
            self._new_rows = False

    def compute(self, backlog: Backlog, *, more: bool) -> None:
        """Queue all sequences in the plan, and have tasks computed."""
        if len(backlog.queued):
            if self._executor is None:
                self._executor = self._opened(backlog, more=more)
            sequences = backlog.take()
            self._plan.add(list(sequences), list(sequences.values()))
        while self._executor is not None and (not self._plan.scarce if more else self._plan or self._executor.in_hand):
            self._exchange(backlog, timeout_s=None)

    def close(self, backlog: Backlog) -> None:
        """Let the workers store what they have computed; nothing is left to do when all went well."""
        executor, self._executor = self._executor, None
        if executor is not None:
            for _, receipt in executor.stop():
                if isinstance(receipt, Receipt):  # the store tells which sequences that are
                    self._count(backlog, receipt)
                    backlog.settle(receipt.failures)
            _find_space(backlog)

    def _opened(self, backlog: Backlog, *, more: bool) -> Executor:
        missing = len(backlog.queued)
        job = _job(backlog, self._options, f"at least {missing}" if more else str(missing))
        backlog.tell("starting the workers")
        executor = self._stack.enter_context(self._workers.open(job))
        rate = residues_per_second(backlog.target, self._options.device)
        rate = None if rate is None else rate / self._workers.residues_per_second_divisor
        built_in = backlog.target.recipe.weights_sha256 is None
        self._plan = TaskPlan(rate, executor.workers, _MOST_RESIDUES_BUILT_IN if built_in else _MOST_RESIDUES)
        return executor

    def _exchange(self, backlog: Backlog, timeout_s: float | None) -> None:
        """Give tasks to workers that have none, and take what others have done."""
        executor = self._executor
        if executor is None:
            return
        self._give(executor)
        executor.wait(timeout_s)
        with uninterrupted():  # no receipt is lost
            for task, outcome in executor.outcomes():
                if isinstance(outcome, Loss):
                    self._lose(backlog, task, outcome, executor)
                else:
                    self._losses_in_a_row = 0
                    self._take(backlog, task, outcome)
        self._give(executor)

    def _give(self, executor: Executor) -> None:
        for _ in range(executor.vacancies()):
            task = self._plan.next()
            if task is None:
                return
            executor.submit(task)

    def _take(self, backlog: Backlog, task: Task, receipt: Receipt) -> None:
        """Record what a worker did with a task."""
        self._count(backlog, receipt)
        if receipt.error is not None:
            raise receipt.error
        if task.losses:  # workers of this fill died of it, and may have stored some of it before
            backlog.computed += receipt.present
        self._plan.learn(receipt.residues, receipt.compute_seconds)
        backlog.settle(task.pack.keys)
        backlog.tell("computing")

    def _count(self, backlog: Backlog, receipt: Receipt) -> None:
        backlog.computed += receipt.computed
        backlog.count(receipt.computed, receipt.residues, receipt.compute_seconds)
        self._new_rows = True
        if receipt.failures:
            backlog.fail(receipt.failures)

    def _lose(self, backlog: Backlog, task: Task, loss: Loss, executor: Executor) -> None:
        """Try a task again, or halves of it; or report its only sequence as the one that kills workers."""
        self._losses_in_a_row += 1
        most = _MOST_LOSSES_IN_A_ROW + _MOST_LOSSES_IN_A_ROW_PER_WORKER * executor.workers
        if self._losses_in_a_row > most:
            raise WorkerError(
                f"Cannot fill space {backlog.target.name}: {self._losses_in_a_row} times in a row a worker died, "
                f"whatever it was given; the last one {loss.reason}. Look at its memory, and fill with fewer workers."
            )
        losses, pack = task.losses + 1, task.pack
        if losses < _LOSSES_TO_SPLIT:
            self._plan.put_back(Task(pack, losses))
        elif len(pack) > 1:
            middle = np.arange(len(pack)) < len(pack) // 2
            for half in (pack.only(middle), pack.only(~middle)):
                # A sequence that stands alone is tried twice, so that it does not pay for another worker's death.
                self._plan.put_back(Task(half, losses - 1 if len(half) > 1 else 0))
        else:
            reason = f"{losses} times the worker that computed it {loss.reason}"
            backlog.fail(dict.fromkeys(pack.keys, reason))
            backlog.settle(pack.keys)
            backlog.tell()


def _find_space(backlog: Backlog) -> None:
    """Read what the workers have committed."""
    if backlog.space is not None:
        backlog.refresh()
    elif backlog.target.store is not None:
        backlog.space = backlog.target.store.find_space(backlog.target.recipe, backlog.target.name)


def _job(backlog: Backlog, options: FillOptions, missing: str) -> Job:
    """Return what workers must know, after everything that could refuse them was asked.

    Raises
    ------
    InputError : there is no store, or no other process can get the model.
    EmbedStoreError : as `fill`.
    """
    target, space = backlog.target, backlog.space
    if target.store is None:
        raise InputError(f"Cannot fill space {target.name}: there is no store. Create one first.")
    if target.source is None:
        raise InputError(
            f"Cannot fill space {target.name} with other processes: its model exists in this process only. "
            "Use fill, or a target from find_target."
        )
    target.store.require_writable(space)
    if space is not None:  # maybe in an upstream store only, whose canaries the workers must reproduce
        target.store.local.create_space(target.recipe, target.name, space.canaries)
    target.get_model(missing)  # if it must be fetched, once, and not by every worker
    location = target.store.location
    location = location if is_url(location) else str(Path(location).absolute())
    files = target.store.trust.files
    return Job(location, target.recipe, target.name, target.source, options.device, options.limits, files)
