"""The merged index of a space: from a key to the segment and row that hold it. Derived from the segments, disposable.

For each distinct key, sorted: the first 8 bytes as a number, the segment, the row (14 bytes a key). A hit is confirmed
on the full key in its segment, so a damaged or stale index can miss a key but never yield a wrong row.

File `index/<created>-<nonce>.idx`, all numbers little-endian: magic, header length (u8), header (JSON), zeros up to a
multiple of 64; then `prefix` (n u8), `row` (n u4), `segment` (n u2). The header names the commits that it covers, in
the order that `segment` counts, the number of keys, and the CRC-32C of `[commits,keys]` as compact JSON followed by the
three arrays.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from embedstore.errors import CorruptStoreError, StoreError
from embedstore.records import KEY_BYTES, Keys
from embedstore.storage.protocol import Blob, Buffer, Storage, side_by_side
from embedstore.store.segment_files import as_strings
from embedstore.strict_json import field, integer, matching, parsed, well_formed

MAGIC = b"EMBIDX01"
MAX_SEGMENTS = 1 << 16
_NAME = re.compile(r"index/[0-9]{20}-[0-9a-f]{32}\.idx")
_COMMIT_ID = re.compile(r"[0-9a-f]{64}")
_MAX_HEADER_BYTES = 8 << 20  # twice what 65 536 segments need
_ALIGNMENT = 64
_BYTES_A_KEY = 14
_CHECK_AT_OPEN_BYTES = 64 << 20  # larger ones are checked by `verify`; reading them whole would undo the mapping

Places = tuple[NDArray[np.int64], NDArray[np.int64]]
"""(segment number or -1, row), both (n,) int64."""


class Indexed(Protocol):
    """What an index needs of a segment."""

    commit_id: str
    requests_at_once: int

    def __len__(self) -> int: ...

    @property
    def keys(self) -> Keys: ...

    def gather(self, array: str, rows: NDArray[np.int64]) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, slots=True, eq=False)
class KeyIndex:
    """Sorted key prefixes of some segments, and where each key lies.

    Attributes
    ----------
    commits : ids of the segments' commits; `segment` counts in this order, older first.
    prefix : (n,) uint64, ascending.
    segment : (n,) uint16.
    row : (n,) uint32.
    file : what the arrays are mapped from, asked whether it is whole before they are touched.
    """

    commits: tuple[str, ...]
    prefix: NDArray[np.uint64]
    segment: NDArray[np.uint16]
    row: NDArray[np.uint32]
    file: Blob | None = None

    def __len__(self) -> int:
        return len(self.prefix)

    def find(self, keys: Keys, segments: Sequence[Indexed]) -> Places:
        """Look up keys; where a key is not, the segment number is -1.

        Parameters
        ----------
        keys : (n, 24) uint8.
        segments : those of `commits`, in that order.

        Raises
        ------
        CorruptStoreError : its file was truncated.
        """
        if self.file is not None:
            with suppress(FileNotFoundError):  # replaced by a newer one; what is mapped or in memory stays right
                self.file.bytes(0, 0)
        count = len(self.prefix)
        numbers = np.full(len(keys), -1, np.int64)
        rows = np.zeros(len(keys), np.int64)
        if not count or not len(keys):
            return numbers, rows
        prefixes = key_prefixes(keys)
        pending = prefixes.argsort()  # neighbours share pages
        wanted = prefixes[pending]
        places = self.prefix.searchsorted(wanted)
        while len(pending):
            inside = np.minimum(places, count - 1)
            alike = (self.prefix[inside] == wanted) & (places < count)
            pending, places, wanted = pending[alike], places[alike], wanted[alike]
            number, row = self.segment[places].astype(np.int64), self.row[places].astype(np.int64)
            same = np.zeros(len(pending), np.bool_)
            # A damaged index may name any segment and row.
            asked = [(segments[each], here) for each, here in by_value(number) if each < len(segments)]
            clipped = [np.minimum(row[here], len(segment) - 1) for segment, here in asked]
            reads = [partial(each.gather, "key", some) for (each, _), some in zip(asked, clipped, strict=True)]
            found = side_by_side(operator.call, reads, asked[0][0].requests_at_once if asked else 1)
            for (_, here), some, stood in zip(asked, clipped, found, strict=True):
                same[here] = same_keys(stood, keys[pending[here]]) & (some == row[here])
            numbers[pending[same]], rows[pending[same]] = number[same], row[same]
            # Another key with the same prefix may follow: rare, so nearly always nothing is left.
            pending, places, wanted = pending[~same], places[~same] + 1, wanted[~same]
        return numbers, rows

    def is_over(self, segments: Sequence[Indexed]) -> bool:
        """Tell whether it has exactly the keys of some segments, given in its order, each at its place."""
        right = build_index(segments)
        if len(right) != len(self) or not np.array_equal(right.prefix, self.prefix):
            return False
        if np.array_equal(right.segment, self.segment) and np.array_equal(right.row, self.row):
            return True
        orders = [np.lexsort((index.row, index.segment, index.prefix)) for index in (right, self)]  # alike prefixes
        return all(
            np.array_equal(mine[orders[0]], others[orders[1]])
            for mine, others in ((right.segment, self.segment), (right.row, self.row))
        )

    def parts(self) -> Iterator[Buffer]:
        """Yield the bytes of the index's file."""
        arrays = [
            self.prefix.astype("<u8", copy=False),
            self.row.astype("<u4", copy=False),
            self.segment.astype("<u2", copy=False),
        ]
        checksum = _header_checksum(self.commits, len(self))
        for array in arrays:
            checksum = google_crc32c.extend(checksum, np.ascontiguousarray(array))
        header = _compact({"commits": self.commits, "keys": len(self), "crc32c": checksum})
        yield MAGIC + len(header).to_bytes(8, "little") + header + bytes(_padding(len(header)))
        yield from arrays


