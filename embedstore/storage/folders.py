"""The folder of a store and the folders in it: made, synced, looked through and removed, and never through a link.

A folder in a store that is a symbolic link leads to what is not the store's: nothing is listed, written or deleted
through it. The store's own folder may be reached through links.

The store's folder is made once, with the store. When it has been seen and is gone, or another folder without a store
lies there, a file system was unmounted: what is written then must not fill the disk below the mount point.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from embedstore.errors import CorruptStoreError, StorageError
from embedstore.storage.file_systems import Modes, modes_of

_STORE = "embedstore.json"  # what tells a store that was mounted again from an empty mount point


class StoreFolders:
    """The folders below one root. Their names are relative to it, without `/` at the end; the root's own is `""`."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._path = Path(root)
        self.seen: tuple[int, int] | None = None
        """Device and inode of the root when we looked last; None: it was never there."""
        with suppress(OSError):
            self.look()

    def path(self, name: str) -> str:
        """Return where a file or folder lies; CorruptStoreError for a name that leads out of the store."""
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise CorruptStoreError(repr(name), "expected a name below the folder of the store")
        return f"{self.root}/{name}" if name else self.root

    def look(self) -> os.stat_result | None:
        """Look at the root; None where it never was.

        Raises
        ------
        StorageError : it was there and is gone.
        """
        seen = self.seen  # before looking, as another thread may be making it
        try:
            status = self._path.stat()
        except FileNotFoundError:
            if seen is None:
                return None
            raise self._gone() from None
        found = (status.st_dev, status.st_ino)
        if found != seen:
            if seen is not None and not _is_there(self._path / _STORE):
                raise self._gone()
            self.seen = found
        return status

    def require_real(self, folder: str) -> None:
        """Refuse to go through a folder that is a link, or no folder; OSError. A missing one is FileNotFoundError."""
        path = self.root
        for part in folder.split("/") if folder else ():
            path = f"{path}/{part}"
            if not stat.S_ISDIR(mode := os.lstat(path).st_mode):
                _refuse_other(path, mode)

    def modes(self) -> Modes | None:
        """Return the permissions of what is made here; None where the umask decides."""
        status = self.look()
        return None if status is None else modes_of(status)

    def make(self, folder: str, modes: Modes | None) -> None:
        """Create a folder and those above it, each made durable in its parent; after the root was looked at.

        Raises
        ------
        FileNotFoundError, FileExistsError : somebody removes one of them at this moment, or is making it: try again.
        """
        if self.seen is None:
            _make_root(self._path)
        path = self.root
        for part in folder.split("/") if folder else ():
            parent, path = path, f"{path}/{part}"
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                _make_folder(path, modes)
                sync_folder(Path(parent))
                continue
            if not stat.S_ISDIR(mode):
                _refuse_other(path, mode)

    def remove_empty(self, folder: str) -> str:
        """Remove a folder if nothing is in it, and so on upwards, not the root; return the first that stays."""
        while folder:
            try:
                Path(self.path(folder)).rmdir()
            except FileNotFoundError:  # removed by somebody who was stopped before the one above
                pass
            except OSError:
                break
            folder = folder.rpartition("/")[0]
        return folder

    def remove_empty_below(self, folder: str) -> str:
        """Remove the folders below one that hold no file, itself too, and upwards; return the first that stays."""
        with suppress(OSError):
            self.require_real(folder)
            for inside, _, _ in os.walk(self.path(folder), topdown=False):
                with suppress(OSError):
                    Path(inside).rmdir()
        return self.remove_empty(folder)

    def sync(self, folder: str) -> None:
        """Make durable what was removed from a folder, which may be gone by now."""
        with suppress(FileNotFoundError):
            sync_folder(Path(self.path(folder)))

    def _gone(self) -> StorageError:
        return StorageError(
            f"The folder of the store, {self.root}, is gone, or another one lies in its place: was its file system "
            "unmounted? Mount it again; nothing was written below the mount point."
        )


def sync_folder(path: Path) -> None:
    """Make durable which names lie in a folder; some file systems have nothing of the kind."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def refuse_link(path: str) -> NoReturn:
    """Refuse a folder that is a link; OSError."""
    raise OSError(errno.ELOOP, f"{path} is a symbolic link, and nothing is done through one; put the folder there")


def _refuse_other(path: str, mode: int) -> NoReturn:
    """Refuse what is there in place of a folder; OSError."""
    if stat.S_ISLNK(mode):
        refuse_link(path)
    raise NotADirectoryError(errno.ENOTDIR, f"{path} is not a folder")


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except OSError:
        return False
    return True


def _make_folder(path: str, modes: Modes | None) -> None:
    try:
        Path(path).mkdir()
    except (FileExistsError, PermissionError):  # sshfs says so too where another host was faster, and is late to list
        with suppress(FileNotFoundError):
            if not stat.S_ISDIR(mode := os.lstat(path).st_mode):
                _refuse_other(path, mode)
            return
        raise
    if modes is not None:
        Path(path).chmod(modes.folder)


def _make_root(folder: Path) -> None:
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        with suppress(FileExistsError):  # somebody was faster
            each.mkdir()
        sync_folder(each.parent)
