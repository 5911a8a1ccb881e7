"""On which file system a folder lies, and how it is mounted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embedstore.doctor.findings import Finding
from embedstore.store.local import NETWORK_FILE_SYSTEMS, mounts_above

_GROUP = "file system"
_DEFAULT_LISTING_LAG_S = 60  # acdirmax of nfs(5)
_FORGETTING = frozenset(["tmpfs", "ramfs", "overlay"])


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table.

    Attributes
    ----------
    kind : of file system, those of FUSE without "fuse.".
    point : where it is mounted.
    options : of the mount and of the file system.
    """

    kind: str
    point: str
    options: frozenset[str]

    @property
    def is_network(self) -> bool:
        """Whether other machines may see it, too."""
        return self.kind in NETWORK_FILE_SYSTEMS

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
        table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    mounted = list(mounts_above(table, os.path.realpath(folder)))
    if not mounted:
        return None
    point, kind, options = mounted[-1]
    return Mount(kind, point, frozenset(options))


def mount_findings(folder: Path) -> Iterator[Finding]:
    """Say what a folder lies on, and what follows from it."""
    mount = mount_of(folder)
    if mount is None:
        yield Finding(_GROUP, "mount", "warn", "unknown: no mount table here", "Fine where it is a local disk.")
        return
    data = {
        "kind": mount.kind,
        "mount_point": mount.point,
        "network": mount.is_network,
        "read_only": mount.is_read_only,
        "options": sorted(mount.options),
        "listing_lag_s": mount.listing_lag_s,
    }
    where = f"{mount.kind}, mounted at {mount.point}{', read-only' if mount.is_read_only else ''}"
    if mount.kind in _FORGETTING:
        yield Finding(_GROUP, "mount", "warn", where, "It forgets: keep stores on a disk that stays.", data)
    else:
        reading = "; read in place, not mapped" if mount.is_network else ""
        yield Finding(_GROUP, "mount", "ok", f"{where}{reading}", "", data)
    if mount.is_network and mount.listing_lag_s:
        yield Finding(
            _GROUP,
            "other machines",
            "ok",
            f"may list a new file up to {mount.listing_lag_s:g} s late",
            "Nothing gets lost by it; at worst a sequence is computed twice.",
            {"listing_lag_s": mount.listing_lag_s},
        )
