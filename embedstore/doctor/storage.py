"""The place of a store: who may do what in its folder, how much space there is, and what its storage can do.

In this order: permissions and space; the file system and how it is mounted; storage behind a URL, what it allows
(reach, list, read, write) and how long that takes; and what publishing without locks needs of a file system, tried out
in a folder that is removed afterwards.
"""

from __future__ import annotations

import errno
import grp
import mmap
import os
import pwd
import shutil
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedstore.doctor.findings import Finding
from embedstore.errors import EmbedStoreError, StoreError
from embedstore.storage.file_systems import (
    FUSE_PREFIX,
    LOCAL_FILE_SYSTEMS,
    NETWORK_FILE_SYSTEMS,
    advice_for,
    mount_table,
    mounts_above,
)
from embedstore.storage.listing import ROOT_NAME
from embedstore.storage.local import TEMPORARY_PREFIX, LocalStorage
from embedstore.storage.protocol import Storage, is_stray
from embedstore.storage.ranges import Ranged

_GROUP = "access"
_FEW_BYTES = 10 << 30
_TOO_FEW_BYTES = 100 << 20
_FEW_INODES = 100_000
_LOOKED_AT = 1000


def sharing_findings(folder: Path) -> Iterator[Finding]:
    """Say whom a folder belongs to, and whether a group can share it."""
    status = folder.stat()
    mode = stat.S_IMODE(status.st_mode)
    shared, setgid = bool(mode & stat.S_IWGRP), bool(mode & stat.S_ISGID)
    group, owner = _group_name(status.st_gid), _user_name(status.st_uid)
    data = {
        "mode": f"{mode:04o}",
        "owner": owner,
        "group": group,
        "member": status.st_gid in {os.getegid(), *os.getgroups()},
        "shared": shared,
        "setgid": setgid,
        "umask": _umask(),
    }
    found = f"{stat.filemode(status.st_mode)} {owner}:{group}"
    if not shared:
        advice = f"To share it with a group: chgrp -R GROUP {folder}, then embedstore init --shared {folder}"
        yield Finding(_GROUP, "sharing", "ok", f"{found}: only its owner writes", advice, data)
    elif not setgid:
        advice = f"New files take the group of who makes them: embedstore init --shared {folder}"
        yield Finding(_GROUP, "sharing", "warn", f"{found}: shared, without setgid", advice, data)
    else:
        yield Finding(_GROUP, "sharing", "ok", f"{found}: shared with group {group}", "", data)
    if shared:
        yield from _unshared(folder)


def _unshared(folder: Path) -> Iterator[Finding]:
    """Find folders of a shared store that the group cannot write to."""
    seen = closed = 0
    for inside, folders, _ in os.walk(folder):
        folders[:] = [name for name in folders if not is_stray(name)]
        for name in folders:
            with suppress(FileNotFoundError):  # removed since the listing
                mode = (Path(inside) / name).lstat().st_mode
                closed += stat.S_ISDIR(mode) and not mode & stat.S_IWGRP
                seen += 1
        if seen > _LOOKED_AT:
            break
    if closed:
        advice = f"Their owners should run: embedstore init --shared {folder}"
        found = f"{closed} of {seen} folders looked at are closed to the group"
        yield Finding(_GROUP, "shared folders", "warn", found, advice, {"closed": closed, "seen": seen})


def space_findings(folder: Path) -> Iterator[Finding]:
    """Say how much fits in."""
    found = os.statvfs(folder)
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    data = {"free_bytes": free, "total_bytes": total}
    said = f"{free / 2**30:,.1f} GiB of {total / 2**30:,.1f} GiB free"
    if free < _TOO_FEW_BYTES:
        yield Finding(
            _GROUP, "space", "fail", said, "Free some space (`embedstore gc`), or keep the store elsewhere.", data
        )
    elif free < _FEW_BYTES:
        yield Finding(_GROUP, "space", "warn", said, "Make room: 10 GiB hold 4 million vectors of 1280 halves.", data)
    else:
        yield Finding(_GROUP, "space", "ok", said, "", data)
    if found.f_files:
        data = {"free_inodes": found.f_favail, "total_inodes": found.f_files}
        few = found.f_favail < _FEW_INODES
        advice = "Make stores with `embedstore init --format hdf5`: one file a segment." if few else ""
        said = f"{found.f_favail:,} of {found.f_files:,} free"
        yield Finding(_GROUP, "inodes", "warn" if few else "ok", said, advice, data)


