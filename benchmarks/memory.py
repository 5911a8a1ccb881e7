"""Resident memory of this process, as Linux counts it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_SAMPLE_S = 0.02


@dataclass(frozen=True, slots=True)
class ResidentBytes:
    """Resident memory.

    Attributes
    ----------
    own : private to the process; only swapping can take it away.
    mapped_files : pages of mapped files, which the system takes away whenever it needs room.
    peak : of both together, since the process began.
    """

    own: int
    mapped_files: int
    peak: int


def resident_bytes() -> ResidentBytes:
    """Read /proc/self/status.

    `getrusage` will not do: its maximum includes what the parent had when it started the process.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    facts = {name: value for name, _, value in (line.partition(":") for line in lines)}
    own, mapped_files, peak = (int(facts[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile", "VmHWM"))
    return ResidentBytes(own, mapped_files, peak)


def with_peak_own(run: Callable[[], T]) -> tuple[T, int]:
    """Call, and return the result and the most own memory seen meanwhile, looked at every 20 ms.

    Linux keeps a maximum of all resident memory only, mapped files included.
    """
    most, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(_SAMPLE_S):
            most[0] = max(most[0], resident_bytes().own)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return run(), max(most[0], resident_bytes().own)
    finally:
        ended.set()
        watcher.join()
