"""A store in a folder: local disk, or a network file system mounted on this machine.

Durability: a file is written under a temporary name in its own folder, synced, linked to its name, and the folder is
synced, so a crash leaves the whole file or none. Hard links never overwrite, on NFS too; where a file system has no
hard links the file is renamed instead. What is removed outside `data/` is synced before anything else is removed; in
`data/`, where the order does not matter, once before something is removed elsewhere.

Reading maps files on file systems that are known to be local (`file_systems`); elsewhere rows are read with `pread` in
file order. A file that is shorter than it was is seen before its map is touched. What remains: a local disk that fails,
or a file that is truncated, at the very moment at which a mapped page is read ends the process with SIGBUS. Verifying
reads instead of mapping (`open(…, mapped=False)`), so it says which file it was.

Links: no folder in a store is a symbolic link (`folders`). A file in `data/` may be one to a file anywhere, as in
git-annex and link farms, since what is read of it is checked; removing it removes the link. A document may be one to a
file inside the store, or in the git-annex of the repository that the store belongs to. Only regular files are opened:
no FIFO, which would wait forever, and no device.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import CorruptStoreError, StorageError
from embedstore.storage.file_systems import Modes, is_known_local, refused
from embedstore.storage.folders import StoreFolders, refuse_link, sync_folder
from embedstore.storage.protocol import DOCUMENT_BYTES, Blob, Buffer, Entry, empty_rows, is_stray, memory

TEMPORARY_PREFIX = ".tmp-"

_PATIENCE_S = 10.0  # with a folder that others make and remove at the same time
_REFUSED_PATIENCE_S = 0.5  # with one that a member has made and not yet opened to the group
_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.5
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
_ANNEX = "/.git/annex/objects/"
_JUDGED_BY = frozenset({"commits", "gc", "signatures", "pins", "spaces"})  # folders that say what is needed
_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY  # should a file become a FIFO after it was looked at
_MAX_WRITES = 5


class LocalStorage:
    """Files below one folder.

    Parameters
    ----------
    folder : where the store lies.
    mapped : read through memory maps; None decides by the kind of file system.
    """

    requests_at_once = 1

    def __init__(self, folder: str | Path, *, mapped: bool | None = None) -> None:
        absolute = Path(folder).absolute()
        self.location = str(absolute)
        self._mapped = is_known_local(absolute) if mapped is None else mapped
        self._folders = StoreFolders(self.location)
        self._unsynced: set[str] = set()
        """Folders from which data was removed."""

    def read(self, name: str, limit_bytes: int = DOCUMENT_BYTES) -> bytes:
        path = self._folders.path(name)
        with self._explained("read", path):
            if not _is_data(name):
                self._folders.require_real(_folder_of(name))
            descriptor, status = self._opened(name, path)
            try:
                if status.st_size > limit_bytes:
                    raise CorruptStoreError(name, f"expected at most {limit_bytes} bytes, found {status.st_size}")
                return _content(name, descriptor, status.st_size)
            finally:
                os.close(descriptor)

    def write(self, name: str, parts: Iterable[Buffer]) -> Entry:
        for _ in range(_MAX_WRITES - 1 if isinstance(parts, Sequence) else 0):
            with suppress(FileNotFoundError):  # a collector took our temporary file for that of a dead process
                return self._write(name, parts)
        return self._write(name, parts)

    def replace(self, name: str, parts: Iterable[Buffer]) -> Entry:
        """Write a file in place of the one that may be there; others see the old or the new one, whole."""
        return self._write(name, parts, Path.replace)

    def _write(
        self, name: str, parts: Iterable[Buffer], give_name: Callable[[Path, Path], object] | None = None
    ) -> Entry:
        """Write a file under a temporary name, and give it its own; None: unless something has that already."""
        path = Path(self._folders.path(name))
        with self._explained("write", path):
            temporary, descriptor = self._create_temporary(_folder_of(name), path.parent)
            try:
                status = _write_synced(descriptor, parts)
                ours = _publish(temporary, path) if give_name is None else bool(give_name(temporary, path))
            finally:
                temporary.unlink(missing_ok=True)
            if not ours and path.is_symlink() and not path.exists():
                raise FileExistsError(errno.EEXIST, "a symbolic link to nothing has its name; remove it")
            with suppress(FileNotFoundError):  # somebody deleted it at once, and the folder went with it
                sync_folder(path.parent)
                if not ours:
                    return self.entry(name)
            return Entry(name, status.st_size, status.st_mtime_ns)

    def list(self, folder: str) -> list[Entry]:
        path = self._folders.path(folder)
        with self._explained("list", path):
            with suppress(FileNotFoundError):
                self._folders.require_real(folder.rstrip("/"))
                return _entries_in(folder, path)
            self._folders.look()
            return []

    def walk(self, folder: str) -> Iterator[Entry]:
        entries = self.list(folder)
        while entries:
            entry = entries.pop()
            if not entry.name.endswith("/"):
                yield entry
            elif not is_stray(entry.name):  # a folder that was listed is not a link
                path = self._folders.path(entry.name)
                with self._explained("list", path), suppress(FileNotFoundError):
                    entries += _entries_in(entry.name, path)

    def entry(self, name: str) -> Entry:
        path = self._folders.path(name)
        with self._explained("look at", path):
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):  # to a file, see above
                status = Path(path).stat()
            if not stat.S_ISREG(status.st_mode):
                _refuse_other_kinds(name, status)
            return Entry(name, status.st_size, status.st_mtime_ns)

    def delete(self, name: str) -> None:
        path = self._folders.path(name)
        with self._explained("delete", path):
            if not _is_data(name):
                self._sync_removals()
            if name.endswith("/"):
                self._unsynced.add(self._folders.remove_empty_below(name.rstrip("/")))
                return
            with suppress(FileNotFoundError):
                self._folders.require_real(_folder_of(name))
                Path(path).unlink()
            self._unsynced.add(self._folders.remove_empty(_folder_of(name)))
            if not _is_data(name) and not _is_temporary(name):
                self._sync_removals()

    def open(self, name: str, size_bytes: int, *, mapped: bool = True) -> Blob:
        path = self._folders.path(name)
        with self._explained("open", path):
            descriptor, status = self._opened(name, path)
            if status.st_size != size_bytes:
                os.close(descriptor)
                raise CorruptStoreError(name, f"expected {size_bytes} bytes, found {status.st_size}")
            if not (mapped and self._mapped):
                return PreadBlob(name, descriptor)
            try:
                return MappedBlob(name, descriptor, size_bytes)
            finally:
                os.close(descriptor)

    def _opened(self, name: str, path: str) -> tuple[int, os.stat_result]:
        """Open a regular file; nothing else is opened, as that could wait forever, or do something."""
        status = os.lstat(path)
        linked = stat.S_ISLNK(status.st_mode)
        if linked:
            path = path if _is_data(name) else self._document(name, path)
            status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            _refuse_other_kinds(name, status)
        descriptor = os.open(path, _READING if linked else _READING | os.O_NOFOLLOW)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                _refuse_other_kinds(name, status)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, status

    def _document(self, name: str, path: str) -> str:
        """Return the file that the link of a document leads to: inside the store, or into its git-annex."""
        store, found = os.path.realpath(self.location) + "/", os.path.realpath(path)
        repository, annexed, _ = found.partition(_ANNEX)
        if found.startswith(store) or (annexed and store.startswith(f"{repository}/")):
            return found
        raise CorruptStoreError(name, "it is a symbolic link that leads out of the store, and was not followed")

    def _sync_removals(self) -> None:
        while self._unsynced:
            with suppress(KeyError):  # another thread was faster
                self._folders.sync(self._unsynced.pop())

    def _create_temporary(self, folder: str, path: Path) -> tuple[Path, int]:
        """Create a file in a folder that others may make or remove at the same time, until there is one in it."""
        temporary = path / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        started, pause_s = time.monotonic(), _FIRST_PAUSE_S
        modes: Modes | None = None
        while True:
            try:
                modes = self._folders.modes()  # looks whether the store is still there
                self._folders.make(folder, modes)
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
                break
            except (FileNotFoundError, FileExistsError):
                if time.monotonic() - started > _PATIENCE_S:
                    raise StorageError(
                        f"Cannot write into {temporary.parent}: for {_PATIENCE_S:g} s it disappeared as often as it "
                        "was made. Try again; if it stays, look for what else removes files there."
                    ) from None
            except PermissionError:
                alone = modes is None and self._mapped
                if alone or time.monotonic() - started > _REFUSED_PATIENCE_S:
                    raise
            time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - keeps writers apart, hides nothing
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        if modes is not None:
            os.fchmod(descriptor, modes.file)
        return temporary, descriptor

    @contextmanager
    def _explained(self, action: str, path: str | Path) -> Iterator[None]:
        """Turn what the operating system says into a StorageError; a missing file stays a FileNotFoundError."""
        try:
            yield
        except FileNotFoundError:
            self._folders.look()  # where all is gone, nothing is damaged
            raise
        except OSError as error:
            raise refused(action, str(path), error) from error
        if self._folders.seen is None:
            self._folders.look()


class MappedBlob:
    """A file mapped into memory; the kernel's page cache is the only cache."""

    in_order = False
    gather_bytes = 2 << 20  # stays in the processor's cache while it is checked and copied on

    def __init__(self, name: str, descriptor: int, size_bytes: int) -> None:
        self._name = name
        self.identity = _identity(descriptor)
        self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) if size_bytes else None
        self._content = np.frombuffer(self._map if self._map is not None else b"", dtype=np.uint8)

    def bytes(self, start: int, length: int) -> NDArray[np.uint8]:
        if self._map is not None and self._map.size() < len(self._content):
            raise self._truncated()
        return self._content[start : start + length]

    def rows(
        self, start: int, row_bytes: int, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        if self._map is not None and self._map.size() < len(self._content):
            raise self._truncated()
        count = (len(self._content) - start) // row_bytes
        if len(rows) and not (np.minimum.reduce(rows) >= 0 and np.maximum.reduce(rows) < count):
            raise IndexError(f"{self._name} has {count} rows of {row_bytes} bytes, not {rows.min()} to {rows.max()}")
        table = self._content[start : start + count * row_bytes].reshape(count, row_bytes)
        # Any mode but "clip" would gather into a copy first.
        gathered = empty_rows(len(rows), row_bytes) if out is None else out
        return table.take(rows, axis=0, out=gathered, mode="clip")

    def _truncated(self) -> CorruptStoreError:
        """Touching pages beyond the end of a file kills the process, so its size is asked before: of the file that is
        mapped, whatever has become of its name.
        """
        found = 0 if self._map is None else self._map.size()
        return CorruptStoreError(self._name, f"expected {len(self._content)} bytes, found {found}")


class PreadBlob:
    """A file read at given places; nothing of it stays mapped."""

    in_order = True
    gather_bytes = 16 << 20

    def __init__(self, name: str, descriptor: int) -> None:
        self._name = name
        self._descriptor = descriptor
        self.identity = _identity(descriptor)

    def __del__(self) -> None:
        os.close(self._descriptor)

    def bytes(self, start: int, length: int) -> NDArray[np.uint8]:
        content = np.empty(length, np.uint8)
        self._read_into(content, start)
        return content

    def rows(
        self, start: int, row_bytes: int, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        gathered = empty_rows(len(rows), row_bytes) if out is None else out
        if len(rows) > 1 and (np.diff(rows) == 1).all():  # one piece, as when all is verified
            self._read_into(gathered, start + int(rows[0]) * row_bytes)
            return gathered
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


def _identity(descriptor: int) -> tuple[int, ...]:
    """Return what changes when a file is replaced or written to; the time of the inode cannot be set back."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def _is_data(name: str) -> bool:
    """Tell rows, `spaces/<id>/data/…`, from documents."""
    parts = name.split("/", 3)
    return len(parts) > 3 and parts[0] == "spaces" and parts[2] == "data"


def _is_judged_by(name: str) -> bool:
    """Tell the folders that say what is needed: without them all data looks unneeded."""
    above = _folder_of(name)
    return name in ("pins", "spaces") or (above.startswith("spaces/") and above.count("/") == 1)


def _is_temporary(name: str) -> bool:
    return name.rpartition("/")[2].startswith(TEMPORARY_PREFIX)


def _refuse_other_kinds(name: str, status: os.stat_result) -> NoReturn:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise CorruptStoreError(name, "expected a file, found a FIFO, socket or device")


def _content(name: str, descriptor: int, size_bytes: int) -> bytes:
    content = b""
    while piece := os.read(descriptor, size_bytes + 1 - len(content)):
        content = content + piece if content else piece
        if len(content) > size_bytes:
            raise CorruptStoreError(name, f"expected {size_bytes} bytes, found more: it grows while it is read")
    return content


def _entries_in(folder: str, path: str) -> list[Entry]:
    with os.scandir(path) as found:
        return sorted([entry for item in found if (entry := _entry_of(folder, item)) is not None])


def _entry_of(folder: str, item: os.DirEntry[str]) -> Entry | None:
    """Return what a listing says of a thing: None of a link to a folder, of a FIFO and the like, and of odd names.

    Raises
    ------
    OSError : a folder without which others look unneeded is a link; to leave it out would let them be removed.
    """
    name = f"{folder}{item.name}"
    if not name.isascii() and not _is_utf8(name):
        return None
    judged_by = item.name in _JUDGED_BY and _is_judged_by(name)
    if judged_by and item.is_symlink():
        refuse_link(name)
    try:
        if item.is_dir(follow_symlinks=False):
            return Entry(f"{name}/", 0, 0)
        status = item.stat()
    except OSError:  # somebody's temporary file, gone since the listing; or it cannot be looked at
        if judged_by:
            raise
        return Entry(name, 0, 0)
    return Entry(name, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


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
        if path.is_symlink() or path.exists():  # a rename would replace it
            return False
        temporary.rename(path)
    return True
