"""Upstream stores: looked up after the local one, in order. With pull-through, what they have is stored in it too.

A `SpaceStore` has `Tiers`, its upstream stores in order; a `Space` has `UpstreamSpaces`, the spaces of its recipe in
them. Spaces are matched by id; an upstream space of the same name that was made by another recipe does not count. As
long as the local store has what is asked for, the others are not even opened.

If an upstream store fails, there is a warning, and it is skipped; this process does not ask it again, so that no
look-up waits for it. Rows that are damaged there count as missing; so does a space whose documents or commits are
damaged.
"""

from __future__ import annotations

import os
import shlex
import threading
import time
import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import (
    CorruptStoreError,
    InputError,
    MissingDependencyError,
    MissingEmbeddingError,
    StorageError,
    StoreError,
    UpstreamWarning,
)
from embedstore.filling import canaries
from embedstore.home import expanded
from embedstore.records import KEY_BYTES, EmbeddingBatch, Keys, Vectors, not_finite
from embedstore.storage.locations import Location, is_url
from embedstore.storage.retrying import redacted_url
from embedstore.store.documents import SpaceDocument
from embedstore.store.segment_files import as_strings
from embedstore.store.signing import NO_TRUST, Trust
from embedstore.store.space import Space
from embedstore.store.store import SpaceStore

T = TypeVar("T")

_REFRESH_S = 20.0
_MAX_DAMAGED_BLOCKS = 256
"""So often is a block that cannot be read halved, to find the rows that can; the rest then counts as damaged."""


class Upstream:
    """A store behind another one; opened when it is first asked.

    Parameters
    ----------
    location : path or URL.
    trust : whose signature what is read must have.

    Attributes
    ----------
    location : where it lies, without anything secret.
    is_gone : it failed, and is skipped.
    """

    def __init__(self, location: Location, trust: Trust = NO_TRUST) -> None:
        self.location = redacted_url(str(location)) if is_url(location) else str(location)
        self._place = location
        self._trust = trust
        self._store: SpaceStore | None = None
        self.is_gone = False

    @property
    def store(self) -> SpaceStore | None:
        """The store; None if it cannot be opened."""
        if self._store is None:
            self._store = self.ask(self._opened, None)
        return self._store

    def spaces(self) -> list[Space]:
        """Its spaces; none if it cannot be opened."""
        store = self.store
        return [] if store is None else self.ask(store.spaces, [])

    def ask(self, question: Callable[[], T], otherwise: T) -> T:
        """Return the answer, or `otherwise` if this store fails or has failed before.

        Parameters
        ----------
        question : asks this store.
        otherwise : what there is without it.
        """
        if self.is_gone:
            return otherwise
        try:
            return question()
        except (StoreError, MissingDependencyError) as error:
            self.is_gone = True
            self.warn(f"Skipping the store {self.location}: {error}")
            return otherwise

    def warn(self, text: str) -> None:
        """Warn of this store.

        Parameters
        ----------
        text : what is wrong, and what follows.
        """
        warnings.warn(text, UpstreamWarning, stacklevel=2)

    def _opened(self) -> SpaceStore:
        return SpaceStore.open(self._place, trust=self._trust)


