"""What a worker does: load the model once, then for each task embed, append its own segments, and return a receipt.

A worker process knows nothing of the input, of other tasks, or of who started it. What it may use of its machine
(cores, GPUs) is decided here too, for all workers of the machine.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from embedstore.errors import EmbedStoreError, InputError, ModelError
from embedstore.filling.committing import Committer, SegmentLimits
from embedstore.filling.filler import Fill, FillOptions, Walk, prepare_space
from embedstore.filling.intake import DistinctKeys
from embedstore.filling.pool import Pack
from embedstore.filling.summary import FillProgress
from embedstore.filling.target import SpaceTarget
from embedstore.identity import Recipe
from embedstore.models.embedder import Embedder, Model
from embedstore.records import Record
from embedstore.store.signing import trust_of
from embedstore.store.store import SpaceStore

_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def physical_cores() -> int:
    """Count the cores that this process may use: physical ones, within its affinity and `OMP_NUM_THREADS`."""
    processors = os.sched_getaffinity(0)
    try:
        cores = len({Path(_SIBLINGS.format(number)).read_text() for number in processors})
    except OSError:  # not every system tells
        cores = len(processors)
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(limit)) if limit.isdecimal() else cores)


def worker_devices(job: Job, count: int) -> list[str | None]:
    """Return the device of each of `count` workers: one GPU each, or all on the processor.

    Raises
    ------
    InputError : there are fewer GPUs than workers.
    """
    if job.recipe.weights_sha256 is None or job.device == "cpu":  # without weights, all is done by the processor
        return [job.device] * count
    gpus = _count_gpus()
    if job.device not in (None, "cuda"):
        gpus = 1  # one that has been chosen
    if gpus == 0:
        return [job.device] * count
    if count > gpus:
        raise InputError(
            f"Cannot fill with {count} workers: expected at most one for each GPU, found {gpus}. "
            f"Use {gpus}, or the device cpu."
        )
    return [f"cuda:{number}" for number in range(count)] if job.device in (None, "cuda") else [job.device]


def _count_gpus() -> int:
    if find_spec("torch") is None:
        return 0
    import torch

    return torch.cuda.device_count()


@dataclass(frozen=True, slots=True)
class Job:
    """All that a worker must know to fill a space; equal for equal jobs, so that the loaded model is found again.

    Attributes
    ----------
    location : of the store, as every worker reaches it.
    name : of the space, which the first worker creates if it is missing.
    source : gives the model; picklable, and equal if it gives the same.
    device : see `FillOptions.device`.
    trust_files : see `Trust.files`; what is not named is as the worker's environment says.
    """

    location: str
    recipe: Recipe
    name: str
    source: Callable[[], Model]
    device: str | None
    limits: SegmentLimits
    trust_files: tuple[Path | None, Path | None] = (None, None)


@dataclass(frozen=True, slots=True)
class Task:
    """Sequences that one worker computes together.

    Attributes
    ----------
    losses : how often a worker died of it, or of what it was a half of.
    """

    pack: Pack
    losses: int = 0


@dataclass(frozen=True, slots=True)
class Receipt:
    """Outcome of a task: what it computed is in the store, durably.

    Attributes
    ----------
    computed : rows that were computed and stored.
    present : rows that were stored by then, by somebody else or by a worker that died of this task later.
    residues : of the sequences that were computed.
    compute_seconds : inside the model.
    failures : key -> why there is no vector.
    error : why nothing, or not all, could be computed.
    """

    computed: int = 0
    present: int = 0
    residues: int = 0
    compute_seconds: float = 0.0
    failures: Mapping[bytes, str] = field(default_factory=dict)
    error: EmbedStoreError | None = None


_ONE_AT_A_TIME = threading.Lock()
"""A model uses all threads that its process may use; some schedulers start several tasks in one process."""


def use_threads(threads: int) -> None:
    """Let the models of this process use so many threads; before torch is imported, or after."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # what libraries go by when they are loaded
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)


def prepare(job: Job) -> None:
    """Load the model, create the space if it is missing, compare the canaries: once in a process.

    Raises
    ------
    ModelError, StoreError, InputError : as in `filling.fill`.
    """
    _prepared(job)


def work(job: Job, task: Task, stopped: Callable[[], bool] = lambda: False) -> Receipt:
    """Compute the sequences of a task and store their vectors.

    Parameters
    ----------
    stopped : asked after each pack; when it is true, what is computed by then is stored, and the rest left.
    """
    with _ONE_AT_A_TIME:
        try:
            embedder, target = _prepared(job)
            with DistinctKeys() as distinct:
                return _TaskFill(task, target, embedder, FillOptions(job.device, True, job.limits), stopped, distinct)()
        except EmbedStoreError as error:
            return Receipt(error=transportable(error))


def transportable(error: EmbedStoreError) -> EmbedStoreError:
    """Return an error that can be pickled: of the nearest class that is made from its message alone."""
    kinds: list[Any] = list(type(error).__mro__)
    kind = next(kind for kind in kinds if kind.__init__ is EmbedStoreError.__init__)
    found: EmbedStoreError = kind(str(error))
    return found


@lru_cache(maxsize=1)
def _prepared(job: Job) -> tuple[Embedder, SpaceTarget]:
    model = job.source()
    if model.recipe != job.recipe:
        differences = "; ".join(
            f"{name}: expected {expected!r}, found {found!r}"
            for name, (expected, found) in job.recipe.differences(model.recipe).items()
        )
        raise ModelError(
            f"Cannot fill space {job.name}: a worker found a different model ({differences}). "
            "Give all machines the same weights."
        )
    store = SpaceStore.open(job.location, trust=trust_of(*job.trust_files))
    target = SpaceTarget(store, job.recipe, job.name, store.find_space(job.recipe, job.name), lambda: model)
    embedder = model.load(job.device)
    space = prepare_space(target, embedder)
    return embedder, SpaceTarget(store, job.recipe, job.name, space, lambda: model)


class _TaskFill(Fill):
    """A fill of one task's sequences, with a model that is loaded already, and without cleaning up after it."""

    def __init__(
        self,
        task: Task,
        target: SpaceTarget,
        embedder: Embedder,
        options: FillOptions,
        stopped: Callable[[], bool],
        distinct: DistinctKeys,
    ) -> None:
        # The line tells which sequence of the task it is.
        records = [Record("", sequence, "", row) for row, sequence in enumerate(task.pack.sequences)]
        super().__init__(records, target, options, Walk(self._watch, None, None, distinct))
        self._keys = task.pack.keys
        self._loaded = embedder
        self._stopped = stopped

    def __call__(self) -> Receipt:
        report = self.run()
        return Receipt(
            computed=report.computed,
            present=report.hits,
            residues=self._progress.residues_computed,
            compute_seconds=report.compute_seconds,
            failures={self._keys[failure.line]: failure.reason for failure in report.failed},
        )

    def _watch(self, progress: FillProgress) -> None:
        del progress
        if self._stopped():
            raise KeyboardInterrupt

    def _prepared(self, missing: str) -> tuple[Embedder, Committer]:
        del missing
        if self._committer is None:
            space = self._target.space
            assert space is not None  # noqa: S101 - made before the first task
            self._embedder, self._committer = self._loaded, Committer(space, self._options.limits)
        return self._loaded, self._committer

    def _tend(self) -> None:
        """Nothing: the coordinator does, once."""
