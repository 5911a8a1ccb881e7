"""Who may do what in a store's folder, and how much space there is."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from embedstore.doctor.findings import Finding
from embedstore.store.storage import is_stray

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
