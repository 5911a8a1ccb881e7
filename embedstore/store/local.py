"""A store in a folder: local disk, or a network file system mounted on this machine.

Durability: a file is written under a temporary name in its own folder, synced, linked to its name, and the folder is
synced, so a crash leaves the whole file or none. Hard links never overwrite, on NFS too; where a file system has no
hard links the file is renamed instead.

Reading maps files, except on network file systems: there a file that somebody deletes on the server would kill a
process that maps it (SIGBUS), so rows are read with `pread` in file order.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import CorruptStoreError, StorageError
from embedstore.store.permissions import Modes, modes_in
from embedstore.store.storage import Blob, Buffer, Entry, empty_rows, memory

TEMPORARY_PREFIX = ".tmp-"

NETWORK_FILE_SYSTEMS = frozenset(  # as the mount table names them; those of FUSE without "fuse."
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "afs",
        "ceph",
        "lustre",
        "gpfs",
        "beegfs",
        "pvfs2",
        "orangefs",
        "glusterfs",
        "9p",
        "panfs",
        "wekafs",
        "virtiofs",
        "sshfs",
        "juicefs",
        "s3fs",
        "gcsfuse",
        "rclone",
    ]
)
_OCTAL = re.compile(r"\\([0-7]{3})")  # how the mount table writes blanks and backslashes
_MAX_CREATIONS = 100
_MAX_REFUSALS = 10
_REFUSAL_PAUSE_S = 0.01
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})


class LocalStorage:
    """Files below one folder.

    Parameters
    ----------
    folder : where the store lies.
    mapped : read through memory maps; None decides by the kind of file system.
    """

    requests_at_once = 1

    def __init__(self, folder: str | Path, *, mapped: bool | None = None) -> None:
        self._folder = Path(folder).absolute()
        self.location = str(self._folder)
        self._mapped = not _is_network(self._folder) if mapped is None else mapped

    def read(self, name: str) -> bytes:
        with _explained("read", self._path(name)):
            return self._path(name).read_bytes()

    def write(self, name: str, parts: Iterable[Buffer]) -> Entry:
        path = self._path(name)
        with _explained("write", path):
            temporary, descriptor = self._create_temporary(path.parent)
            try:
                status = _write_synced(descriptor, parts)
                ours = _publish(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            with suppress(FileNotFoundError):  # somebody deleted it at once, and the folder went with it
                _sync_folder(path.parent)
                if not ours:
                    return self.entry(name)
            return Entry(name, status.st_size, status.st_mtime_ns)

    def replace(self, name: str, parts: Iterable[Buffer]) -> Entry:
        """Write a file in place of the one that may be there; others see the old or the new one, whole."""
        path = self._path(name)
        with _explained("write", path):
            temporary, descriptor = self._create_temporary(path.parent)
            try:
                status = _write_synced(descriptor, parts)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(path.parent)
            return Entry(name, status.st_size, status.st_mtime_ns)

    def list(self, folder: str) -> list[Entry]:
        path = self._path(folder)
        with _explained("list", path):
            try:
                found = os.scandir(path)
            except FileNotFoundError:
                return []
            with found:
                return sorted(_entry_of(folder, item) for item in found)

    def walk(self, folder: str) -> Iterator[Entry]:
        for entry in self.list(folder):
            if entry.name.endswith("/"):
                yield from self.walk(entry.name)
            else:
                yield entry

    def entry(self, name: str) -> Entry:
        with _explained("look at", self._path(name)):
            status = self._path(name).stat()
            return Entry(name, status.st_size, status.st_mtime_ns)

    def delete(self, name: str) -> None:
        path = self._path(name)
        with _explained("delete", path):
            path.unlink(missing_ok=True)
            with suppress(OSError):  # the folder goes with its last file
                path.parent.rmdir()

    def open(self, name: str, size_bytes: int) -> Blob:
        path = self._path(name)
        with _explained("open", path):
            descriptor = os.open(path, os.O_RDONLY)
            found = os.fstat(descriptor).st_size
            if found != size_bytes:
                os.close(descriptor)
                raise CorruptStoreError(name, f"expected {size_bytes} bytes, found {found}")
            if not self._mapped:
                return PreadBlob(name, descriptor)
            try:
                return MappedBlob(name, path, descriptor, size_bytes)
            finally:
                os.close(descriptor)

    def _path(self, name: str) -> Path:
        return self._folder / name

    def _create_temporary(self, folder: Path) -> tuple[Path, int]:
        """Create a file in a folder that others may remove, as the last file goes, until there is one in it."""
        temporary = folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        modes = modes_in(self._folder)
        refusals = 0
        for _ in range(_MAX_CREATIONS):
            try:
                _make_folders(folder, modes)
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileNotFoundError:
                continue
            except PermissionError:  # of a shared folder that a member has made and not yet opened to the group?
                refusals += 1
                if modes is None or refusals > _MAX_REFUSALS:
                    raise
                time.sleep(_REFUSAL_PAUSE_S)
                continue
            if modes is not None:
                os.fchmod(descriptor, modes.file)
            return temporary, descriptor
        raise StorageError(f"Cannot write into {folder}: it disappears as often as it is made.")


class MappedBlob:
    """A file mapped into memory; the kernel's page cache is the only cache."""

    gather_bytes = 1 << 20  # stays in the processor's cache while it is checked and copied on

    def __init__(self, name: str, path: Path, descriptor: int, size_bytes: int) -> None:
        self._name = name
        self._path = path
        mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) if size_bytes else b""
        self._content = np.frombuffer(mapped, dtype=np.uint8)

    def bytes(self, start: int, length: int) -> NDArray[np.uint8]:
        self._refuse_truncated()
        return self._content[start : start + length]

    def rows(self, start: int, row_bytes: int, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        self._refuse_truncated()
        count = (len(self._content) - start) // row_bytes
        if len(rows) and not (rows.min() >= 0 and rows.max() < count):
            raise IndexError(f"{self._name} has {count} rows of {row_bytes} bytes, not {rows.min()} to {rows.max()}")
        table = self._content[start : start + count * row_bytes].reshape(count, row_bytes)
        # Any mode but "clip" would gather into a copy first.
        return np.take(table, rows, axis=0, out=empty_rows(len(rows), row_bytes), mode="clip")

    def _refuse_truncated(self) -> None:
        """Touching pages beyond the end of a file kills the process, so ask before. A deleted file stays readable."""
        with suppress(OSError):  # it cannot be seen any more, but its pages can
            found = self._path.stat().st_size
            if found < len(self._content):
                raise CorruptStoreError(self._name, f"expected {len(self._content)} bytes, found {found}")


class PreadBlob:
    """A file read at given places; nothing of it stays mapped."""

    gather_bytes = 16 << 20

    def __init__(self, name: str, descriptor: int) -> None:
        self._name = name
        self._descriptor = descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)

    def bytes(self, start: int, length: int) -> NDArray[np.uint8]:
        content = np.empty(length, np.uint8)
        self._read_into(content, start)
        return content

    def rows(self, start: int, row_bytes: int, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        gathered = empty_rows(len(rows), row_bytes)
        for place in np.argsort(rows, kind="stable"):  # ascending: what read-ahead expects
            self._read_into(gathered[place], start + int(rows[place]) * row_bytes)
        return gathered

    def _read_into(self, content: NDArray[np.uint8], start: int) -> None:
        view, done = memory(content), 0
        while done < len(view):
            try:
                count = os.preadv(self._descriptor, [view[done:]], start + done)
            except OSError as error:
                if error.errno == errno.ESTALE:  # deleted on the server, which is for others to judge
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._name) from error
                raise CorruptStoreError(self._name, f"reading at byte {start + done}: {error.strerror}") from error
            if count == 0:
                raise CorruptStoreError(self._name, f"ends at byte {start + done}, expected {start + len(view)}")
            done += count


