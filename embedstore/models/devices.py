"""Where a model runs: the device, its arithmetic, the threads of torch, and how fast its matrix products can be.

On a CPU, packs of a thousand tokens computed side by side, each on one core, are faster than one pack on all cores: no
core waits for another inside a matrix product. The number of threads that torch uses is a setting of the whole process;
`_ThreadSetting` changes it while packs are computed, and puts it back when the last pack is done.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import torch

from embedstore.errors import InputError
from embedstore.identity import Precision
from embedstore.models.machine import Place, processor, usable_processors


def pick_device(device: str | None) -> torch.device:
    """Return the device of that name ("cpu", "cuda", "cuda:1"), or the best there is for None.

    Raises
    ------
    InputError : no such device is here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"Cannot use the device {device!r}: expected cpu, cuda or cuda:N.") from error
    count = torch.cuda.device_count() if place.type == "cuda" else int(place.type == "cpu")
    if (place.index or 0) >= count:
        raise InputError(f"Cannot use the device {device!r}: expected cpu or one of {torch.cuda.device_count()} GPUs.")
    return place


def arithmetic(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type to compute in: float16 for `half` on a GPU, else float32 without TF32.

    A CPU may contribute to a `half` space with float32: it is only more exact, and faster than its float16.
    """
    if device.type == "cuda" and precision == "half":
        return torch.float16
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest")
    return torch.float32


def machine_place(device: torch.device, dtype: torch.dtype) -> Place:
    """Return the place by which this machine's settings and rates are kept."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return Place(name, str(dtype).removeprefix("torch."))


def cores() -> int:
    """Cores that this process may use: physical ones, within its affinity and `OMP_NUM_THREADS`."""
    return max(1, min(max(torch.get_num_threads(), _SETTING.before), len(usable_processors())))


class _ThreadSetting:
    """Torch's number of threads, held while any pack is computed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self.before = 0
        """The number outside, while it is held; else 0."""

    @contextmanager
    def held_at(self, threads: int) -> Iterator[None]:
        with self._lock:
            if self._holders == 0:
                self.before = torch.get_num_threads()
            self._holders += 1
            # OpenMP keeps the number a thread: each one has to set it for itself.
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if self._holders == 0:
                    torch.set_num_threads(self.before)
                    self.before = 0


_SETTING = _ThreadSetting()
torch_threads = _SETTING.held_at
single_threaded = partial(torch_threads, 1)


_CPU_ROWS = 1536
_GPU_ROWS = 8192


def matrix_product_rate(
    device: torch.device, dtype: torch.dtype, *, workers: int, threads: int, seconds: float
) -> float:
    """Multiply matrices for about so long, and return floating-point operations a second.

    Parameters
    ----------
    workers, threads : on a CPU: how many products side by side, and torch threads for each.
    """
    on_cpu = device.type == "cpu"
    rows = _CPU_ROWS if on_cpu else _GPU_ROWS
    left, right = (torch.randn(rows, rows, dtype=dtype, device=device) for _ in range(2))

    def multiply(until: float) -> int:
        count = 0
        while count == 0 or time.perf_counter() < until:
            torch.mm(left, right)
            if not on_cpu:
                torch.cuda.synchronize(device)
            count += 1
        return count

    def multiply_on_few_threads(until: float) -> int:
        with torch_threads(threads):
            return multiply(until)

    started = time.perf_counter()
    if on_cpu:
        with ThreadPoolExecutor(workers) as executor:
            count = sum(executor.map(multiply_on_few_threads, [started + seconds] * workers))
    else:
        count = multiply(started + seconds)
    return count * 2 * rows**3 / (time.perf_counter() - started)