class UpstreamSpace:
    """The space of one recipe in an upstream store, which need not have it."""

    def __init__(self, upstream: Upstream, space_id: str) -> None:
        self.upstream = upstream
        self._space_id = space_id
        self._space: Space | None = None
        self._damaged: set[bytes] = set()
        self._unusable = False
        self._looked_s = -_REFRESH_S

    @property
    def store_id(self) -> str:
        """Id of the store; empty if it cannot be opened."""
        return self.upstream.store.id if self.upstream.store is not None else ""

    def contains(self, keys: Keys) -> NDArray[np.bool_]:
        """Tell for each key whether that store has it: (n,) bool.

        Parameters
        ----------
        keys : (n, 24) uint8.
        """
        space = self._found()
        nothing = np.zeros(len(keys), np.bool_)
        if space is None or not len(keys):
            return nothing
        present = self._ask(lambda: space.contains(keys), nothing)
        if self._damaged:
            present &= np.fromiter((key.tobytes() not in self._damaged for key in keys), np.bool_, len(keys))
        return present

    def read(self, keys: Keys) -> tuple[NDArray[np.bool_], Vectors]:
        """Read those of some keys that the store has: which, (n,) bool, and their vectors, (k, dim), each checked.

        Parameters
        ----------
        keys : (n, 24) uint8, distinct.
        """
        present = self.contains(keys)
        space = self._space
        vectors = np.empty((0, 0)) if space is None else np.empty((int(present.sum()), space.dim), space.dtype)
        if space is None or not present.any():
            return present, vectors
        rows = np.flatnonzero(present)
        whole = self._read_blocks(space, keys[rows], vectors)
        present[rows[~whole]] = False
        return present, vectors[whole]

    def refresh(self) -> None:
        """See what has been added there, if that was looked at some time ago."""
        space, now = self._space, time.monotonic()
        if space is not None and not self._unusable and now - self._looked_s >= _REFRESH_S:
            self._looked_s = now
            self._ask(space.refresh, None)

    def _found(self) -> Space | None:
        if self._space is None and not self._unusable:
            now = time.monotonic()
            if now - self._looked_s < _REFRESH_S:
                return None
            self._looked_s = now
            self._space = next((space for space in self.upstream.spaces() if space.id == self._space_id), None)
        return None if self._unusable else self._space

    def _ask(self, question: Callable[[], T], otherwise: T) -> T:
        def minding_damage() -> T:
            try:
                return question()
            except CorruptStoreError as error:
                self._unusable = True
                self.upstream.warn(f"Skipping space {self._name} of {self.upstream.location}: {error}")
                return otherwise

        return self.upstream.ask(minding_damage, otherwise)

    def _read_blocks(self, space: Space, keys: Keys, vectors: Vectors) -> NDArray[np.bool_]:
        """Read into `vectors`, halving what cannot be read whole; tell which rows could be: (n,) bool."""
        whole = np.zeros(len(keys), np.bool_)
        blocks = [(0, len(keys))]
        failures = 0
        while blocks and not self.upstream.is_gone:
            start, stop = blocks.pop()
            found = self._read_block(space, keys[start:stop])
            if found is not None:
                vectors[start:stop] = found
                whole[start:stop] = True
                whole[start + not_finite(found)] = False
                continue
            failures += 1
            if stop - start > 1 and failures < _MAX_DAMAGED_BLOCKS:
                middle = (start + stop) // 2
                blocks += [(middle, stop), (start, middle)]
        if self.upstream.is_gone:
            whole[:] = False
        elif not whole.all():
            self._damaged.update(key.tobytes() for key in keys[~whole])
            self.upstream.warn(
                f"Rows of space {self._name} of {self.upstream.location} are damaged there and count as missing. "
                "Run `embedstore verify --deep` on it; `fill --pull-through` computes them again."
            )
        return whole

    def _read_block(self, space: Space, keys: Keys) -> Vectors | None:
        def read() -> Vectors | None:
            try:
                return space.read(keys)
            except (CorruptStoreError, MissingEmbeddingError):  # missing: collected since it was looked up
                return None

        return self.upstream.ask(read, None)

    @property
    def _name(self) -> str:
        return self._space.name if self._space is not None else self._space_id


_KEPT_BYTES = 128 << 20
"""So much is held back, to be stored as one segment."""
_READ_BYTES = 32 << 20


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


