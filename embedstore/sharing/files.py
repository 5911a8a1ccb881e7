"""Files on their way from one storage to another: digested as they pass by, refused if not what they must be."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import CorruptStoreError, StorageError
from embedstore.store.documents import FileFact
from embedstore.store.storage import Buffer, Storage, memory

_PIECE_BYTES = 8 << 20  # in memory at once, a few times over


class PassingFile:
    """One file of a segment, read piece by piece; the last piece is given only if the whole is what it must be.

    Parameters
    ----------
    name : in the source.
    fact : its size and digest.
    vectors : (start, stop) of the bytes that are vectors.
    """

    def __init__(
        self, source: Storage, name: str, fact: FileFact, vectors: Sequence[tuple[int, int]], dtype: np.dtype[Any]
    ) -> None:
        self._source = source
        self._name = name
        self._fact = fact
        self._vectors = vectors
        self._dtype = dtype.newbyteorder("<")
        self._damage: CorruptStoreError | None = None

    def copy_to(self, destination: Storage, name: str) -> None:
        """Write it under a name that was never used.

        Raises
        ------
        CorruptStoreError : it is not what its commit says, or has vectors that are not finite.
        FileNotFoundError : it is gone. StorageError : something else has the new name.
        """
        try:
            written = destination.write(name, self._pieces())
        except StorageError as error:
            if self._damage is not None:  # the storage's own words for being given nothing more
                raise self._damage from error
            raise
        if self._damage is not None:
            raise self._damage
        if written.size_bytes != self._fact.size_bytes:
            raise StorageError(
                f"Cannot copy {self._name} to {destination.location}: something else is there as {name}."
            )

    def _pieces(self) -> Iterator[Buffer]:
        blob = self._source.open(self._name, self._fact.size_bytes)
        digest = hashlib.sha256()
        held: Buffer = b""
        before = np.empty(0, np.uint8)
        for start in range(0, self._fact.size_bytes, _PIECE_BYTES):
            yield held
            piece = blob.bytes(start, min(_PIECE_BYTES, self._fact.size_bytes - start))
            if self._vectors and not self._are_finite(start - len(before), np.concatenate([before, piece])):
                raise self._damaged("it has vectors that are not finite")
            digest.update(memory(piece))
            before = piece[1 - self._dtype.itemsize :]  # where a value is cut in two
            held = piece
        if digest.hexdigest() != self._fact.sha256:
            raise self._damaged(f"expected SHA-256 {self._fact.sha256}, found {digest.hexdigest()}")
        yield held

    def _are_finite(self, start: int, piece: NDArray[np.uint8]) -> bool:
        """Look at the values of vectors that a piece, which begins at some byte of the file, has whole."""
        size_bytes = self._dtype.itemsize
        for first, last in self._vectors:
            begin = max(first, start + (first - start) % size_bytes)
            count = (min(last, start + len(piece)) - begin) // size_bytes
            if count > 0:
                values = piece[begin - start : begin - start + count * size_bytes].view(self._dtype)
                if not np.isfinite(values).all():
                    return False
        return True

    def _damaged(self, reason: str) -> CorruptStoreError:
        self._damage = CorruptStoreError(self._name, reason)
        return self._damage
