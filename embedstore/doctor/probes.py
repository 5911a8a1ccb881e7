"""What publishing without locks needs of a file system, tried out in a folder that is gone afterwards."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from embedstore.doctor.findings import Finding
from embedstore.errors import StoreError
from embedstore.store.file_systems import advice_for
from embedstore.store.local import TEMPORARY_PREFIX, LocalStorage

_GROUP = "file system"
_ROUNDS = 5
_MAX_LAG_S = 10.0
_MAX_CLOCK_OFFSET_S = 5.0
_SLOW_SYNC_S = 0.25
_CONTENT = b"embedstore doctor\n"

_WATCH = """
import os, sys, time
folder, limit = sys.argv[1], float(sys.argv[2])
for line in sys.stdin:
    name, started = line.rstrip("\\n"), time.monotonic()
    while not any(entry.name == name for entry in os.scandir(folder)):
        if time.monotonic() - started > limit:
            break
        time.sleep(0.001)
    print(time.monotonic() - started, flush=True)
"""
"""Another process that says how long it takes to list each file that it is told of."""


@contextmanager
def probe_folder(folder: Path) -> Iterator[Path]:
    """Make a folder that readers of a store skip, and remove it whatever happens."""
    place = folder / f"{TEMPORARY_PREFIX}doctor-{uuid.uuid4().hex}"
    try:
        place.mkdir()
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def semantics_findings(place: Path) -> Iterator[Finding]:
    """Try everything in a folder of our own."""
    probes: tuple[tuple[str, Callable[[Path], Finding]], ...] = (
        ("fsync", _fsync),
        ("rename", _rename),
        ("link", _link),
        ("exclusive creation", _exclusive),
        ("listing", _listing),
        ("clock", _clock),
        ("mmap", _mmap),
        ("ranged read", _ranged_read),
    )
    for check, probe in probes:
        inside = place / check.replace(" ", "-")
        try:
            inside.mkdir()
            yield probe(inside)
        except OSError as error:
            advice = advice_for(error) or "Keep the store on another file system."
            yield Finding(_GROUP, check, "fail", f"refused: {error.strerror or error}", advice)
        except StoreError as error:
            yield Finding(_GROUP, check, "fail", str(error), "Keep the store on another file system.")


def _fsync(place: Path) -> Finding:
    times = []
    for number in range(_ROUNDS):
        started = time.perf_counter()
        descriptor = os.open(place / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            os.write(descriptor, _CONTENT)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        folders = _sync_folder(place)
        times.append(time.perf_counter() - started)
    median_s = sorted(times)[len(times) // 2]
    data = {"file_and_folder_s": median_s, "folders": folders}
    found = f"works, {median_s * 1e3:.1f} ms for a file and its folder"
    if not folders:
        advice = "After a power failure the last files written may be gone; the next fill computes them again."
        return Finding(_GROUP, "fsync", "warn", "works for files, not for folders", advice, data)
    if median_s > _SLOW_SYNC_S:
        return Finding(_GROUP, "fsync", "warn", found, "Slow: fill in few large runs, not many small ones.", data)
    return Finding(_GROUP, "fsync", "ok", found, "", data)


def _sync_folder(place: Path) -> bool:
    """Sync a folder; False where the file system has nothing of the kind."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
        return False
    finally:
        os.close(descriptor)
    return True


def _rename(place: Path) -> Finding:
    new, old = place / "new", place / "old"
    new.write_bytes(_CONTENT)
    old.write_bytes(b"old")
    new.replace(old)
    if old.read_bytes() != _CONTENT or new.exists():
        return Finding(_GROUP, "rename", "fail", "does not replace a file", "Keep the store on another file system.")
    return Finding(_GROUP, "rename", "ok", "replaces a file in one step")


def _link(place: Path) -> Finding:
    new, taken, free = place / "new", place / "taken", place / "free"
    new.write_bytes(_CONTENT)
    taken.write_bytes(b"taken")
    try:
        os.link(new, free)
    except OSError as error:
        advice = "Files are renamed instead; let only one process at a time fill."
        return Finding(_GROUP, "link", "warn", f"no hard links: {error.strerror or error}", advice, {"links": False})
    try:
        os.link(new, taken)
    except FileExistsError:
        if taken.read_bytes() == b"taken" and free.read_bytes() == _CONTENT:
            return Finding(_GROUP, "link", "ok", "refuses a name that is taken", "", {"links": True})
    advice = "Keep the store on another file system: writers would overwrite each other."
    return Finding(_GROUP, "link", "fail", "replaces a file that is there", advice, {"links": True})


