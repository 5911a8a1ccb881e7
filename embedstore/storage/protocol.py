"""The few operations that a store needs of the place where it lies.

Names are relative, with `/` between their parts, on every storage. A file is written once and never changed: content
under a name is either whole or absent, and writing to a name that exists leaves what is there. Everything else (what
is live, what is damaged, who wins) is decided above, so a new storage is one new class.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

A = TypeVar("A")
B = TypeVar("B")

Buffer = bytes | NDArray[Any]
"""Contiguous bytes."""


def memory(buffer: Buffer) -> memoryview:
    """View a buffer as its bytes."""
    return memoryview(buffer) if isinstance(buffer, bytes) else buffer.reshape(-1).view(np.uint8).data


DOCUMENT_BYTES = 64 << 20
"""How much of a document is read unless told otherwise; what is larger was not written by embedstore."""

_STRAY = re.compile(
    r"""lost\+found | \.DS_Store | \.localized | \._.* | \.AppleDouble | \.apdisk | \.fseventsd | \.Spotlight-V100
    | \.TemporaryItems | \.DocumentRevisions-V100 | \.VolumeIcon\.icns | \.Trash.* | (eh)?thumbs(_vista)?\.db
    | desktop\.ini | \$RECYCLE\.BIN | RECYCLER | System\ Volume\ Information | \.directory
    | \.snapshots? | \.snap | \.zfs | ~snapshot | @eaDir | \#recycle | \#snapshot
    | \.nfs.* | \.fuse_hidden.* | \.smbdelete.* | a?quota\.(user|group)""",
    re.VERBOSE | re.IGNORECASE,
)


def is_stray(name: str) -> bool:
    """Tell whether a file or folder was put there by an operating system, a file server or a desktop.

    A store is made beside such things (a fresh disk has `lost+found`), and they stop nothing that it does. So are
    names that no store has: empty, as in a bucket's `a//b`, or with control characters.

    Parameters
    ----------
    name : of a file or folder, alone or as a listing gives it; the last part counts.
    """
    last = name.removesuffix("/").rpartition("/")[2]
    return not last.isprintable() or not last or _STRAY.fullmatch(last) is not None


_CACHE_LINE_BYTES = 64
_DIGESTED_BYTES = 16 << 20


def empty_rows(count: int, row_bytes: int) -> NDArray[np.uint8]:
    """Return (count, row_bytes) uint8, not initialised, that begins with a cache line.

    Large arrays of numpy begin 16 bytes behind the start of a page. Where rows are multiples of 1 KiB, copying them
    there from a file took twice as long on AMD Zen 3, whose string instructions are slow at such neighbouring offsets.

    Parameters
    ----------
    count : of rows.
    row_bytes : of each.
    """
    block = np.empty(count * row_bytes + _CACHE_LINE_BYTES, np.uint8)
    start = -block.__array_interface__["data"][0] % _CACHE_LINE_BYTES
    return block[start : start + count * row_bytes].reshape(count, row_bytes)


def side_by_side(operation: Callable[[A], B], arguments: Sequence[A], at_once: int) -> Iterator[B]:
    """Yield the result for each argument, in order, while up to `at_once` of them are under way.

    Parameters
    ----------
    operation : is called in threads, unless one at a time is wanted.
    arguments : one a call.
    at_once : how many calls may be under way.
    """
    return (
        map(operation, arguments) if at_once <= 1 or len(arguments) <= 1 else _threaded(operation, arguments, at_once)
    )


def _threaded(operation: Callable[[A], B], arguments: Sequence[A], at_once: int) -> Iterator[B]:
    with ThreadPoolExecutor(min(at_once, len(arguments)), thread_name_prefix="embedstore-storage") as executor:
        yield from executor.map(operation, arguments)


def one_ahead(operation: Callable[[A], B], arguments: Sequence[A]) -> Iterator[B]:
    """Yield the result for each argument, in order, while the next one is under way in another thread.

    For operations that leave Python's lock alone, such as numpy's copying.

    Parameters
    ----------
    operation : is called in one other thread.
    arguments : one a call.
    """
    return map(operation, arguments) if len(arguments) <= 1 else _threaded_ahead(operation, arguments)


def _threaded_ahead(operation: Callable[[A], B], arguments: Sequence[A]) -> Iterator[B]:
    with ThreadPoolExecutor(1, thread_name_prefix="embedstore-ahead") as executor:
        waiting = executor.submit(operation, arguments[0])
        for argument in arguments[1:]:
            done, waiting = waiting, executor.submit(operation, argument)
            yield done.result()
        yield waiting.result()


class Entry(NamedTuple):
    """What a listing says of a file, or of a folder (whose name ends with `/`)."""

    name: str
    size_bytes: int
    modified_ns: int
    """By the storage's own clock, nanoseconds since 1970."""


