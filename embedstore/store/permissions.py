"""Folders that a group shares, whatever the umask of its members.

A store whose own folder is setgid and writable by its group is shared: all that is made in it belongs to the group
(setgid sees to that) and is writable by it. What others may do follows from the store's folder: if they may read that,
they may read all, and if not, nothing.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from embedstore.errors import StorageError

_GROUP_FOLDER = stat.S_ISGID | stat.S_IRWXU | stat.S_IRWXG
_GROUP_FILE = stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IWGRP


@dataclass(frozen=True, slots=True)
class Modes:
    """Permissions of what is made in a shared store."""

    folder: int
    file: int

    @classmethod
    def of(cls, mode: int) -> Modes:
        """Derive them from those of the store's folder."""
        others = mode & (stat.S_IROTH | stat.S_IXOTH)
        return cls(_GROUP_FOLDER | others, _GROUP_FILE | (others & stat.S_IROTH))


def modes_in(store: Path) -> Modes | None:
    """Return the permissions that things in a store get; None where the umask decides, as in a store of one's own."""
    try:
        mode = store.stat().st_mode
    except OSError:  # not made yet
        return None
    return Modes.of(mode) if mode & stat.S_ISGID and mode & stat.S_IWGRP else None


def share(store: Path) -> None:
    """Make a folder one that its group shares, with all that is in it; it is made where there is none.

    Others keep, on the store's folder, the permissions that it has, or that the umask leaves to a new one.

    Raises
    ------
    StorageError : something in it belongs to somebody else and is not shared, or the folder cannot be made.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
        modes = Modes.of(store.stat().st_mode)
        for folder, _, files in os.walk(store):
            _set(Path(folder), modes.folder)
            for file in files:
                _set(Path(folder, file), modes.file)
    except OSError as error:
        raise StorageError(
            f"Cannot share {error.filename or store} with its group: {error.strerror}. "
            "Only the owner of a file can; ask them to run this command, too."
        ) from error


def _set(path: Path, mode: int) -> None:
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)
