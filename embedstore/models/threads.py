"""Few torch threads in each of several Python threads.

On a CPU, packs of a thousand tokens computed side by side, each on one core, are faster than one pack on all cores: no
core waits for another inside a matrix product. How many threads torch uses is a setting of the whole process, which is
put back when the last pack is done.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch


def cores() -> int:
    """Cores that this process may use: physical ones, within its affinity and `OMP_NUM_THREADS`."""
    return max(1, min(max(torch.get_num_threads(), _SETTING.before), len(os.sched_getaffinity(0))))


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
