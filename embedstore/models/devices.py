"""Where a model runs: device, arithmetic, memory, the threads of torch, and how fast its matrix products can be.

On a CPU, packs of a thousand tokens computed side by side, each on one core, are faster than one pack on all cores: no
core waits for another inside a matrix product. The number of threads that torch uses is a setting of the whole process;
`_ThreadSetting` changes it while packs are computed, and puts it back when the last pack is done.

A GPU is not trusted because it is there: a wheel of torch may hold no kernels for it, which shows at the first one. One
small matrix product is computed before anything is loaded. Apple's `mps` is used where it is asked for by name.

On a GPU each worker queues its kernels on a stream of its own: copying a result to the host waits for the kernels
before it on the same stream, which are then nobody else's.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedstore.errors import DeviceWarning, InputError, ModelError
from embedstore.identity import Precision
from embedstore.models.batching import is_out_of_memory
from embedstore.models.machine import Place, processor, usable_processors


def pick_device(device: str | None) -> torch.device:
    """Return the device of that name ("cpu", "cuda", "cuda:1", "mps"), or the best there is for None.

    None takes a GPU only if it computes; otherwise it warns, and takes the processor.

    Raises
    ------
    InputError : no such device is here, or it is a GPU for which this torch has no kernels.
    """
    if device is None:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        place = torch.device("cuda")
        problem = _problem(place)
        if problem is None:
            return place
        warnings.warn(f"Not using the GPU: {problem} Computing on the processor.", DeviceWarning, stacklevel=2)
        return torch.device("cpu")
    place = _named(device)
    problem = None if place.type == "cpu" else _problem(place)
    if problem is not None:
        raise InputError(f"Cannot use the device {device!r}: {problem} Or compute on the processor: --device cpu.")
    return place


def _named(device: str) -> torch.device:
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"Cannot use the device {device!r}: expected cpu, cuda, cuda:N or mps.") from error
    gpus = torch.cuda.device_count()
    count = {"cuda": gpus, "cpu": 1, "mps": int(torch.backends.mps.is_available())}.get(place.type, 0)
    if (place.index or 0) >= count:
        apple = " mps," if torch.backends.mps.is_available() else ""
        raise InputError(f"Cannot use the device {device!r}: expected cpu,{apple} or one of {gpus} GPUs.")
    return place


def _problem(place: torch.device) -> str | None:
    """Say why a device that is there cannot compute, if so."""
    try:
        ones = torch.ones(8, 8, dtype=torch.float16, device=place)
        wrong = float((ones @ ones).float().sum()) != 8**3
    except RuntimeError as error:
        said = f"{str(error).strip().splitlines()[0].rstrip('.')}."
        if is_out_of_memory(error):
            return f"all of its memory is in use: {said}"
    else:
        if not wrong:
            return None
        said = "a matrix product came out wrong."
    if place.type != "cuda":
        return f"it failed at a first small matrix product: {said}"
    name, capability = torch.cuda.get_device_name(place), torch.cuda.get_device_capability(place)
    built = " ".join(torch.cuda.get_arch_list())
    return (
        f"{name} (compute capability {capability[0]}.{capability[1]}) failed at a first small matrix product: {said} "
        f"torch {torch.__version__} has kernels for {built}; install a build for your GPU."
    )


def arithmetic(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type to compute in: float16 for `half` on a GPU, else float32 without TF32.

    A CPU may contribute to a `half` space with float32: it is only more exact, and faster than its float16.
    """
    if device.type == "cpu":
        return torch.float32
    if device.type == "cuda":
        _set_up_cuda()
    return torch.float16 if precision == "half" else torch.float32


def _set_up_cuda() -> None:
    """Choose how the whole process computes on CUDA.

    Float32 is float32. Sums of float16 products are kept in float32. And cuDNN's attention, which plans again for each
    shape (20 to 40 ms, where a pack takes 100), is not used; the context manager that says so for a while is no
    alternative: it too is for the whole process, and two workers would undo each other's.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.enable_cudnn_sdp(False)


def on_device(values: NDArray[np.int64] | NDArray[np.int32] | NDArray[np.float32], device: torch.device) -> Tensor:
    """Copy to the device; to a GPU without waiting for it."""
    tensor = torch.from_numpy(values)
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Streams:
    """Streams of a GPU, one for each thread that computes at the moment; nothing on other devices.

    They are used again: memory that torch keeps for later belongs to a stream.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._free: list[torch.cuda.Stream] = []
        self._lock = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Run what the calling thread queues on a stream of its own, after what is on the device's default stream."""
        if self._device.type != "cuda":
            yield
            return
        with self._lock:
            stream = self._free.pop() if self._free else torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        try:
            stream.wait_stream(torch.cuda.default_stream(self._device))  # where weights were copied and converted
            with torch.cuda.stream(stream):
                yield
        finally:
            with self._lock:
                self._free.append(stream)


def synchronize(device: torch.device) -> None:
    """Wait until all that is queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def give_back_memory(device: torch.device) -> None:
    """Give back what torch keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def too_little_memory(name: str, device: torch.device, need_bytes: int, dtype: torch.dtype) -> ModelError:
    """Return the error of a model that does not fit, with what it needs and what there is."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        there = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB are free on {torch.cuda.get_device_name(device)}"
    elif "SC_AVPHYS_PAGES" not in os.sysconf_names:  # not everywhere
        there = "which are not free"
    else:
        page = os.sysconf("SC_PAGE_SIZE")
        free, total = os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page
        there = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB are free"
    advice = "" if device.type == "cpu" else ", name another device (--device cuda:N), or compute on --device cpu"
    return ModelError(
        f"Cannot load {name} onto {device}: its weights need {need_bytes / 1e9:.1f} GB in "
        f"{str(dtype).removeprefix('torch.')}, {there}. Close what else uses the memory{advice}."
    )


def machine_place(device: torch.device, dtype: torch.dtype) -> Place:
    """Return the place by which this machine's settings and rates are kept."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    name = f"{name}, {device.type}" if device.type == "mps" else name
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
            synchronize(device)
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
