"""The files that a store has open for reading, a bounded number of them.

A process may hold about a thousand files open, and a mapped file counts; a segment has up to three, and a space may
have hundreds of segments before somebody merges them.
"""

from __future__ import annotations

import threading

from embedstore.store.storage import Blob, Storage

MOST_OPEN_FILES = 256


class OpenFiles:
    """Open files of one storage; beyond `most` the one that was used longest ago is let go.

    Whoever keeps a mapped array keeps its file open too, so nobody does.
    """

    def __init__(self, storage: Storage, most: int = MOST_OPEN_FILES) -> None:
        self._storage = storage
        self._most = most
        self._lock = threading.Lock()
        self._blobs: dict[str, Blob] = {}  # used longest ago first

    @property
    def requests_at_once(self) -> int:
        return self._storage.requests_at_once

    def blob(self, name: str, size_bytes: int) -> Blob:
        """Return a file, opened now or before.

        Raises
        ------
        FileNotFoundError : it is gone. CorruptStoreError : it has another size.
        """
        with self._lock:
            blob = self._blobs.pop(name, None)
        if blob is None:
            blob = self._storage.open(name, size_bytes)
        with self._lock:
            self._blobs[name] = blob
            while len(self._blobs) > self._most:
                del self._blobs[next(iter(self._blobs))]
        return blob
