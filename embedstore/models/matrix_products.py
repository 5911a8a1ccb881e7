"""What a device gives at most: the rate of large matrix products, in as many threads as a model has."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import torch

from embedstore.models.threads import torch_threads

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