def _entry_of(folder: str, item: os.DirEntry[str]) -> Entry:
    if item.is_dir():
        return Entry(f"{folder}{item.name}/", 0, 0)
    try:
        status = item.stat()
    except FileNotFoundError:  # somebody's temporary file, gone since the listing
        return Entry(f"{folder}{item.name}", 0, 0)
    return Entry(f"{folder}{item.name}", status.st_size, status.st_mtime_ns)


def _write_synced(descriptor: int, parts: Iterable[Buffer]) -> os.stat_result:
    try:
        for part in parts:
            view = memory(part)
            while view:
                view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _publish(temporary: Path, path: Path) -> bool:
    """Give a file its name, and tell whether it was still free."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if path.exists():  # a rename would replace it
            return False
        temporary.rename(path)
    return True


def _make_folders(folder: Path, modes: Modes | None) -> None:
    """Create a folder and those above it, each made durable in its parent."""
    lacking = []
    while not folder.is_dir():
        lacking.append(folder)
        folder = folder.parent
    for missing in reversed(lacking):
        with suppress(FileExistsError):  # somebody was faster, and sees to its permissions
            missing.mkdir()
            if modes is not None:
                missing.chmod(modes.folder)
        _sync_folder(missing.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems have no sync of folders
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _explained(action: str, path: Path) -> Iterator[None]:
    """Turn what the operating system says into a StorageError; a missing file stays a FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"Cannot {action} {path}: {error.strerror or error}.") from error


def _is_network(folder: Path) -> bool:
    """Tell by the mount table (Linux; elsewhere False) whether a folder lies on a network file system."""
    where = os.path.realpath(folder)  # first: it may be what makes the automounter mount it
    try:
        table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return False
    return file_system_kind(table, where) in NETWORK_FILE_SYSTEMS


def file_system_kind(table: str, where: str) -> str:
    """Return the kind of file system that a path lies on.

    Parameters
    ----------
    table : as in `/proc/self/mountinfo` (proc(5)).
    where : absolute, without symbolic links.
    """
    mounted = list(mounts_above(table, where))
    return mounted[-1][1] if mounted else ""


def mounts_above(table: str, where: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield what is mounted at a path and above it, outermost first: place, kind of file system, options.

    Parameters
    ----------
    table, where : as for `file_system_kind`.
    """
    found = []
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        fields, of_file_system = before.split(" "), after.split(" ")
        mount_point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        if where == mount_point or where.startswith(mount_point.rstrip("/") + "/"):
            options = fields[5].split(",") + of_file_system[2].split(",")
            found.append((mount_point, of_file_system[0].removeprefix("fuse."), options))
    yield from sorted(found, key=lambda mount: len(mount[0]))  # of several at one place the last one counts
