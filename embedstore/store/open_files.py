"""The files that a store has open for reading, a bounded number of them.

A process may hold about a thousand files open, and a mapped file counts; a segment has up to three, and a space may
have hundreds of segments before somebody merges them.
"""

from __future__ import annotations

import threading

from embedstore.errors import CorruptStoreError
from embedstore.store.storage import Blob, Storage, sha256_of

MOST_OPEN_FILES = 256


class OpenFiles:
    """Open files of one storage; beyond `most` the one that was used longest ago is let go.

    Whoever keeps a mapped array keeps its file open too, so nobody does.

    Parameters
    ----------
    check_digests : compare the SHA-256 of a file when it is first opened. For readers that require signatures: these
        vouch for digests, and checksums of rows are easily made right for wrong rows.
    """

    def __init__(self, storage: Storage, most: int = MOST_OPEN_FILES, *, check_digests: bool = False) -> None:
        self._check_digests = check_digests
        self._checked: set[str] = set()
        self._storage = storage
        self._most = most
        self._lock = threading.Lock()
        self._blobs: dict[str, Blob] = {}  # used longest ago first

    @property
    def requests_at_once(self) -> int:
        return self._storage.requests_at_once

    def blob(self, name: str, size_bytes: int, sha256: str) -> Blob:
        """Return a file, opened now or before.

        Raises
        ------
        FileNotFoundError : it is gone. CorruptStoreError : it has another size, or another digest where that is asked.
        """
        with self._lock:
            blob = self._blobs.pop(name, None)
        if blob is None:
            blob = self._storage.open(name, size_bytes)
            if self._check_digests and name not in self._checked:
                _refuse_other_digest(blob, name, size_bytes, sha256)
                self._checked.add(name)
        with self._lock:
            self._blobs[name] = blob
            while len(self._blobs) > self._most:
                del self._blobs[next(iter(self._blobs))]
        return blob


def _refuse_other_digest(blob: Blob, name: str, size_bytes: int, sha256: str) -> None:
    found = sha256_of(blob, size_bytes)
    if found != sha256:
        raise CorruptStoreError(name, f"expected SHA-256 {sha256}, which is signed, found {found}")
