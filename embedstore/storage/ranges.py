"""Reading files of a remote storage: small ones whole and once, of large ones the ranges that are wanted, side by side.

A request costs a delay before its first byte, however little it brings. Reading on over a gap costs its bytes. So two
rows are read with one request when the gap between them takes less time than the delay: gap < delay × bandwidth of one
connection. Object stores answer in 20 to 50 ms and give one connection 10 to 90 MB/s, which makes 0.2 to 4.5 MB; a
server on the loopback of our machine 4 ms and 400 MB/s, which makes 1.6 MB. `GAP_BYTES` lies between.

A server may not know ranges, or no longer know them (another machine behind the same name). A file that is wanted in
ranges is then fetched whole, once, into a temporary file without a name, and mapped from there for as long as it is
open: the disk bounds it, not the memory.
"""

from __future__ import annotations

import errno
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import CorruptStoreError, StorageError
from embedstore.storage.local import MappedBlob
from embedstore.storage.protocol import Blob, Buffer, empty_rows, memory

REQUESTS_AT_ONCE = 16  # enough to fill a 10 Gbit/s line from an object store; more only add load
GAP_BYTES = 1 << 20
REQUEST_BYTES = 8 << 20  # the delay of a request is then a small part of its time; 16 of them are 128 MiB
KEPT_FILE_BYTES = 8 << 20  # keys and checksums of 100 000 rows and more; one request
KEPT_BYTES = 256 << 20
_GATHER_BYTES = 64 << 20

Content = NDArray[np.uint8]


class NoRangesError(Exception):
    """A server that was asked for a range sent all of the file."""


@runtime_checkable
class Ranged(Protocol):
    """A storage whose server may or may not know ranges."""

    def answers_ranges(self, name: str, size_bytes: int) -> bool:
        """Ask for the last byte of a file, and tell whether that came rather than the whole file."""
        ...


class KeptFiles:
    """Small files in memory, up to a number of bytes; beyond that the one that was used longest ago is dropped."""

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._contents: dict[str, Content] = {}  # used longest ago first
        self._size_bytes = 0

    def get(self, name: str) -> Content | None:
        """Return a file that is kept."""
        with self._lock:
            content = self._contents.pop(name, None)
            if content is not None:
                self._contents[name] = content
            return content

    def put(self, name: str, content: Content) -> None:
        """Keep a file."""
        with self._lock:
            self._drop(name)
            self._contents[name] = content
            self._size_bytes += len(content)
            while self._size_bytes > self._most_bytes:
                self._drop(next(iter(self._contents)))

    def drop(self, name: str) -> None:
        """Forget a file."""
        with self._lock:
            self._drop(name)

    def _drop(self, name: str) -> None:
        self._size_bytes -= len(self._contents.pop(name, ()))


class RangeReader:
    """What the open files of one storage share: the requests under way, and the small files that are kept.

    Parameters
    ----------
    fetch : (name, start, length) -> exactly those bytes of a file; NoRangesError when the server cannot.
    fetch_whole : (name, size) -> the content of a small file; CorruptStoreError when it has another size.
    fetch_mapped : (name, size) -> a large file, fetched whole and mapped (see `mapped`).
    """

    def __init__(
        self,
        fetch: Callable[[str, int, int], Content],
        fetch_whole: Callable[[str, int], Content],
        fetch_mapped: Callable[[str, int], Blob],
    ) -> None:
        self._fetch = fetch
        self._fetch_whole = fetch_whole
        self.mapped = fetch_mapped
        self.kept = KeptFiles()
        self._executor = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="embedstore-ranges")

    def whole(self, name: str, size_bytes: int) -> Content:
        """Return a small file: (size,) uint8, read-only.

        Raises
        ------
        CorruptStoreError : it has another size.
        FileNotFoundError : it is gone.
        """
        content = self.kept.get(name)
        if content is None:
            content = self._fetch_whole(name, size_bytes)
            self.kept.put(name, content)
        if len(content) != size_bytes:
            raise CorruptStoreError(name, f"expected {size_bytes} bytes, found {len(content)}")
        return content

    def fetch_each(self, name: str, ranges: Sequence[Range], take: Callable[[Range, Content], None]) -> None:
        """Fetch ranges of a file side by side, and hand each to `take` as it comes, in any order and thread."""

        def fetch(wanted: Range) -> None:
            take(wanted, self._fetch(name, wanted.start, wanted.length))

        if len(ranges) == 1:
            fetch(ranges[0])
            return
        for _ in self._executor.map(fetch, ranges):
            pass


class Range(NamedTuple):
    """Bytes to be fetched by one request, and which of the wanted rows lie in them."""

    start: int
    length: int
    first: int
    stop: int
    """Positions among the wanted rows in file order; for plain bytes, where they go."""