def _umask() -> str | None:
    """Return the umask without setting it, as other threads may be making files; None where that cannot be told."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.split()[1] for line in lines if line.startswith("Umask:")), None)


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


_MOUNT = "file system"
_DEFAULT_LISTING_LAG_S = 60  # acdirmax of nfs(5)
_FORGETTING = frozenset(["tmpfs", "ramfs", "overlay"])


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table.

    Attributes
    ----------
    kind : of file system, as the table names it.
    point : where it is mounted.
    options : of the mount and of the file system.
    """

    kind: str
    point: str
    options: frozenset[str]

    @property
    def name(self) -> str:
        """The kind as people call it: those of FUSE without "fuse."."""
        return self.kind.removeprefix(FUSE_PREFIX)

    @property
    def is_network(self) -> bool:
        """Whether other machines may see it, too."""
        return self.name in NETWORK_FILE_SYSTEMS

    @property
    def is_mapped(self) -> bool:
        """Whether it is known to be a disk of this machine, whose files are read through memory maps."""
        return self.kind in LOCAL_FILE_SYSTEMS

    @property
    def is_read_only(self) -> bool:
        """Whether nobody may write."""
        return "ro" in self.options

    @property
    def listing_lag_s(self) -> float:
        """How long another machine may take to list a new file."""
        for option in sorted(self.options):
            name, _, value = option.partition("=")
            if name in ("acdirmax", "actimeo") and value.isdecimal():
                return float(value)
        return 0.0 if "noac" in self.options or not self.is_network else float(_DEFAULT_LISTING_LAG_S)


def mount_of(folder: Path) -> Mount | None:
    """Return what a folder lies on by the mount table (Linux); None where there is no table."""
    try:
        mounted = list(mounts_above(mount_table(), os.path.realpath(folder)))
    except OSError:
        return None
    if not mounted:
        return None
    point, kind, options = mounted[-1]
    return Mount(kind, point, frozenset(options))


def mount_findings(folder: Path) -> Iterator[Finding]:
    """Say what a folder lies on, and what follows from it."""
    mount = mount_of(folder)
    if mount is None:
        found = "unknown: no mount table here; read in place, not mapped"
        yield Finding(_MOUNT, "mount", "warn", found, "Fine where it is a local disk.")
        return
    data = {
        "kind": mount.name,
        "mount_point": mount.point,
        "network": mount.is_network,
        "mapped": mount.is_mapped,
        "read_only": mount.is_read_only,
        "options": sorted(mount.options),
        "listing_lag_s": mount.listing_lag_s,
    }
    where = f"{mount.name}, mounted at {mount.point}{', read-only' if mount.is_read_only else ''}"
    if mount.name in _FORGETTING:
        yield Finding(_MOUNT, "mount", "warn", where, "It is emptied at a restart: keep stores on a disk.", data)
    else:
        reading = "" if mount.is_mapped else "; read in place, not mapped"
        yield Finding(_MOUNT, "mount", "ok", f"{where}{reading}", "", data)
    if mount.is_network and mount.listing_lag_s:
        yield Finding(
            _MOUNT,
            "other machines",
            "ok",
            f"may list a new file up to {mount.listing_lag_s:g} s late",
            "Nothing is lost by it; at worst a sequence is computed twice.",
            {"listing_lag_s": mount.listing_lag_s},
        )


_REMOTE = "remote"
_ROUNDS = 3
_SLOW_S = 1.0
_MAX_CLOCK_OFFSET_S = 5.0
_CONTENT = b"embedstore doctor\n"


