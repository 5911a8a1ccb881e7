"""A space whose look-ups and reads go on in upstream stores."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import InputError, MissingEmbeddingError, StorageError, UpstreamWarning
from embedstore.identity import key_text
from embedstore.sharing.upstream import UpstreamSpace
from embedstore.store.documents import Commit, SegmentFormat, SpaceDocument
from embedstore.store.open_files import OpenFiles
from embedstore.store.rows import as_strings
from embedstore.store.signatures import Trust
from embedstore.store.space import Space
from embedstore.store.storage import Storage
from embedstore.types import KEY_BYTES, EmbeddingBatch, Keys, Vectors

_KEPT_BYTES = 128 << 20
"""So much is held back, to be stored as one segment."""
_READ_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class OwnParts:
    """What a space of the own store is made of; see `Space`."""

    storage: Storage
    files: OpenFiles
    segment_format: SegmentFormat
    trust: Trust


@dataclass(slots=True)
class _HeldBack:
    """Rows found upstream, to be stored together, and the ids of the stores that they are from."""

    keys: list[Keys] = field(default_factory=list)
    vectors: list[Vectors] = field(default_factory=list)
    known: set[bytes] = field(default_factory=set)
    stores: set[str] = field(default_factory=set)
    size_bytes: int = 0

    def add(self, keys: Keys, vectors: Vectors, stores: set[str]) -> None:
        self.keys.append(keys)
        self.vectors.append(vectors)
        self.known.update(key.tobytes() for key in keys)
        self.stores |= stores
        self.size_bytes += vectors.nbytes


class TieredSpace(Space):
    """A space of the own store, looked up there first and then in other stores.

    Counts, segments, and what is written are those of the own store.

    Parameters
    ----------
    upstream : in the order in which they are looked up.
    keep : store here what is found there. That is done by and by; `settle` does the rest.
    is_made : whether the own store has such a space; it is made when something is to be stored.
    """

    def __init__(
        self,
        own: OwnParts,
        document: SpaceDocument,
        upstream: Sequence[UpstreamSpace],
        *,
        keep: bool = False,
        is_made: bool = True,
    ) -> None:
        super().__init__(own.storage, own.files, document, own.segment_format, None, own.trust)
        self.is_made = is_made
        self._document = document
        self._upstream = tuple(upstream)
        self._keep = keep
        self._held = _HeldBack()
        self._held_lock = threading.RLock()

    def contains(self, keys: Keys) -> NDArray[np.bool_]:
        """Tell for each key whether it has a vector in one of the stores: (n,) bool."""
        present = super().contains(keys)
        lacking = np.flatnonzero(~present)
        if len(lacking):
            present[lacking] = self._fetch(keys[lacking]) if self._keep else self._is_upstream(keys[lacking])
        return present

    def read(self, keys: Keys) -> Vectors:
        """Read vectors from the first store that has each; see `Space.read`. What is damaged upstream is not there."""
        self.settle()
        try:
            return super().read(keys)
        except MissingEmbeddingError:
            return self._read_tiers(keys)

    def refresh(self) -> None:
        """See what has changed here, and every now and then upstream."""
        super().refresh()
        for each in self._upstream:
            each.refresh()

    def publish(
        self, write: Callable[[], Commit | None], sign: Callable[[Commit], None] | None = None
    ) -> Commit | None:
        """Make the space, where the local store does not have it, and publish a segment; see `Space.publish`."""
        if not self.is_made:
            self.storage.write(f"{self.folder}space.json", [self._document.to_bytes()])
            self.is_made = True
        return super().publish(write, sign)

    def settle(self) -> None:
        """Store what was found upstream and is to be kept."""
        with self._held_lock:
            if self._held.keys:
                self._store_held()
                self.optimise()

    def _is_upstream(self, keys: Keys) -> NDArray[np.bool_]:
        present = np.zeros(len(keys), np.bool_)
        for each in self._upstream:
            lacking = np.flatnonzero(~present)
            if len(lacking):
                present[lacking] = each.contains(keys[lacking])
        return present

    def _fetch(self, keys: Keys) -> NDArray[np.bool_]:
        """Fetch what upstream stores have, to be kept; tell which keys can be had: (n,) bool."""
        distinct, which = _distinct(keys)
        with self._held_lock:
            present = np.fromiter((key.tobytes() in self._held.known for key in distinct), np.bool_, len(distinct))
            wanted = np.flatnonzero(~present)
            for some in self._windows(wanted):
                present[some], _ = self._read_upstream(distinct[some])
            return present[which]

    def _read_tiers(self, keys: Keys) -> Vectors:
        gathered = np.empty((len(keys), self.dim), self.dtype.newbyteorder("<"))
        own = Space.contains(self, keys)
        gathered[own] = Space.read(self, keys[own])
        rest = np.flatnonzero(~own)
        distinct, which = _distinct(keys[rest])
        found = np.zeros(len(distinct), np.bool_)
        for some in self._windows(np.arange(len(distinct))):
            found[some], vectors = self._read_upstream(distinct[some])
            here = np.flatnonzero((which >= some[0]) & (which <= some[-1]))
            here = here[found[which[here]]]
            place = np.cumsum(found[some]) - 1  # of each key of the window among those that were found
            gathered[rest[here]] = vectors[place[which[here] - some[0]]]
        lacking = rest[~found[which]]
        if len(lacking):
            labels = [key_text(keys[row].tobytes()) for row in lacking]
            raise MissingEmbeddingError(self.name, labels, requested=len(keys))
        self.settle()
        return gathered

    def _read_upstream(self, keys: Keys) -> tuple[NDArray[np.bool_], Vectors]:
        """Read distinct keys from the first store that has each: which were found, (n,) bool, and their vectors."""
        present = np.zeros(len(keys), np.bool_)
        vectors = np.empty((len(keys), self.dim), self.dtype)
        stores: set[str] = set()
        for each in self._upstream:
            lacking = np.flatnonzero(~present)
            if not len(lacking):
                break
            found, read = each.read(keys[lacking])
            if found.any():
                vectors[lacking[found]] = read
                present[lacking[found]] = True
                stores.add(each.store_id)
        vectors = vectors[present]
        if self._keep and len(vectors):
            with self._held_lock:
                self._held.add(keys[present], vectors, stores)
                if self._held.size_bytes >= _KEPT_BYTES:
                    self._store_held()
        return present, vectors

    def _store_held(self) -> None:
        held, self._held = self._held, _HeldBack()
        try:
            batch = EmbeddingBatch(np.concatenate(held.keys), np.concatenate(held.vectors))
            self.append(batch, {"copied_from": {"stores": sorted(held.stores)}})
        except (StorageError, InputError) as error:
            self._keep = False
            text = f"Going on without keeping what upstream stores have of space {self.name}: {error}"
            warnings.warn(text, UpstreamWarning, stacklevel=2)

    def _windows(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        step = max(1, _READ_BYTES // (self.dim * self.dtype.itemsize))
        for start in range(0, len(rows), step):
            yield rows[start : start + step]


def _distinct(keys: Keys) -> tuple[Keys, NDArray[np.int64]]:
    """Return the distinct keys, sorted, and where each key is among them."""
    strings, which = np.unique(as_strings(keys), return_inverse=True)
    return strings.view(np.uint8).reshape(-1, KEY_BYTES), which
