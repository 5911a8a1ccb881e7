"""A store that a web server shows, for reading: `https://…` or `http://…`, any server that serves the folder.

A web server cannot list, so `index.json` says what there is (see `web_index`). A cache on the way may answer with an
old one. What then does not fit is noticed: an index older than one seen before, a file that is gone or has another
size. Rows are checked as everywhere.

Servers that know ranges are asked for ranges. Others answer with the whole file, which is then kept for as long as it
is open, in a temporary file without a name, and mapped; so is a file of which a range is refused later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TypeVar

from embedstore.errors import CorruptStoreError, StorageError, StoreNotFoundError
from embedstore.store.ranges import (
    KEPT_FILE_BYTES,
    REQUESTS_AT_ONCE,
    Content,
    NoRangesError,
    RangedBlob,
    RangeReader,
)
from embedstore.store.retrying import Patience
from embedstore.store.storage import DOCUMENT_BYTES, Blob, Buffer, Entry
from embedstore.store.web_client import WebClient
from embedstore.store.web_listing import INDEX_NAME, ROOT_NAME, WebIndex

T = TypeVar("T")


class WebStorage:
    """Files below a URL; all that would change them is refused.

    Parameters
    ----------
    url : of the folder in which `embedstore.json` and `index.json` lie.
    patience : how long the server is waited for.
    fresh_s : how old an index may be to be asked once more; look-ups come in bursts.

    Raises
    ------
    InputError : the URL holds credentials, or a query.
    """

    requests_at_once = REQUESTS_AT_ONCE

    def __init__(self, url: str, *, patience: Patience | None = None, fresh_s: float = 1.0) -> None:
        self._client = WebClient(url, patience or Patience())
        self.location = self._client.location
        self._reader = RangeReader(self._range, self._whole, self._mapped)
        self._fresh_s = fresh_s
        self._lock = threading.Lock()
        self._index: WebIndex | None = None
        self._tag: str | None = None
        self._looked_s = 0.0

    def read(self, name: str, limit_bytes: int = DOCUMENT_BYTES) -> bytes:
        size_bytes = self.entry(name).size_bytes
        if size_bytes > limit_bytes:
            raise CorruptStoreError(name, f"expected at most {limit_bytes} bytes, found {size_bytes}")
        carried = self._current().documents.get(name)
        return self._whole(name, size_bytes).tobytes() if carried is None else carried

    def write(self, name: str, parts: Iterable[Buffer]) -> Entry:
        raise self._read_only("write", name)

    def replace(self, name: str, parts: Iterable[Buffer]) -> Entry:
        raise self._read_only("write", name)

    def delete(self, name: str) -> None:
        raise self._read_only("delete", name)

    def list(self, folder: str) -> list[Entry]:
        found = set()
        for name, entry in self._look().files.items():
            if name.startswith(folder):
                below, slash, _ = name[len(folder) :].partition("/")
                found.add(Entry(f"{folder}{below}/", 0, 0) if slash else entry)
        return sorted(found)

    def walk(self, folder: str) -> Iterator[Entry]:
        for name, entry in self._look().files.items():
            if name.startswith(folder):
                yield entry

    def entry(self, name: str) -> Entry:
        found = self._current().files.get(name)
        if found is None:
            raise FileNotFoundError(2, "No such file", f"{self.location}/{name}")
        return found

    def open(self, name: str, size_bytes: int, *, mapped: bool = True) -> Blob:
        listed = self.entry(name).size_bytes
        if listed != size_bytes:
            raise CorruptStoreError(name, f"expected {size_bytes} bytes, found {listed}")
        if size_bytes <= KEPT_FILE_BYTES:
            self._reader.whole(name, size_bytes)
            return RangedBlob(self._reader, name, size_bytes)
        received = self._listed(name, lambda: self._client.mapped_unless_ranges(name, size_bytes))
        return received or RangedBlob(self._reader, name, size_bytes)

    def answers_ranges(self, name: str, size_bytes: int) -> bool:
        """Ask for the last byte of a file, and tell whether that came rather than the whole file."""
        try:
            return len(self._range(name, size_bytes - 1, 1)) == 1
        except NoRangesError:
            return False

    def _whole(self, name: str, size_bytes: int) -> Content:
        return self._listed(name, lambda: self._client.whole(name, size_bytes))

    def _mapped(self, name: str, size_bytes: int) -> Blob:
        return self._listed(name, lambda: self._client.mapped(name, size_bytes))

    def _range(self, name: str, start: int, length: int) -> Content:
        return self._listed(name, lambda: self._client.range(name, start, length))

    def _listed(self, name: str, ask: Callable[[], T]) -> T:
        """Ask for a file that the index names; one that is gone must be gone from the index too."""
        try:
            return ask()
        except FileNotFoundError:
            index = self._look(at_once=True)
            if name not in index.files:  # merged away and collected since we looked
                raise
        raise CorruptStoreError(
            name, f"it is gone, and {INDEX_NAME} of {_moment(index)} names it: write it anew with `publish-index`"
        )

    def _current(self) -> WebIndex:
        return self._index or self._look()

    def _look(self, *, at_once: bool = False) -> WebIndex:
        """Return the index as it is now, or was a moment ago."""
        with self._lock:
            if self._index is None or at_once or time.monotonic() - self._looked_s >= self._fresh_s:
                self._index = self._fetched()
                self._looked_s = time.monotonic()
            return self._index

    def _fetched(self) -> WebIndex:
        before = self._index
        try:
            found = self._client.unless_same(INDEX_NAME, self._tag if before else None)
        except FileNotFoundError:
            raise self._without_index() from None
        if found is None:
            assert before is not None  # noqa: S101 - only then a tag was sent
            return before
        index = WebIndex.from_bytes(found[0].tobytes())
        if before is not None and index.created_ns < before.created_ns:
            raise StorageError(
                f"Cannot read {self.location}/{INDEX_NAME}: expected that of {_moment(before)} or a later one, found "
                f"that of {_moment(index)}. A cache on the way is stale: let it not keep {INDEX_NAME}, and try again."
            )
        self._tag = found[1]
        return index

    def _without_index(self) -> StorageError | StoreNotFoundError:
        if not self._client.is_there(ROOT_NAME):
            return StoreNotFoundError(
                f"No store at {self.location}: neither {INDEX_NAME} nor {ROOT_NAME} is there. Check the address."
            )
        return StorageError(
            f"Cannot read the store at {self.location}: {INDEX_NAME} is not there, and a web server cannot list. "
            "Write it with `embedstore publish-index --store FOLDER`, where the store lies."
        )

    def _read_only(self, action: str, name: str) -> StorageError:
        return StorageError(
            f"Cannot {action} {self.location}/{name}: a web server is read-only. "
            "Fill a store in a folder or an object store, and read this one."
        )


def _moment(index: WebIndex) -> str:
    return datetime.fromtimestamp(index.created_ns / 1e9, UTC).isoformat(timespec="seconds")