class UpstreamSpaces:
    """What lies behind a space of the local store: the spaces of its recipe in upstream stores. See `SpaceUpstream`.

    Parameters
    ----------
    local : the space itself.
    upstream : in the order in which they are looked up.
    keep : store in the local space what is found. That is done as enough has been found; `settle` does the rest.
    """

    def __init__(self, local: Space, upstream: Sequence[UpstreamSpace], *, keep: bool = False) -> None:
        self._local = local
        self._upstream = tuple(upstream)
        self._keep = keep
        self._held = _HeldBack()
        self._held_lock = threading.RLock()

    def contains(self, keys: Keys) -> NDArray[np.bool_]:
        """Tell for each key whether one of the stores has its vector: (n,) bool. With pull-through, fetch it.

        Parameters
        ----------
        keys : (n, 24) uint8, in any order, repeated or not.
        """
        return self._fetch(keys) if self._keep else self._is_upstream(keys)

    def read_into(self, vectors: Vectors, rows: NDArray[np.int64], keys: Keys) -> NDArray[np.bool_]:
        """Put the vectors of keys into some rows of an array, and tell which were found: (n,) bool.

        Parameters
        ----------
        vectors : to be filled.
        rows : (n,) those that the keys belong to.
        keys : (n, 24) uint8, in any order, repeated or not.
        """
        distinct, which = _distinct(keys)
        found = np.zeros(len(distinct), np.bool_)
        for some in self._windows(np.arange(len(distinct))):
            found[some], read = self._read_upstream(distinct[some])
            here = np.flatnonzero((which >= some[0]) & (which <= some[-1]))
            here = here[found[which[here]]]
            place = np.cumsum(found[some]) - 1  # of each key of the window among those that were found
            vectors[rows[here]] = read[place[which[here] - some[0]]]
        return found[which]

    def refresh(self) -> None:
        """See every now and then what has been added upstream."""
        for each in self._upstream:
            each.refresh()

    def settle(self) -> None:
        """Store in the local store what was found upstream and not stored yet."""
        with self._held_lock:
            if self._held.keys:
                self._store_held()
                self._local.optimise()

    def _is_upstream(self, keys: Keys) -> NDArray[np.bool_]:
        present = np.zeros(len(keys), np.bool_)
        for each in self._upstream:
            missing = np.flatnonzero(~present)
            if len(missing):
                present[missing] = each.contains(keys[missing])
        return present

    def _fetch(self, keys: Keys) -> NDArray[np.bool_]:
        """Fetch what upstream stores have, to be kept; tell which of the keys they have: (n,) bool."""
        distinct, which = _distinct(keys)
        with self._held_lock:
            present = np.fromiter((key.tobytes() in self._held.known for key in distinct), np.bool_, len(distinct))
            wanted = np.flatnonzero(~present)
            for some in self._windows(wanted):
                present[some], _ = self._read_upstream(distinct[some])
            return present[which]

    def _read_upstream(self, keys: Keys) -> tuple[NDArray[np.bool_], Vectors]:
        """Read distinct keys from the first store that has each: which were found, (n,) bool, and their vectors."""
        present = np.zeros(len(keys), np.bool_)
        vectors = np.empty((len(keys), self._local.dim), self._local.dtype)
        stores: set[str] = set()
        for each in self._upstream:
            missing = np.flatnonzero(~present)
            if not len(missing):
                break
            found, read = each.read(keys[missing])
            if found.any():
                vectors[missing[found]] = read
                present[missing[found]] = True
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
            self._local.append(batch, {"copied_from": {"stores": sorted(held.stores)}})
        except (StorageError, InputError) as error:
            self._keep = False
            text = f"Not keeping what upstream stores have of space {self._local.name}: {error}"
            warnings.warn(text, UpstreamWarning, stacklevel=2)

    def _windows(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        step = max(1, _READ_BYTES // (self._local.dim * self._local.dtype.itemsize))
        for start in range(0, len(rows), step):
            yield rows[start : start + step]


def _distinct(keys: Keys) -> tuple[Keys, NDArray[np.int64]]:
    """Return the distinct keys, sorted, and where each key is among them."""
    strings, which = np.unique(as_strings(keys), return_inverse=True)
    return strings.view(np.uint8).reshape(-1, KEY_BYTES), which


def upstream_places(given: Sequence[str] | None = None) -> tuple[Location, ...]:
    """Return the stores to look up after the local one.

    Parameters
    ----------
    given : folders or URLs; an empty text is none. None: what $EMBEDSTORE_UPSTREAM lists, separated by blanks and
        quoted as in a shell where they contain some.

    Raises
    ------
    InputError : a quotation in the variable does not end.
    """
    if given is None:
        listed = os.environ.get("EMBEDSTORE_UPSTREAM", "")
        try:
            given = shlex.split(listed)
        except ValueError as error:
            raise InputError(f"Cannot read EMBEDSTORE_UPSTREAM={listed!r}: {error}.") from error
    return tuple(place if is_url(place) else expanded(place) for place in given if place)


@dataclass(frozen=True, slots=True)
class Tiers:
    """The stores that are looked up after the local one.

    Attributes
    ----------
    upstream : in the order in which they are looked up.
    pull_through : keep in the local store what is found there.
    """

    upstream: tuple[Upstream, ...] = ()
    pull_through: bool = False

    def __len__(self) -> int:
        return len(self.upstream)

    def documents(self, known: Container[str]) -> Iterator[SpaceDocument]:
        """Yield what spaces those stores have, without those whose ids are known already, one after another.

        Parameters
        ----------
        known : ids; asked before each space, so it may grow meanwhile.
        """
        for upstream in self.upstream:
            for space in upstream.spaces():
                if space.id not in known:
                    try:
                        yield canaries.adopted(SpaceDocument(space.name, space.recipe, space.canaries))
                    except CorruptStoreError as error:
                        upstream.warn(f"Skipping space {space.name} of {upstream.location}: {error}")

    def behind(self, space: Space) -> UpstreamSpaces:
        """Return what lies behind a space of the local store.

        Parameters
        ----------
        space : of the local store.
        """
        upstream = [UpstreamSpace(each, space.id) for each in self.upstream]
        return UpstreamSpaces(space, upstream, keep=self.pull_through)