class Blob(Protocol):
    """A file opened for reading."""

    gather_bytes: int
    """How much to ask of `rows` at once: what suits the storage best."""
    in_order: bool
    """Whether pieces that are asked for one after another should follow each other in the file."""

    @property
    def identity(self) -> tuple[int, ...] | None:
        """Differs from before if the name has other content since, or it was changed; None: that cannot be told."""
        ...

    def bytes(self, start: int, length: int) -> NDArray[np.uint8]:
        """Return `length` bytes from `start`; no copy where the file is mapped.

        Parameters
        ----------
        start : first byte.
        length : in bytes.
        """
        ...

    def rows(
        self, start: int, row_bytes: int, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Gather rows of a (rows, row_bytes) array that begins at `start`: (k, row_bytes) uint8, in the order asked.

        Parameters
        ----------
        start : byte of the file at which the array begins.
        row_bytes : of each row.
        rows : (k,) numbers of the rows wanted.
        out : where to put them, (k, row_bytes) uint8 in C order; None: in a new array.
        """
        ...


def sha256_of(blob: Blob, size_bytes: int) -> str:
    """Read a file of known size from its first byte to its last, piece by piece, and return its SHA-256.

    Parameters
    ----------
    blob : an open file.
    size_bytes : of the file.
    """
    digest = hashlib.sha256()
    for start in range(0, size_bytes, _DIGESTED_BYTES):
        digest.update(memory(blob.bytes(start, min(_DIGESTED_BYTES, size_bytes - start))))
    return digest.hexdigest()


class Storage(Protocol):
    """A place for files. Errors: FileNotFoundError for a name that is not there, StorageError for all else.

    What a store says is not believed: a name that leads out of it, what is no file, and what is larger than was asked
    for are CorruptStoreError, and nothing of them is read, written or removed.

    Attributes
    ----------
    location : what people call it.
    requests_at_once : how many operations side by side are faster than one after another; 1 where none are.
    """

    location: str
    requests_at_once: int

    def read(self, name: str, limit_bytes: int = DOCUMENT_BYTES) -> bytes:
        """Return the whole content of a small file; CorruptStoreError for one of more than `limit_bytes`.

        Parameters
        ----------
        name : of the file.
        limit_bytes : the most that is read.
        """
        ...

    def write(self, name: str, parts: Iterable[Buffer]) -> Entry:
        """Write a file, durable when this returns. An existing file of that name stays as it is.

        Of writers at once one wins, on an object store the last; they are to write the same, since names are digests
        of the content, or random.

        Parameters
        ----------
        name : of the file.
        parts : its bytes, one part after another.
        """
        ...

    def replace(self, name: str, parts: Iterable[Buffer]) -> Entry:
        """Write a file in place of the one that may be there; others see the old or the new one, whole.

        For derived documents at a fixed name only: what a store consists of is never replaced.

        Parameters
        ----------
        name : of the file.
        parts : its bytes, one part after another.
        """
        ...

    def list(self, folder: str) -> list[Entry]:
        """Return what lies directly in a folder (`""` or ending with `/`), sorted; a missing folder is empty.

        A file that is there and cannot be looked at is listed with size and time 0: reading it says why.
        """
        ...

    def walk(self, folder: str) -> Iterator[Entry]:
        """Yield every file below a folder (`""` or ending with `/`), at any depth, in any order; no folders.

        Stray folders (`is_stray`) are not looked into.
        """
        ...

    def entry(self, name: str) -> Entry:
        """Return size and time of one file."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file, and the folders above that are empty then; one that is gone already is fine.

        Outside `data/` it is gone for good, whatever happens to the machine, before the next one is removed. A name
        that ends with `/` is of a folder: it goes if no file lies in it, which is what a stopped process may leave.
        """
        ...

    def open(self, name: str, size_bytes: int, *, mapped: bool = True) -> Blob:
        """Open a file of known size for reading at any place; CorruptStoreError when it has another size.

        Parameters
        ----------
        name : of the file.
        size_bytes : that it must have.
        mapped : False: read it, even where it could be mapped. A disk that fails is an error then, not a signal.
        """
        ...
