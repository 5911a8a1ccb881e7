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
from embedstore.store.storage import is_stray

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


def modes_of(store: os.stat_result) -> Modes | None:
    """Return the permissions that things in a store get, by those of its folder; None where the umask decides."""
    mode = store.st_mode
    return Modes.of(mode) if mode & stat.S_ISGID and mode & stat.S_IWGRP else None


def share(store: Path) -> None:
    """Make a folder one that its group shares, with all that is in it; it is made where there is none.

    Others keep, on the store's folder, the permissions that it has, or that the umask leaves to a new one. What
    symbolic links in it lead to, what is neither file nor folder, and what the system put there stay as they are.

    Raises
    ------
    StorageError : something in it belongs to somebody else and is not shared, or the folder cannot be made.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
        root = store.resolve()  # it may be reached by a link itself
        modes = Modes.of(root.stat().st_mode)
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if not is_stray(name)]
            _set(Path(folder), modes)
            for file in files:
                if not is_stray(file):
                    _set(Path(folder, file), modes)
    except OSError as error:
        raise StorageError(
            f"Cannot share {error.filename or store} with its group: {error.strerror}. "
            "Only the owner of a file can; ask them to run this command, too."
        ) from error


def _set(path: Path, modes: Modes) -> None:
    """Give a file or folder its permissions; through an open one, since a name may have become a link meanwhile."""
    found = path.lstat().st_mode
    wanted = modes.folder if stat.S_ISDIR(found) else modes.file
    if not (stat.S_ISDIR(found) or stat.S_ISREG(found)) or stat.S_IMODE(found) == wanted:
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except PermissionError:
        if path.lstat().st_uid != os.geteuid():
            raise
        path.chmod(wanted)  # our own, and closed to ourselves
        return
    try:
        os.fchmod(descriptor, wanted)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)
