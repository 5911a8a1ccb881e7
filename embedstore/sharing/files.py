"""Files on their way from one storage to another: digested as they pass by, refused if not what they must be."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from embedstore.errors import CorruptStoreError, StorageError
from embedstore.store.documents import FileFact
from embedstore.store.storage import Blob, Buffer, Storage, memory, sha256_of

_PIECE_BYTES = 8 << 20  # in memory at once, a few times over


def copy_file(source: Storage, destination: Storage, name: str, fact: FileFact) -> bool:
    """Copy one file of a segment under its own name; False: something else has that name.

    One that is there already, left by a copy that was stopped, is read and compared instead of sent again.

    Raises
    ------
    CorruptStoreError : the source's file is not what its commit says. FileNotFoundError : the source's file is gone.
    """
    try:
        there = destination.entry(name)
    except FileNotFoundError:
        pass
    else:
        if there.size_bytes != fact.size_bytes:
            return False
        return sha256_of(destination.open(name, fact.size_bytes), fact.size_bytes) == fact.sha256
    passing = _Digested(source.open(name, fact.size_bytes), name, fact)
    try:
        written = destination.write(name, passing.pieces())
    except StorageError as error:
        if passing.damage is not None:  # the storage's own words for being given nothing more
            raise passing.damage from error
        raise
    if passing.damage is not None:
        raise passing.damage
    return written.size_bytes == fact.size_bytes


class _Digested:
    """The content of a file, piece by piece; the last one is given only if the whole has the right SHA-256."""

    def __init__(self, blob: Blob, name: str, fact: FileFact) -> None:
        self._blob = blob
        self._name = name
        self._fact = fact
        self.damage: CorruptStoreError | None = None

    def pieces(self) -> Iterator[Buffer]:
        digest = hashlib.sha256()
        held: Buffer = b""
        for start in range(0, self._fact.size_bytes, _PIECE_BYTES):
            yield held
            held = self._blob.bytes(start, min(_PIECE_BYTES, self._fact.size_bytes - start))
            digest.update(memory(held))
        if digest.hexdigest() != self._fact.sha256:
            self.damage = CorruptStoreError(
                self._name, f"expected SHA-256 {self._fact.sha256}, found {digest.hexdigest()}"
            )
            raise self.damage
        yield held
