"""On which file system a folder lies, and how it is mounted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embedstore.doctor.findings import Finding
from embedstore.store.file_systems import (
    FUSE_PREFIX,
    LOCAL_FILE_SYSTEMS,
    NETWORK_FILE_SYSTEMS,
    mount_table,
    mounts_above,
)

_GROUP = "file system"
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
        yield Finding(_GROUP, "mount", "warn", found, "Fine where it is a local disk.")
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
        yield Finding(_GROUP, "mount", "warn", where, "It forgets: keep stores on a disk that stays.", data)
    else:
        reading = "" if mount.is_mapped else "; read in place, not mapped"
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