def _exclusive(place: Path) -> Finding:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    os.close(os.open(place / "file", flags))
    try:
        os.close(os.open(place / "file", flags))
    except FileExistsError:
        return Finding(_GROUP, "exclusive creation", "ok", "refuses a file that is there")
    advice = "Keep the store on another file system: writers would overwrite each other."
    return Finding(_GROUP, "exclusive creation", "fail", "opens a file that is there", advice)


def _listing(place: Path) -> Finding:
    own, other = 0.0, _other_process_lags(place)
    for number in range(_ROUNDS):
        (place / f"own-{number}").touch()
        own = max(own, _lag_s(place, f"own-{number}"))
    data = {"own_lag_s": own, "other_process_lag_s": other}
    if other is None:
        return Finding(_GROUP, "listing", "warn", "another process could not be asked", "Try again.", data)
    worst = max(own, other)
    if worst > _MAX_LAG_S:
        advice = "Keep the store on another file system, or wait between filling and reading."
        return Finding(_GROUP, "listing", "fail", f"a new file is not listed within {_MAX_LAG_S:g} s", advice, data)
    found = f"a new file is listed at once, by another process too ({worst * 1e3:.1f} ms)"
    if worst > 1:
        found = f"a new file is listed after {worst:.1f} s"
        advice = "Nothing gets lost by it; look again if something is missing."
        return Finding(_GROUP, "listing", "warn", found, advice, data)
    return Finding(_GROUP, "listing", "ok", found, "", data)


def _lag_s(place: Path, name: str) -> float:
    started = time.monotonic()
    while name not in os.listdir(place):  # noqa: PTH208 - names are all that is wanted
        if time.monotonic() - started > _MAX_LAG_S:
            break
        time.sleep(0.001)
    return time.monotonic() - started


def _other_process_lags(place: Path) -> float | None:
    """Return how long another process took to list a new file, in the worst case."""
    command = [sys.executable, "-I", "-S", "-c", _WATCH, str(place), str(_MAX_LAG_S)]
    pipe, silent = subprocess.PIPE, subprocess.DEVNULL
    try:
        watcher = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=silent, text=True)  # noqa: S603
    except OSError:
        return None
    worst = 0.0
    with watcher:
        try:
            for number in range(_ROUNDS):
                name = f"other-{number}"
                (place / name).touch()
                print(name, file=watcher.stdin, flush=True)
                worst = max(worst, float(watcher.stdout.readline() if watcher.stdout else ""))
        except (ValueError, BrokenPipeError):
            return None
        finally:
            watcher.kill()
    return worst


def _clock(place: Path) -> Finding:
    before = time.time()
    (place / "file").write_bytes(_CONTENT)
    after = time.time()
    written = (place / "file").stat().st_mtime
    offset_s = 0.0 if before <= written <= after else written - (before + after) / 2
    data = {"offset_s": offset_s}
    if abs(offset_s) > _MAX_CLOCK_OFFSET_S:
        ahead = "ahead of" if offset_s > 0 else "behind"
        advice = "embedstore goes by the storage's clock; other programs may not: set the clocks by NTP."
        found = f"the storage is {abs(offset_s):,.1f} s {ahead} this machine"
        return Finding(_GROUP, "clock", "warn", found, advice, data)
    return Finding(_GROUP, "clock", "ok", f"the storage's agrees with this machine's ({offset_s:+.2f} s)", "", data)


def _mmap(place: Path) -> Finding:
    (place / "file").write_bytes(_CONTENT)
    with (place / "file").open("rb") as stream:
        try:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                right = mapped[:] == _CONTENT
        except OSError as error:
            advice = "Keep the store on another file system: local ones are read through maps."
            return Finding(_GROUP, "mmap", "fail", f"refused: {error.strerror or error}", advice)
    if not right:
        return Finding(_GROUP, "mmap", "fail", "shows other bytes", "Keep the store on another file system.")
    return Finding(_GROUP, "mmap", "ok", "works")


def _ranged_read(place: Path) -> Finding:
    """Read rows as they are read where files are not mapped."""
    storage, table = LocalStorage(place), np.frombuffer(np.random.default_rng(0).bytes(1 << 16), np.uint8)
    storage.write("file", [table])
    rows = np.array([900, 3, 4, 511])
    found = storage.open("file", table.nbytes, mapped=False).rows(7, 64, rows)
    if not np.array_equal(found, table[7 : 7 + 1023 * 64].reshape(-1, 64)[rows]):
        advice = "Keep the store on another file system."
        return Finding(_GROUP, "ranged read", "fail", "shows other bytes", advice)
    return Finding(_GROUP, "ranged read", "ok", "works")
