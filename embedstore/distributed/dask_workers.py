"""Workers of a Dask cluster: one that runs already, or one that is started for the fill as a cluster file says.

A cluster file is YAML:

    kind: slurm        # local, slurm, pbs or lsf
    minimum: 0
    maximum: 40
    options:           # of dask_jobqueue's SLURMCluster, PBSCluster, LSFCluster, or of distributed's LocalCluster
      queue: gpu
      cores: 8
      memory: 32GB

Dask gives the task of a worker that died to another worker, several times, before it reports a failure; only then is
the task halved. Anyone who can reach a Dask scheduler can run code on its workers: keep it on trusted networks.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import queue
import shlex
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from embedstore.distributed.coordination import Executor, Loss, Outcome
from embedstore.distributed.working import Job, Receipt, Task, physical_cores, use_threads, with_own_gpu, work
from embedstore.errors import InputError, MissingDependencyError, WorkerError
from embedstore.interruption import kept_handlers, not_for_children

_FIELDS = {"kind", "minimum", "maximum", "options"}


def read_cluster_file(path: Path) -> DaskCluster:
    """Read which cluster a YAML file describes.

    Raises
    ------
    InputError : it cannot be read, or is something else.
    MissingDependencyError : the extra `cluster` is not installed.
    """
    document = _parsed(path)
    if not isinstance(document, dict):
        raise InputError(f"Cannot start the cluster of {path}: expected kind, maximum and more, found no such fields.")
    unknown = sorted(map(str, document.keys() - _FIELDS))
    if unknown:
        raise InputError(
            f"Cannot start the cluster of {path}: expected {', '.join(sorted(_FIELDS))}, found {', '.join(unknown)}. "
            "Options of the cluster's class belong under options."
        )
    kind, options = document.get("kind"), document.get("options") or {}
    if kind not in CLASSES:
        raise InputError(f"Cannot start the cluster of {path}: expected kind {', '.join(CLASSES)}, found {kind!r}.")
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        raise InputError(f"Cannot start the cluster of {path}: expected names and values under options.")
    maximum = _count(path, document, "maximum", None)
    return DaskCluster(kind, _count(path, document, "minimum", maximum), maximum, options)


def _count(path: Path, document: dict[str, Any], name: str, default: int | None) -> int:
    found = document.get(name, default)
    if not isinstance(found, int) or isinstance(found, bool):
        raise InputError(
            f"Cannot start the cluster of {path}: expected a number of workers as {name}, found {found!r}."
        )
    return found


def _parsed(path: Path) -> object:
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError as error:
        raise MissingDependencyError(
            f"Cannot read {path}: {error.name} is not installed. Run `pip install 'embedstore-bio[cluster]'`."
        ) from error
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path}: it is not YAML: {error}") from error


Kind = Literal["local", "slurm", "pbs", "lsf"]
CLASSES: dict[Kind, tuple[str, str]] = {
    "local": ("distributed", "LocalCluster"),
    "slurm": ("dask_jobqueue", "SLURMCluster"),
    "pbs": ("dask_jobqueue", "PBSCluster"),
    "lsf": ("dask_jobqueue", "LSFCluster"),
}
"""Module and name of the class that starts workers of each kind."""

_WORKER_OPTIONS = {"memory_limit", "local_directory", "death_timeout", "env", "resources"}
_CONNECT_S = 30.0
_END_S = 20.0
"""How long an interrupted fill waits for the tasks that workers have; queues kill after some 30 s."""
_LOOK_S = 1.0
_WARNED_BYTES, _LARGEST_TASK = "distributed.admin.large-graph-warning-threshold", "1 GiB"
"""Dask warns of tasks above 10 MB; those of GPUs that compute DNA are larger."""
_TASKS_PER_WORKER_OF_OTHERS = 2  # an adaptive cluster that others started grows only when tasks wait


@dataclass(frozen=True, slots=True)
class DaskScheduler:
    """Workers of a Dask scheduler that runs already. They need embedstore, and the store at the same place.

    Attributes
    ----------
    address : `tcp://host:8786`.
    """

    address: str

    @property
    def residues_per_second_divisor(self) -> int:
        """How many cores they have is not known."""
        return 1

    @contextmanager
    def open(self, job: Job) -> Iterator[Executor]:
        """See `coordination.Workers`."""
        with _client(self.address) as client:
            executor = _DaskTasks(client, job, lambda: _TASKS_PER_WORKER_OF_OTHERS * max(1, _count_workers(client)))
            try:
                yield executor
            finally:
                executor.cancel()


@dataclass(frozen=True, slots=True)
class DaskCluster:
    """Workers that Dask starts: processes here, or jobs of a queue, more and less of them as there is work.

    Attributes
    ----------
    kind : see `CLASSES`.
    minimum : fewest workers.
    maximum : most workers; if that is more, Dask chooses between them.
    options : arguments of the class.
    """

    kind: Kind
    minimum: int
    maximum: int
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum or self.maximum < 1:
            raise InputError(
                f"Cannot start a cluster of {self.minimum} to {self.maximum} workers: expected a minimum of at "
                "least 0, and a maximum of at least 1 and at least the minimum."
            )

    @property
    def residues_per_second_divisor(self) -> int:
        """On this machine they share the cores."""
        return self.maximum if self.kind == "local" else 1

    @contextmanager
    def open(self, job: Job) -> Iterator[Executor]:
        """See `coordination.Workers`."""
        with ExitStack() as stack:
            with not_for_children() if self.kind == "local" else nullcontext():  # its threads start them later on, too
                cluster = stack.enter_context(self._started())
                self._start_first(cluster)
            if self.minimum < self.maximum:
                cluster.adapt(minimum=self.minimum, maximum=self.maximum)
            client = stack.enter_context(_client(cluster))
            executor = _DaskTasks(client, job, lambda: self.maximum)
            stack.callback(executor.cancel)
            yield executor

    def _start_first(self, cluster: Any) -> None:
        """Start the first workers and wait until that is done: what goes wrong in `scale` is only logged."""
        while len(cluster.worker_spec) < max(1, self.minimum):
            cluster.worker_spec.update(cluster.new_worker_spec())
        try:
            cluster.sync(cluster._correct_state)
        except (RuntimeError, OSError, ValueError) as error:
            for worker in cluster.workers.values():
                worker.status = _imported("distributed").Status.closed  # closing the cluster insists on it
            raise WorkerError(f"Cannot start {self.kind} workers: {str(error).strip()}") from error

    def _started(self) -> Any:
        module, name = CLASSES[self.kind]
        starts = getattr(_imported(module), name)
        # The usual port of the dashboard may be taken: any free one is fine.
        if self.kind == "local":
            self._refuse_unknown_options(starts)
            threads = max(1, physical_cores() // self.maximum)
            defaults: dict[str, Any] = {"n_workers": 0, "threads_per_worker": threads, "dashboard_address": ":0"}
        else:
            command = shlex.split(starts.job_cls.submit_command)[0]
            if shutil.which(command) is None:
                raise WorkerError(
                    f"Cannot start {self.kind} workers: {command} is not found here. Start the fill on a machine from "
                    "which jobs can be submitted."
                )
            defaults = {"processes": 1, "scheduler_options": {"dashboard_address": ":0"}}
        try:
            return starts(**{"silence_logs": logging.CRITICAL, **defaults, **self.options})
        except (TypeError, ValueError) as error:
            raise InputError(f"Cannot start {self.kind} workers with these options: {error}") from error

    def _refuse_unknown_options(self, starts: Any) -> None:
        """Local clusters pass what they do not know on to their workers, which then never start."""
        unknown = self.options.keys() - inspect.signature(starts).parameters.keys() - _WORKER_OPTIONS
        if unknown:
            raise InputError(
                f"Cannot start local workers with these options: distributed.LocalCluster has no "
                f"{', '.join(sorted(unknown))}."
            )


class _DaskTasks:
    """Executor of a Dask client."""

    def __init__(self, client: Any, job: Job, most_in_hand: Callable[[], int]) -> None:
        self._client = client
        self._job = job
        self._most_in_hand = most_in_hand
        self._running: dict[str, tuple[Task, Any]] = {}
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._fill = uuid.uuid4().hex

    @property
    def workers(self) -> int:
        return max(1, self._most_in_hand())

    @property
    def in_hand(self) -> int:
        return len(self._running)

    def vacancies(self) -> int:
        return max(0, self._most_in_hand() - len(self._running))

    def submit(self, task: Task) -> None:
        with _imported("dask").config.set({_WARNED_BYTES: _LARGEST_TASK}):
            future = self._client.submit(_work_on_dask, self._job, task, self._fill, pure=False)
        self._running[future.key] = (task, future)
        future.add_done_callback(self._done.put)

    def wait(self, timeout_s: float | None) -> None:
        with suppress(queue.Empty):
            self._done.put(self._done.get(timeout_s != 0, timeout_s))

    def outcomes(self) -> list[Outcome]:
        found: list[Outcome] = []
        with suppress(queue.Empty):
            while True:
                future = self._done.get_nowait()
                task, _ = self._running.pop(future.key)
                found.append((task, _outcome(future)))
        return found

    def stop(self) -> list[Outcome]:
        found: list[Outcome] = []
        if self._running:
            with suppress(OSError):  # a worker that cannot be reached is not waited for
                self._client.run(_end_fill, self._fill, on_error="ignore")
                found = self._last_outcomes()
        self.cancel()
        return found

    def _last_outcomes(self) -> list[Outcome]:
        """Wait for those tasks that a worker has; each ends after the pack that it is at."""
        found = self.outcomes()
        until_s = time.monotonic() + _END_S
        while (left_s := until_s - time.monotonic()) > 0:
            with_workers = {str(key) for keys in self._client.processing().values() for key in keys}
            if with_workers.isdisjoint(self._running):
                break
            self.wait(min(left_s, _LOOK_S))
            found += self.outcomes()
        return found

    def cancel(self) -> None:
        """Start no more tasks; what a running one still stores is kept."""
        futures = [future for _, future in self._running.values()]
        self._running.clear()
        if futures:
            self._client.cancel(futures)


def _outcome(future: Any) -> Receipt | Loss:
    """Return the outcome of a task that has ended.

    Raises
    ------
    WorkerError : for a reason other than the task itself.
    """
    if future.status == "finished":
        receipt: Receipt = future.result()
        return receipt
    if future.status != "error":
        raise WorkerError(
            f"The Dask scheduler gave up on a task ({future.status}): it was stopped, or cannot be reached. "
            "What was computed is stored; run the same fill to resume."
        )
    error = future.exception()
    if isinstance(error, _imported("distributed").KilledWorker):
        others = error.allowed_failures
        return Loss(f"died, and {others} more after it" if others else "died")
    raise WorkerError(
        f"A Dask worker failed: {type(error).__name__}: {error}. See its log. Workers need the same release of "
        "embedstore, the weights, and the store at the same path."
    ) from error


_ENDED: set[str] = set()
"""In a worker: fills whose tasks are to store what they have, and to end."""


def _end_fill(fill: str) -> None:
    _ENDED.add(fill)


def _work_on_dask(job: Job, task: Task, fill: str) -> Receipt:
    """Do a task of a fill on a Dask worker, with all threads that the worker may use, and a GPU of its own."""
    use_threads(_imported("distributed").get_worker().state.nthreads)
    return work(with_own_gpu(job), task, lambda: fill in _ENDED)


def _count_workers(client: Any) -> int:
    return len(client.scheduler_info(n_workers=-1)["workers"])


def _client(address: Any) -> Any:
    """Connect to a scheduler, by address or to that of a cluster.

    Raises
    ------
    WorkerError : it cannot be reached.
    """
    try:
        return _imported("distributed").Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise WorkerError(
            f"Cannot reach the Dask scheduler at {address}: {error}. Expected an address like tcp://host:8786."
        ) from error


def _imported(module: str) -> Any:
    try:
        with kept_handlers():  # importing dask_jobqueue replaces that of SIGINT by one that ends the process
            return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"Cannot use Dask: {error.name} is not installed. Run `pip install 'embedstore-bio[cluster]'`."
        ) from error