def build_index(segments: Sequence[Indexed]) -> KeyIndex:
    """Merge sorted segments, given older first; of a key in several the oldest is kept."""
    if len(segments) > MAX_SEGMENTS:
        raise StoreError(f"Cannot index {len(segments)} segments: expected at most {MAX_SEGMENTS}. Compact the space.")
    at_once = segments[0].requests_at_once if segments else 1
    prefixes = list(side_by_side(lambda segment: key_prefixes(segment.keys), segments, at_once))
    counts = [len(each) for each in prefixes]
    prefix = np.concatenate(prefixes or [np.zeros(0, np.uint64)])
    segment = np.repeat(np.arange(len(counts), dtype=np.uint16), counts)
    row = np.concatenate([np.arange(count, dtype=np.uint32) for count in counts] or [np.zeros(0, np.uint32)])
    order = np.argsort(prefix, kind="stable")  # runs are sorted: a merge
    prefix, segment, row = prefix[order], segment[order], row[order]
    kept = ~_repeated(prefix, segment, row, segments)
    return KeyIndex(tuple(each.commit_id for each in segments), prefix[kept], segment[kept], row[kept])


def _repeated(
    prefix: NDArray[np.uint64],
    segment: NDArray[np.uint16],
    row: NDArray[np.uint32],
    segments: Sequence[Indexed],
) -> NDArray[np.bool_]:
    """Mark entries whose full key stands at an earlier entry, i.e. in an older segment."""
    repeated = np.zeros(len(prefix), np.bool_)
    follows = np.flatnonzero(prefix[1:] == prefix[:-1]) + 1
    if not len(follows):
        return repeated
    involved = np.union1d(follows, follows - 1)
    full = np.empty((len(involved), KEY_BYTES), np.uint8)
    for number in np.unique(segment[involved]):
        here = segment[involved] == number
        full[here] = segments[number].keys[row[involved[here]]]
    _, first = np.unique(as_strings(full), return_index=True)  # the first of each key: stable, so the oldest
    repeated[involved] = True
    repeated[involved[first]] = False
    return repeated


def is_index(name: str) -> bool:
    """Tell an index, named from the space's folder, from what else may lie beside it."""
    return _NAME.fullmatch(name) is not None


