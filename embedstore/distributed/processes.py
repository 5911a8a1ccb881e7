"""Workers that are processes of this machine, each with its own model, its share of the cores, or its own GPU.

A worker has one task at a time, so that its death is blamed on the task that it had and on no other. It ends by itself
when this process is gone: its pipe is closed then.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from embedstore.distributed.coordination import Executor, Loss, Outcome
from embedstore.distributed.working import (
    Job,
    Receipt,
    Task,
    physical_cores,
    prepare,
    transportable,
    use_threads,
    work,
    worker_devices,
)
from embedstore.errors import EmbedStoreError, InputError, WorkerError
from embedstore.interruption import not_for_children

_MOST_DEATHS_IN_LOADING = 3
_END_S = 5.0
"""How long a worker that has nothing to do may take to end."""


@dataclass(frozen=True, slots=True)
class LocalProcesses:
    """Processes of this machine.

    Attributes
    ----------
    count : how many; on GPUs at most one each.
    """

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"Cannot fill with {self.count} workers: expected at least 1.")

    @property
    def residues_per_second_divisor(self) -> int:
        """They share what one process has."""
        return self.count

    @contextmanager
    def open(self, job: Job) -> Iterator[Executor]:
        """See `coordination.Workers`."""
        devices = worker_devices(job, self.count)
        processes = _Processes([replace(job, device=device) for device in devices])
        try:
            yield processes
        finally:
            processes.close()


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What a worker sends when it is ready for tasks."""


@dataclass(frozen=True, slots=True)
class _Broken:
    """What a worker sends before it ends for a reason other than a sequence."""

    what: str


_Message = _Prepared | _Broken | Receipt


class _Worker:
    """One worker process, seen from the process that started it."""

    def __init__(self, number: int, job: Job, threads: int) -> None:
        self.number = number
        self.task: Task | None = None
        """What it has, or gets as soon as it is ready."""
        self.ready = False
        self.connection, theirs = get_context("spawn").Pipe()
        self.process: SpawnProcess = get_context("spawn").Process(
            target=_serve, args=(theirs, job, threads), name=f"embedstore-worker-{number}", daemon=True
        )
        with not_for_children():
            self.process.start()
        theirs.close()

    def give(self, task: Task) -> None:
        self.task = task
        if self.ready:
            self._send(task)

    def receive(self) -> _Message | Loss:
        """Receive its message, or find how it died."""
        try:
            message: _Message = self.connection.recv()
        except (EOFError, OSError):
            return self._death()
        if isinstance(message, _Prepared):
            self.ready = True
            if self.task is not None:
                self._send(self.task)
        return message

    def ask_to_end(self) -> None:
        """Ask it to end as soon as it can, with a receipt if it has a task."""
        self._send(None)

    def close(self) -> None:
        """End it; it has nothing to do any more."""
        self.connection.close()
        self.process.join(0 if self.task is not None else _END_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.process.close()

    def _send(self, message: Task | None) -> None:
        with suppress(OSError):  # it died: receiving tells
            self.connection.send(message)

    def _death(self) -> Loss:
        self.process.join(_END_S)
        code = self.process.exitcode
        if code is not None and code < 0:
            with suppress(ValueError):
                return Loss(f"died of {signal.Signals(-code).name}")
        return Loss(f"ended with exit code {code}")


class _Processes:
    """Executor of local processes; each is started when there is a task for it."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self._threads = max(1, physical_cores() // len(jobs))
        self._alive: dict[int, _Worker] = {}
        self._deaths_in_loading = 0

    @property
    def workers(self) -> int:
        return len(self._jobs)

    @property
    def in_hand(self) -> int:
        return sum(worker.task is not None for worker in self._alive.values())

    def vacancies(self) -> int:
        return self.workers - self.in_hand

    def submit(self, task: Task) -> None:
        idle = [worker for worker in self._alive.values() if worker.task is None]
        number = min(set(range(self.workers)) - self._alive.keys(), default=None)
        if idle or number is None:
            worker = idle[0]
        else:
            worker = self._alive[number] = _Worker(number, self._jobs[number], self._threads)
        worker.give(task)

    def wait(self, timeout_s: float | None) -> None:
        if self._alive:
            wait([worker.connection for worker in self._alive.values()], timeout_s)

    def outcomes(self) -> list[Outcome]:
        connections = {worker.connection: worker for worker in self._alive.values()}
        found = (self._outcome(connections[each]) for each in wait(list(connections), 0) if each in connections)
        return [outcome for outcome in found if outcome is not None]

    def stop(self) -> list[Outcome]:
        found: list[Outcome] = []
        for worker in list(self._alive.values()):
            worker.ask_to_end()
        for number, worker in list(self._alive.items()):
            task = worker.task
            while worker.task is not None and worker.ready:
                message = worker.receive()
                if isinstance(message, Receipt) and task is not None:
                    found.append((task, message))
                if not isinstance(message, _Prepared):
                    worker.task = None
            worker.close()
            del self._alive[number]
        return found

    def close(self) -> None:
        """Leave no process behind; each ends by itself as soon as its pipe is closed, if this is interrupted."""
        for worker in self._alive.values():
            worker.connection.close()
        for worker in self._alive.values():
            worker.close()
        self._alive.clear()

    def _outcome(self, worker: _Worker) -> Outcome | None:
        message = worker.receive()
        if isinstance(message, _Broken):
            raise WorkerError(f"Worker {worker.number + 1} failed: {message.what}")
        if isinstance(message, _Prepared):
            self._deaths_in_loading = 0
            return None
        task, worker.task = worker.task, None
        if isinstance(message, Loss):
            del self._alive[worker.number]
            worker.close()
            if not worker.ready and task is not None:
                self._load_again(worker, message, task)
                return None
        return None if task is None else (task, message)

    def _load_again(self, worker: _Worker, loss: Loss, task: Task) -> None:
        """Start another worker for one that died before it got its task: that task is not to blame."""
        self._deaths_in_loading += 1
        if self._deaths_in_loading == _MOST_DEATHS_IN_LOADING:
            raise WorkerError(
                f"Worker {worker.number + 1} of {self.workers} {loss.reason} while it loaded the model, as others did "
                "before. There may be too little memory for that many workers: use fewer."
            )
        self.submit(task)


def _serve(connection: Connection, job: Job, threads: int) -> None:
    """Work until told to end, or until the process that started it is gone."""
    use_threads(threads)
    try:
        _serve_tasks(connection, job)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the process that started it is gone
    except BaseException as error:
        with suppress(OSError):
            connection.send(_Broken(f"{type(error).__name__}: {error}"))
        raise


def _serve_tasks(connection: Connection, job: Job) -> None:
    try:
        prepare(job)
    except EmbedStoreError as error:
        connection.send(Receipt(error=transportable(error)))
        return
    connection.send(_Prepared())
    while (task := connection.recv()) is not None:
        # What comes while it works: it is asked to end, or the process that started it is gone.
        connection.send(work(job, task, connection.poll))
