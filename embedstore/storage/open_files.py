"""The files that a store has open for reading, a bounded number of them.

A process may hold about a thousand files open, on some machines 64, and a mapped file counts; a segment has up to
three, and a space may have hundreds of segments before somebody merges them.
"""

from __future__ import annotations

import errno
import resource
import threading

from embedstore.errors import CorruptStoreError, StorageError
from embedstore.storage.protocol import Blob, Storage, sha256_of

_MOST = 256
_FEWEST = 8


def most_open_files() -> int:
    """Return how many files a store keeps open: a quarter of what this process may, from 8 to 256."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST if limit == resource.RLIM_INFINITY else max(_FEWEST, min(_MOST, limit // 4))


class OpenFiles:
    """Open files of one storage; beyond `most` the one that was used longest ago is closed.

    Keeping a mapped array keeps its file open too, so nothing does.

    Parameters
    ----------
    most : None: as the limit of this process allows.
    check_digests : compare the SHA-256 of a file when it is first opened, and when it is opened again and cannot be
        told to be the same, unchanged. For readers that require signatures: these vouch for digests, and checksums of
        rows are easily made right for wrong rows.
    mapped : False: read files, even where they could be mapped.
    """

    def __init__(
        self, storage: Storage, most: int | None = None, *, check_digests: bool = False, mapped: bool = True
    ) -> None:
        self._check_digests = check_digests
        self._checked: dict[str, tuple[int, ...]] = {}
        """What the files were whose digests were right, by name."""
        self._storage = storage
        self._most = most_open_files() if most is None else most
        self._mapped = mapped
        self._lock = threading.Lock()
        self._blobs: dict[str, Blob] = {}  # used longest ago first

    @property
    def requests_at_once(self) -> int:
        return self._storage.requests_at_once

    def blob(self, name: str, size_bytes: int, sha256: str) -> Blob:
        """Return a file, opened now or before.

        Parameters
        ----------
        name : of the file.
        size_bytes : that it must have.
        sha256 : that it must have, where digests are checked.

        Raises
        ------
        FileNotFoundError : it is gone.
        CorruptStoreError : it has another size, or another digest where that is asked.
        StorageError : it cannot be opened.
        """
        with self._lock:
            blob = self._blobs.pop(name, None)
        if blob is None:
            blob = self._opened(name, size_bytes)
            if self._check_digests:
                self._refuse_other_digest(blob, name, size_bytes, sha256)
        with self._lock:
            self._blobs[name] = blob
            if len(self._blobs) > self._most:
                self._let_go(self._most)
        return blob

    def _opened(self, name: str, size_bytes: int) -> Blob:
        try:
            return self._storage.open(name, size_bytes, mapped=self._mapped)
        except StorageError as error:
            if not _too_many_are_open(error):
                raise
        with self._lock:  # something else in this process has many open
            self._most = max(_FEWEST, len(self._blobs) // 2)
            self._let_go(len(self._blobs) // 2)
        return self._storage.open(name, size_bytes, mapped=self._mapped)

    def _let_go(self, most: int) -> None:
        while len(self._blobs) > most:
            del self._blobs[next(iter(self._blobs))]

    def _refuse_other_digest(self, blob: Blob, name: str, size_bytes: int, sha256: str) -> None:
        if blob.identity is not None and self._checked.get(name) == blob.identity:
            return
        found = sha256_of(blob, size_bytes)
        if found != sha256:
            raise CorruptStoreError(name, f"expected SHA-256 {sha256}, which is signed, found {found}")
        if blob.identity is not None:
            self._checked[name] = blob.identity


def _too_many_are_open(error: StorageError) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.EMFILE, errno.ENFILE)
