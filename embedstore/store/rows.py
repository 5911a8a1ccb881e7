"""Rows on their way into a segment: sorted by key, checksummed while they pass by, their files digested."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from embedstore.store.documents import MAX_CREATED_NS, Commit, FileFact, Part, SegmentFormat
from embedstore.store.storage import Buffer, Storage, memory
from embedstore.types import KEY_BYTES, EmbeddingBatch, Keys, Vectors

_PIECE_BYTES = 1 << 20  # stays in the processor's cache while it is checksummed, digested and written


def row_checksums(keys: Keys, vectors: NDArray[Any]) -> NDArray[np.uint32]:
    """CRC-32C (Castagnoli, RFC 3720) of each key followed by the bytes of its vector: (n,) uint32.

    The key is in it so that a damaged key, or a vector in another's place, cannot pass for a row.
    """
    value, extend = google_crc32c.value, google_crc32c.extend
    whole_keys = np.ascontiguousarray(keys).view(f"V{KEY_BYTES}").reshape(-1).tolist()  # faster than row by row
    return np.fromiter(map(extend, map(value, whole_keys), vectors), dtype=np.uint32, count=len(keys))


def as_strings(keys: Keys) -> NDArray[np.bytes_]:
    """View keys as (n,) `S24`, whose order is the order of the bytes; compare, never take items (NULs are stripped)."""
    return np.ascontiguousarray(keys).view(f"S{KEY_BYTES}").reshape(-1)


class SortedRows:
    """Rows in key order, handed out array by array.

    `shapes` lists the arrays in the order in which they must be written: the row checksums are counted while the
    vectors pass by, so that no second pass over them, and no second copy of them, is needed.

    Parameters
    ----------
    keys : (n, 24) uint8, ascending and distinct.
    dim, dtype : of the vectors.
    gather : the vectors of rows [start, stop), asked for in order: (stop - start, dim).
    """

    def __init__(self, keys: Keys, dim: int, dtype: np.dtype[Any], gather: Callable[[int, int], Vectors]) -> None:
        self._keys = keys
        self._gather = gather
        self._row_crc = np.zeros(len(keys), dtype="<u4")
        self.shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            "vectors": ((len(keys), dim), dtype.newbyteorder("<")),
            "key": (keys.shape, keys.dtype),
            "row_crc": (self._row_crc.shape, self._row_crc.dtype),
        }

    @classmethod
    def of(cls, batch: EmbeddingBatch) -> SortedRows:
        """Sort a batch of distinct keys."""
        order = np.argsort(as_strings(batch.keys), kind="stable")

        def gather(start: int, stop: int) -> Vectors:
            return np.take(batch.vectors, order[start:stop], axis=0)

        return cls(batch.keys[order], batch.vectors.shape[1], batch.vectors.dtype, gather)

    def __len__(self) -> int:
        return len(self._keys)

    def row_bytes(self, array: str) -> int:
        """Bytes of one row of an array."""
        shape, dtype = self.shapes[array]
        return int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize

    def pieces(self, array: str, start: int, stop: int) -> Iterator[Buffer]:
        """Yield the bytes of rows [start, stop) of an array, in order."""
        if array == "key":
            yield self._keys[start:stop]
        elif array == "row_crc":
            yield self._row_crc[start:stop]
        else:
            yield from self._vector_pieces(start, stop)

    def _vector_pieces(self, start: int, stop: int) -> Iterator[Buffer]:
        step = max(1, _PIECE_BYTES // self.row_bytes("vectors"))
        little_endian = self.shapes["vectors"][1]
        for first in range(start, stop, step):
            last = min(first + step, stop)
            piece = self._gather(first, last).astype(little_endian, copy=False)
            self._row_crc[first:last] = row_checksums(self._keys[first:last], piece)
            yield piece


class SegmentFiles:
    """The files of one new segment below `spaces/<id>/`, written one by one; notes size and digest of each.

    Parameters
    ----------
    layout : how they are arranged. rows : of the segment.

    Attributes
    ----------
    nonce : what they are called by; random, never used before.
    arrays : in which of the files the rows of each array lie, once they are written.
    written_ns : when the last file was written, by the storage's clock.
    """

    def __init__(self, storage: Storage, folder: str, layout: SegmentFormat, rows: int) -> None:
        self._storage = storage
        self._folder = folder
        self._layout: SegmentFormat = layout
        self._rows = rows
        self.nonce = uuid.uuid4().hex
        self.facts: dict[str, FileFact] = {}
        self.arrays: dict[str, tuple[Part, ...]] = {}
        self.written_ns = 0

    def write(self, name: str, parts: Iterable[Buffer]) -> None:
        """Write one file, named from the space's folder."""
        digest = hashlib.sha256()

        def digested() -> Iterator[Buffer]:
            for part in parts:
                digest.update(memory(part))
                yield part

        entry = self._storage.write(f"{self._folder}{name}", digested())
        self.facts[name] = FileFact(entry.size_bytes, digest.hexdigest())
        self.written_ns = max(self.written_ns, entry.modified_ns)

    def commit(
        self, space_id: str, created_ns: int, provenance: Mapping[str, Any], replaces: Sequence[str] = ()
    ) -> Commit:
        """Return the commit that makes these files part of a space, once it is published."""
        return Commit(
            space_id=space_id,
            nonce=self.nonce,
            layout=self._layout,
            rows=self._rows,
            created_ns=min(created_ns, MAX_CREATED_NS),
            arrays=self.arrays,
            files=self.facts,
            replaces=tuple(replaces),
            provenance=provenance,
        )