def open_index(storage: Storage, name: str, size_bytes: int, *, check: bool | None = None) -> KeyIndex:
    """Open an index file, mapped where the storage maps.

    Parameters
    ----------
    check : compare its checksum; None does so for all but large ones.

    Raises
    ------
    CorruptStoreError : it is not whole.
    FileNotFoundError : a newer one has replaced it.
    """
    blob = storage.open(name, size_bytes)
    header, start = _read_header(name, blob, size_bytes)
    with well_formed(name):
        count, checksum = integer(header, "keys"), integer(header, "crc32c")
        commits = tuple(matching("commit", each, _COMMIT_ID) for each in field(header, "commits", list))
    if len(set(commits)) < len(commits):
        raise CorruptStoreError(name, "it names a commit twice")
    if start + count * _BYTES_A_KEY != size_bytes or len(commits) > MAX_SEGMENTS:
        raise CorruptStoreError(name, f"expected {count} keys of {len(commits)} segments, found {size_bytes} bytes")
    if check is None:
        check = size_bytes <= _CHECK_AT_OPEN_BYTES
    content = blob.bytes(start, size_bytes - start)
    if check and google_crc32c.extend(_header_checksum(commits, count), content) != checksum:
        raise CorruptStoreError(name, "it does not have the CRC-32C in its header")
    rows_start = count * 8
    segments_start = rows_start + count * 4
    index = KeyIndex(
        commits,
        prefix=content[:rows_start].view("<u8"),
        row=content[rows_start:segments_start].view("<u4"),
        segment=content[segments_start:].view("<u2"),
        file=blob,
    )
    if check and not (index.prefix[:-1] <= index.prefix[1:]).all():
        raise CorruptStoreError(name, "its keys are not sorted")
    return index


def _read_header(name: str, blob: Blob, size_bytes: int) -> tuple[dict[str, Any], int]:
    fixed = len(MAGIC) + 8
    head = blob.bytes(0, min(fixed, size_bytes)).tobytes()
    length = int.from_bytes(head[len(MAGIC) :], "little")
    if head[: len(MAGIC)] != MAGIC or length > _MAX_HEADER_BYTES or fixed + length + _padding(length) > size_bytes:
        raise CorruptStoreError(name, f"expected an index that begins with {MAGIC!r}, found {head!r}")
    content = blob.bytes(fixed, length).tobytes()
    padding = blob.bytes(fixed + length, _padding(length)).tobytes()
    header = parsed(name, content)
    if any(padding):
        raise CorruptStoreError(name, "its header is damaged")
    return header, fixed + length + len(padding)


def _header_checksum(commits: Sequence[str], count: int) -> int:
    """CRC-32C of what the header says, to be extended by the arrays."""
    return int(google_crc32c.value(_compact([list(commits), count])))


def _compact(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _padding(header_bytes: int) -> int:
    return -(len(MAGIC) + 8 + header_bytes) % _ALIGNMENT


def key_prefixes(keys: Keys) -> NDArray[np.uint64]:
    """First eight bytes of each key as a number that sorts like the key: (n,) uint64."""
    return np.ascontiguousarray(keys[:, :8]).view(">u8").reshape(-1).astype(np.uint64)


def same_keys(some: Keys, others: Keys) -> NDArray[np.bool_]:
    """Compare keys row by row: (n,) bool."""
    some_words, other_words = (np.ascontiguousarray(keys).view(np.uint64) for keys in (some, others))  # (n, 3)
    same: NDArray[np.bool_] = some_words[:, 0] == other_words[:, 0]
    for word in range(1, KEY_BYTES // 8):  # several times as fast as comparing rows
        same &= some_words[:, word] == other_words[:, word]
    return same


def by_value(numbers: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each value >= 0 with the positions where it stands, ascending."""
    order = numbers.argsort(kind="stable")
    ordered = numbers[order]
    edges = [0, *((ordered[1:] != ordered[:-1]).nonzero()[0] + 1).tolist(), len(ordered)]
    for start, stop in pairwise(edges):
        if stop > start and ordered[start] >= 0:
            yield int(ordered[start]), order[start:stop]
