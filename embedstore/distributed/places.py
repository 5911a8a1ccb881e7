"""What of this machine each of several workers gets: its cores, its GPUs."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from embedstore.distributed.working import Job
from embedstore.errors import InputError

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