def reading_findings(storage: Storage) -> Iterator[Finding]:
    """Try to list and read; one finding that fails ends it."""
    try:
        storage.list("")
        times = []
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            _read_root(storage)
            times.append(time.perf_counter() - started)
    except (EmbedStoreError, OSError) as error:
        advice = "Check the address, the network, and the credentials in the environment or the usual files."
        yield Finding(_REMOTE, "reachable", "fail", str(error), advice)
        return
    median_s = sorted(times)[len(times) // 2]
    found = f"lists and reads, {median_s * 1e3:.0f} ms a request"
    slow = median_s > _SLOW_S
    advice = "Keep a store nearby in front of it: --upstream with --pull-through." if slow else ""
    yield Finding(_REMOTE, "reachable", "warn" if slow else "ok", found, advice, {"request_s": median_s})


def ranges_findings(storage: Storage, name: str) -> Iterator[Finding]:
    """Ask for a part of a file, and say what came; nothing where there is no such file."""
    if not isinstance(storage, Ranged):
        return
    try:
        answered = storage.answers_ranges(name, storage.entry(name).size_bytes)
    except FileNotFoundError:
        return
    except (EmbedStoreError, OSError) as error:
        yield Finding(_REMOTE, "ranges", "fail", str(error), "Look at the server: reading parts of files fails.")
        return
    data = {"ranges": answered}
    if answered:
        yield Finding(_REMOTE, "ranges", "ok", "sends parts of files when asked for them", "", data)
    else:
        found = "sends whole files, where parts of them are asked for"
        advice = "Reading works through temporary files (TMPDIR). nginx, Apache and object stores send parts."
        yield Finding(_REMOTE, "ranges", "warn", found, advice, data)


def _read_root(storage: Storage) -> None:
    try:
        storage.read(ROOT_NAME)
    except FileNotFoundError:
        return


def writing_findings(storage: Storage) -> Iterator[Finding]:
    """Try to write a file that readers skip, to read it and a part of it, and to remove it."""
    name = f"{TEMPORARY_PREFIX}doctor-{uuid.uuid4().hex}"
    try:
        before = time.time()
        try:
            entry = storage.write(name, [_CONTENT])
            after = time.time()
            right = storage.read(name) == _CONTENT
            listed = any(each.name == name for each in storage.list(""))
            ranges = tuple(ranges_findings(storage, name))
        finally:
            storage.delete(name)
    except (StoreError, FileNotFoundError) as error:
        advice = "Enough to read from it; to fill it, ask for permission to write and delete."
        yield Finding(_REMOTE, "writing", "warn", f"refused: {error}", advice, {"writable": False})
        return
    data = {"writable": True, "read_back": right, "listed_at_once": listed}
    if not right:
        yield Finding(_REMOTE, "writing", "fail", "what is read back is something else", "Use another service.", data)
    elif not listed:
        advice = "Nothing is lost by it; at worst a sequence is computed twice."
        yield Finding(_REMOTE, "writing", "warn", "works, but new files are listed late", advice, data)
    else:
        yield Finding(_REMOTE, "writing", "ok", "writes, lists at once, deletes", "", data)
    yield from ranges
    yield _clock(entry.modified_ns / 1e9, before, after)


def _clock(written: float, before: float, after: float) -> Finding:
    offset_s = 0.0 if before <= written <= after else written - (before + after) / 2
    found = f"the storage's differs from this machine's by {offset_s:+.1f} s"
    if abs(offset_s) > _MAX_CLOCK_OFFSET_S:
        advice = "embedstore uses the storage's clock; set this machine's by NTP."
        return Finding(_REMOTE, "clock", "warn", found, advice, {"offset_s": offset_s})
    return Finding(_REMOTE, "clock", "ok", found, "", {"offset_s": offset_s})


_FILES = "file system"
_FILE_ROUNDS = 5
_MAX_LAG_S = 10.0
_MAX_FILE_CLOCK_OFFSET_S = 5.0
_SLOW_SYNC_S = 0.25
_FILE_CONTENT = b"embedstore doctor\n"

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
"""Another process that says how long it takes to list each file whose name it is given."""


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
        ("clock", _file_clock),
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
            yield Finding(_FILES, check, "fail", f"refused: {error.strerror or error}", advice)
        except StoreError as error:
            yield Finding(_FILES, check, "fail", str(error), "Keep the store on another file system.")


def _fsync(place: Path) -> Finding:
    times = []
    for number in range(_FILE_ROUNDS):
        started = time.perf_counter()
        descriptor = os.open(place / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            os.write(descriptor, _FILE_CONTENT)
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
        return Finding(_FILES, "fsync", "warn", "works for files, not for folders", advice, data)
    if median_s > _SLOW_SYNC_S:
        return Finding(_FILES, "fsync", "warn", found, "Slow: fill in few large runs, not many small ones.", data)
    return Finding(_FILES, "fsync", "ok", found, "", data)


def _sync_folder(place: Path) -> bool:
    """Sync a folder; False where the file system does not support it."""
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
    new.write_bytes(_FILE_CONTENT)
    old.write_bytes(b"old")
    new.replace(old)
    if old.read_bytes() != _FILE_CONTENT or new.exists():
        return Finding(_FILES, "rename", "fail", "does not replace a file", "Keep the store on another file system.")
    return Finding(_FILES, "rename", "ok", "replaces a file in one step")


def _link(place: Path) -> Finding:
    new, taken, free = place / "new", place / "taken", place / "free"
    new.write_bytes(_FILE_CONTENT)
    taken.write_bytes(b"taken")
    try:
        os.link(new, free)
    except OSError as error:
        advice = "Files are renamed instead; let only one process at a time fill."
        return Finding(_FILES, "link", "warn", f"no hard links: {error.strerror or error}", advice, {"links": False})
    try:
        os.link(new, taken)
    except FileExistsError:
        if taken.read_bytes() == b"taken" and free.read_bytes() == _FILE_CONTENT:
            return Finding(_FILES, "link", "ok", "refuses a name that is taken", "", {"links": True})
    advice = "Keep the store on another file system: writers would overwrite each other."
    return Finding(_FILES, "link", "fail", "replaces a file that is there", advice, {"links": True})


def _exclusive(place: Path) -> Finding:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    os.close(os.open(place / "file", flags))
    try:
        os.close(os.open(place / "file", flags))
    except FileExistsError:
        return Finding(_FILES, "exclusive creation", "ok", "refuses a file that is there")
    advice = "Keep the store on another file system: writers would overwrite each other."
    return Finding(_FILES, "exclusive creation", "fail", "opens a file that is there", advice)


def _listing(place: Path) -> Finding:
    own, other = 0.0, _other_process_lags(place)
    for number in range(_FILE_ROUNDS):
        (place / f"own-{number}").touch()
        own = max(own, _lag_s(place, f"own-{number}"))
    data = {"own_lag_s": own, "other_process_lag_s": other}
    if other is None:
        return Finding(_FILES, "listing", "warn", "another process could not be asked", "Try again.", data)
    worst = max(own, other)
    if worst > _MAX_LAG_S:
        advice = "Keep the store on another file system, or wait between filling and reading."
        return Finding(_FILES, "listing", "fail", f"a new file is not listed within {_MAX_LAG_S:g} s", advice, data)
    found = f"a new file is listed at once, by another process too ({worst * 1e3:.1f} ms)"
    if worst > 1:
        found = f"a new file is listed after {worst:.1f} s"
        advice = "Nothing is lost by it; look again if something is missing."
        return Finding(_FILES, "listing", "warn", found, advice, data)
    return Finding(_FILES, "listing", "ok", found, "", data)


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
            for number in range(_FILE_ROUNDS):
                name = f"other-{number}"
                (place / name).touch()
                print(name, file=watcher.stdin, flush=True)
                worst = max(worst, float(watcher.stdout.readline() if watcher.stdout else ""))
        except (ValueError, BrokenPipeError):
            return None
        finally:
            watcher.kill()
    return worst


def _file_clock(place: Path) -> Finding:
    before = time.time()
    (place / "file").write_bytes(_FILE_CONTENT)
    after = time.time()
    written = (place / "file").stat().st_mtime
    offset_s = 0.0 if before <= written <= after else written - (before + after) / 2
    data = {"offset_s": offset_s}
    if abs(offset_s) > _MAX_FILE_CLOCK_OFFSET_S:
        ahead = "ahead of" if offset_s > 0 else "behind"
        advice = "embedstore uses the storage's clock; other programs may not: set the clocks by NTP."
        found = f"the storage is {abs(offset_s):,.1f} s {ahead} this machine"
        return Finding(_FILES, "clock", "warn", found, advice, data)
    return Finding(_FILES, "clock", "ok", f"the storage's agrees with this machine's ({offset_s:+.2f} s)", "", data)


def _mmap(place: Path) -> Finding:
    (place / "file").write_bytes(_FILE_CONTENT)
    with (place / "file").open("rb") as stream:
        try:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                right = mapped[:] == _FILE_CONTENT
        except OSError as error:
            advice = "Keep the store on another file system: local ones are read through maps."
            return Finding(_FILES, "mmap", "fail", f"refused: {error.strerror or error}", advice)
    if not right:
        return Finding(_FILES, "mmap", "fail", "shows other bytes", "Keep the store on another file system.")
    return Finding(_FILES, "mmap", "ok", "works")


def _ranged_read(place: Path) -> Finding:
    """Read rows as they are read where files are not mapped."""
    storage, table = LocalStorage(place), np.frombuffer(np.random.default_rng(0).bytes(1 << 16), np.uint8)
    storage.write("file", [table])
    rows = np.array([900, 3, 4, 511])
    found = storage.open("file", table.nbytes, mapped=False).rows(7, 64, rows)
    if not np.array_equal(found, table[7 : 7 + 1023 * 64].reshape(-1, 64)[rows]):
        advice = "Keep the store on another file system."
        return Finding(_FILES, "ranged read", "fail", "shows other bytes", advice)
    return Finding(_FILES, "ranged read", "ok", "works")
