"""A store that is looked up after another one. Whatever is wrong with it ends in a warning, and in doing without it.

Once it has failed it is not asked again by this process, lest every look-up waits for it. Rows that are damaged there
count as not being there; so does a space whose documents or commits are.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import (
    CorruptStoreError,
    MissingDependencyError,
    MissingEmbeddingError,
    StoreError,
    UpstreamWarning,
)
from embedstore.store.locations import Location, is_url
from embedstore.store.redaction import redacted_url
from embedstore.store.signatures import NO_TRUST, Trust
from embedstore.store.space import Space
from embedstore.store.store import SpaceStore
from embedstore.types import Keys, Vectors

T = TypeVar("T")

_REFRESH_S = 20.0
_MAX_DAMAGED_BLOCKS = 256
"""So often is a block that cannot be read halved, to find the rows that can; then what is left is given up."""


class Upstream:
    """A store behind another one; opened when it is first asked.

    Parameters
    ----------
    trust : whose signature what is read must have.

    Attributes
    ----------
    location : where it lies, without anything secret.
    is_gone : it failed, and is done without.
    """

    def __init__(self, location: Location, trust: Trust = NO_TRUST) -> None:
        self.location = redacted_url(str(location)) if is_url(location) else str(location)
        self._place = location
        self._trust = trust
        self._store: SpaceStore | None = None
        self.is_gone = False

    @property
    def store(self) -> SpaceStore | None:
        """The store; None if it cannot be had."""
        if self._store is None:
            self._store = self.ask(self._opened, None)
        return self._store

    def spaces(self) -> list[Space]:
        """Its spaces; none if it cannot be had."""
        store = self.store
        return [] if store is None else self.ask(store.spaces, [])

    def ask(self, question: Callable[[], T], otherwise: T) -> T:
        """Return the answer, or what there is without this store."""
        if self.is_gone:
            return otherwise
        try:
            return question()
        except (StoreError, MissingDependencyError) as error:
            self.is_gone = True
            self.warn(f"Going on without the store {self.location}: {error}")
            return otherwise

    def warn(self, text: str) -> None:
        """Warn of this store."""
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
        """Id of the store; empty if it cannot be had."""
        return self.upstream.store.id if self.upstream.store is not None else ""

    def contains(self, keys: Keys) -> NDArray[np.bool_]:
        """Tell for each key whether it can be had there: (n,) bool."""
        space = self._found()
        nothing = np.zeros(len(keys), np.bool_)
        if space is None or not len(keys):
            return nothing
        present = self._ask(lambda: space.contains(keys), nothing)
        if self._damaged:
            present &= np.fromiter((key.tobytes() not in self._damaged for key in keys), np.bool_, len(keys))
        return present

    def read(self, keys: Keys) -> tuple[NDArray[np.bool_], Vectors]:
        """Read what can be had of some keys: which, (n,) bool, and the vectors of those, (k, dim), each checked."""
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
                self.upstream.warn(f"Going on without space {self._name} of {self.upstream.location}: {error}")
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
                whole[start:stop] = np.isfinite(found).all(axis=1)
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