class RangedBlob:
    """A file of a remote storage, read in ranges, or whole where the server knows none."""

    in_order = True
    gather_bytes = _GATHER_BYTES
    identity = None

    def __init__(self, reader: RangeReader, name: str, size_bytes: int) -> None:
        self._reader = reader
        self._name = name
        self._size_bytes = size_bytes
        self._lock = threading.Lock()
        self._mapped: Blob | None = None

    def bytes(self, start: int, length: int) -> Content:
        if start + length > self._size_bytes:
            raise CorruptStoreError(self._name, f"ends at byte {self._size_bytes}, expected {start + length}")
        if self._size_bytes <= KEPT_FILE_BYTES and length:
            return self._reader.whole(self._name, self._size_bytes)[start : start + length]
        if self._mapped is None:
            try:
                return self._fetched(start, length)
            except NoRangesError:
                pass
        return self._whole().bytes(start, length)

    def _whole(self) -> Blob:
        """Fetch the file once, however many ask at the same time."""
        with self._lock:
            if self._mapped is None:
                self._mapped = self._reader.mapped(self._name, self._size_bytes)
            return self._mapped

    def _fetched(self, start: int, length: int) -> Content:
        content = np.empty(length, np.uint8)

        def take(found: Range, block: Content) -> None:
            content[found.first : found.stop] = block

        places = range(0, length, REQUEST_BYTES)
        stops = [min(place + REQUEST_BYTES, length) for place in places]
        wanted = [Range(start + place, stop - place, place, stop) for place, stop in zip(places, stops, strict=True)]
        self._reader.fetch_each(self._name, wanted, take)
        return content

    def rows(
        self, start: int, row_bytes: int, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None
    ) -> Content:
        gathered = empty_rows(len(rows), row_bytes) if out is None else out
        count = (self._size_bytes - start) // row_bytes
        if len(rows) and not (rows.min() >= 0 and rows.max() < count):
            raise IndexError(f"{self._name} has {count} rows of {row_bytes} bytes, not {rows.min()} to {rows.max()}")
        if self._size_bytes <= KEPT_FILE_BYTES and len(rows):
            table = self.bytes(start, count * row_bytes).reshape(count, row_bytes)
            return np.take(table, rows, axis=0, out=gathered, mode="clip")
        if self._mapped is None:
            try:
                self._gather(start, row_bytes, rows, gathered)
            except NoRangesError:
                pass
            else:
                return gathered
        return self._whole().rows(start, row_bytes, rows, gathered)

    def _gather(self, start: int, row_bytes: int, rows: NDArray[np.int64], gathered: Content) -> None:
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]

        def take(found: Range, block: Content) -> None:
            inside = ordered[found.first : found.stop] - ordered[found.first]
            gathered[order[found.first : found.stop]] = block.reshape(-1, row_bytes)[inside]

        self._reader.fetch_each(self._name, list(coalesced(ordered, row_bytes, start)), take)


def mapped(name: str, size_bytes: int, pieces: Iterable[Buffer]) -> MappedBlob:
    """Write what a server sends into a temporary file without a name, and map it.

    Raises
    ------
    CorruptStoreError : more or less comes than `size_bytes`; the rest is then not asked for.
    StorageError : there is no room for it.
    """
    received = 0
    try:
        with tempfile.TemporaryFile(prefix="embedstore-") as file:
            for piece in pieces:
                received += len(memory(piece))
                if received > size_bytes:
                    raise CorruptStoreError(name, f"expected {size_bytes} bytes, found more")
                file.write(memory(piece))
            file.flush()
            if received != size_bytes:
                raise CorruptStoreError(name, f"expected {size_bytes} bytes, found {received}")
            return MappedBlob(name, file.fileno(), size_bytes)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOENT, errno.EACCES, errno.EROFS):
            raise
        raise StorageError(
            f"Cannot keep {name} ({size_bytes:,} bytes) in a temporary file: {error.strerror}. The server sends no "
            "ranges, so the complete file is fetched. Set TMPDIR to a folder with room for it."
        ) from None


def coalesced(
    rows: NDArray[np.int64],
    row_bytes: int,
    start: int = 0,
    *,
    gap_bytes: int = GAP_BYTES,
    request_bytes: int = REQUEST_BYTES,
) -> Iterator[Range]:
    """Yield the requests that fetch some rows: neighbours together, none much longer than `request_bytes`.

    Parameters
    ----------
    rows : (k,) ascending, repeated or not.
    row_bytes : of each row.
    start : byte at which row 0 begins.
    gap_bytes : how much that nobody wants is read rather than making another request.
    request_bytes : the most that one request should fetch.
    """
    if not len(rows):
        return
    offsets = rows * row_bytes
    apart = np.diff(offsets) > gap_bytes + row_bytes
    group = np.concatenate([[0], np.cumsum(apart)])
    group_starts = offsets[np.concatenate([[0], np.flatnonzero(apart) + 1])]
    block = (offsets - group_starts[group]) // request_bytes
    breaks = np.flatnonzero(apart | (np.diff(block) != 0)) + 1
    for first, stop in zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)], strict=True):
        begin, end = int(offsets[first]), int(offsets[stop - 1]) + row_bytes
        yield Range(start + begin, end - begin, first, stop)
