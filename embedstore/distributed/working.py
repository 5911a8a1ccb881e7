"""What a worker does: load the model once, then for each task embed, append its own segments, and return a receipt.

A worker process knows nothing of the input, of other tasks, or of the process that started it. What it may use of its
machine (cores, GPUs) is decided here too, for all workers of the machine.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from embedstore.errors import EmbedStoreError, InputError, ModelError
from embedstore.filling.committing import SegmentLimits
from embedstore.filling.computing import LocalComputing, prepare_space
from embedstore.filling.intake import Window
from embedstore.filling.pool import Backlog, Pack
from embedstore.filling.summary import FillProgress
from embedstore.filling.target import SpaceTarget
from embedstore.identity import Recipe
from embedstore.models.embedder import Embedder, Model
from embedstore.models.machine import usable_processors
from embedstore.records import Record
from embedstore.store.signing import trust_of
from embedstore.store.store import SpaceStore

_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def physical_cores() -> int:
    """Count the cores that this process may use: physical ones, within its affinity and `OMP_NUM_THREADS`."""
    processors = usable_processors()
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
    gpus = len(gpu_names())
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


def gpu_names() -> list[str]:
    """Return what tells the GPUs that this process sees from all others of the machine."""
    if find_spec("torch") is None:
        return []
    import torch

    about = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return [str(getattr(each, "uuid", number)) for number, each in enumerate(about)]


def with_own_gpu(job: Job) -> Job:
    """Return the job on a GPU that no other worker of this machine has, if there are GPUs and none was chosen.

    For workers that somebody else starts, several on a machine perhaps, of which each sees all GPUs. The GPU belongs to
    this process until it ends, however it ends. Where there are more workers than GPUs, some share.
    """
    if job.recipe.weights_sha256 is None or job.device not in (None, "cuda"):
        return job
    number = _own_gpu()
    return job if number is None else replace(job, device=f"cuda:{number}")


@cache
def _own_gpu() -> int | None:
    names = gpu_names()
    free = (number for number, name in enumerate(names) if _claimed(name))
    return next(free, os.getpid() % len(names) if names else None)


_CLAIMS: list[int] = []
"""Open files whose locks end with this process."""


def _claimed(name: str) -> bool:
    """Lock the file of a GPU, unless another process has; one that belongs to another user cannot be had either."""
    path = Path(tempfile.gettempdir(), f"embedstore-{os.getuid()}-gpu-{name}")
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return False
    _CLAIMS.append(file)
    return True


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
    EmbedStoreError : as in `filling.fill`.
    """
    _prepared(job)


def work(job: Job, task: Task, stopped: Callable[[], bool] = lambda: False) -> Receipt:
    """Compute the sequences of a task and store their vectors.

    Parameters
    ----------
    job : what is filled; its model stays loaded.
    task : the sequences.
    stopped : asked after each pack; when it is true, what is computed by then is stored, and the rest left.
    """
    with _ONE_AT_A_TIME:
        try:
            embedder, target = _prepared(job)
            return _worked(task.pack, target, LocalComputing(job.device, job.limits, embedder), stopped)
        except EmbedStoreError as error:
            return Receipt(error=transportable(error))


def _worked(pack: Pack, target: SpaceTarget, computing: LocalComputing, stopped: Callable[[], bool]) -> Receipt:
    """Compute a pack for which the coordinator has looked up everything but what others have stored since."""

    def watch(_: FillProgress) -> None:
        if stopped():
            raise KeyboardInterrupt

    backlog = Backlog(target, watch)
    records = [Record("", b"", "", row) for row in range(len(pack))]  # failures are told by key
    backlog.queued.add(Window(records, pack.sequences, pack.keys), range(len(pack)))
    try:
        computing.compute(backlog, more=False)
    except KeyboardInterrupt:
        pass
    finally:
        computing.close(backlog)
    return Receipt(
        computed=backlog.computed,
        present=len(pack) - backlog.computed - len(backlog.failures) - backlog.count_left(),
        residues=backlog.progress.residues_computed,
        compute_seconds=backlog.compute_seconds,
        failures=backlog.failures,
    )


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
