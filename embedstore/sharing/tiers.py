"""A store that is looked up after another one. Whatever is wrong with it ends in a warning, and in doing without it.

Once it has failed it is not asked again by this process, lest every look-up waits for it. Rows that are damaged there
count as not being there; so does a space whose documents or commits are.

A space whose look-ups and reads go on in upstream stores.

Tiers: the own store first, then others in order. What an upstream store has is used, and kept if that is wanted.

Spaces are matched by id; an upstream space of the same name that was made by another recipe is none. As long as the own
store has what is asked for, the others are not even opened.
"""

from __future__ import annotations

import os
import shlex
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self, TypeVar

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
from embedstore.identity import Recipe, key_text
from embedstore.records import KEY_BYTES, EmbeddingBatch, Keys, Vectors
from embedstore.storage.locations import Location, is_url, open_storage
from embedstore.storage.open_files import OpenFiles
from embedstore.storage.protocol import Storage
from embedstore.storage.retrying import redacted_url
from embedstore.store.documents import Commit, SegmentFormat, SpaceDocument
from embedstore.store.segment_files import as_strings
from embedstore.store.signing import NO_TRUST, Trust, trust_of
from embedstore.store.space import Space
from embedstore.store.store import SpaceStore, recipe_conflict

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
        missing = np.flatnonzero(~present)
        if len(missing):
            present[missing] = self._fetch(keys[missing]) if self._keep else self._is_upstream(keys[missing])
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
            missing = np.flatnonzero(~present)
            if len(missing):
                present[missing] = each.contains(keys[missing])
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
        missing = rest[~found[which]]
        if len(missing):
            labels = [key_text(keys[row].tobytes()) for row in missing]
            raise MissingEmbeddingError(self.name, labels, requested=len(keys))
        self.settle()
        return gathered

    def _read_upstream(self, keys: Keys) -> tuple[NDArray[np.bool_], Vectors]:
        """Read distinct keys from the first store that has each: which were found, (n,) bool, and their vectors."""
        present = np.zeros(len(keys), np.bool_)
        vectors = np.empty((len(keys), self.dim), self.dtype)
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


def upstream_places(given: Sequence[str] | None = None) -> tuple[Location, ...]:
    """Return the stores to look up after the own one.

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
    """Where to look after the own store.

    Attributes
    ----------
    pull_through : keep in the own store what is found there.
    """

    upstream: tuple[Upstream, ...] = ()
    pull_through: bool = False


class TieredStore(SpaceStore):
    """A store with others behind it; without any it is a plain store. `open` makes one."""

    tiers = Tiers()

    @classmethod
    def open(
        cls,
        location: Location,
        *,
        create: bool = False,
        segment_format: SegmentFormat = "zarr",
        pin: str | None = None,
        trust: Trust | None = None,
        upstream: Sequence[Location] = (),
        pull_through: bool = False,
    ) -> Self:
        """Open a store in a folder, or at a URL.

        Parameters
        ----------
        create, segment_format, pin, trust : as for `SpaceStore.open`.
        upstream : stores to look up after this one, in order. A pinned view is exact, and has none.
        pull_through : keep here what is found there.

        Raises
        ------
        StoreNotFoundError : no store lies there. SpaceNotFoundError : no such pin.
        CorruptStoreError, FormatVersionError : it cannot be read.
        """
        trust = trust_of() if trust is None else trust
        store = cls(open_storage(location), create=create, segment_format=segment_format, pin=pin, trust=trust)
        if pin is None and upstream:
            store.tiers = Tiers(tuple(Upstream(place, trust) for place in upstream), pull_through)
        return store

    def spaces(self) -> list[Space]:
        """All spaces, sorted by name; also those that only upstream stores have, if their names are not taken."""
        taken = {space.name for space in super().spaces()}
        for upstream in self.tiers.upstream:
            for space in upstream.spaces():
                if space.id in self._spaces or space.id in self.unreadable:
                    continue
                try:
                    document = canaries.adopted(SpaceDocument(space.name, space.recipe, space.canaries))
                except CorruptStoreError as error:
                    upstream.warn(f"Going on without space {space.name} of {upstream.location}: {error}")
                    continue
                if document.name not in taken:
                    self._spaces[space.id] = self._tiered(document, is_made=False)
                    taken.add(document.name)
        return super().spaces()

    def own_spaces(self) -> list[Space]:
        """The spaces of this store, without those that only upstream stores have."""
        return [space for space in super().spaces() if self._is_own(space)]

    def _is_own(self, space: Space) -> bool:
        return not isinstance(space, TieredSpace) or space.is_made

    def space(self, name_or_id: str) -> Space:
        """Find a space by its name or id, here first; see `SpaceStore.space`."""
        for space in super().spaces():
            if name_or_id in (space.name, space.id):
                return space
        return super().space(name_or_id)

    def find_space(self, recipe: Recipe, name: str | None = None) -> Space | None:
        """Return the space of a recipe; see `SpaceStore.find_space`. Names that only upstream stores use are free."""
        spaces = super().spaces()  # listed once: another process may make the space meanwhile
        found = next((space for space in spaces if space.id == recipe.id), None)
        if found is not None:
            return found
        self._refuse_unreadable(recipe, name)
        for space in spaces:
            if space.name == name and self._is_own(space):
                raise recipe_conflict(space.name, space.recipe, recipe)
        return next((space for space in self.spaces() if space.id == recipe.id), None) if self.tiers.upstream else None

    def _space_of(self, document: SpaceDocument, pinned: Collection[str] | None) -> Space:
        if not self.tiers.upstream:
            return super()._space_of(document, pinned)
        return self._tiered(document, is_made=True)

    def _tiered(self, document: SpaceDocument, *, is_made: bool) -> TieredSpace:
        own = OwnParts(self.storage, self._files, self.segment_format, self.trust)
        upstream = [UpstreamSpace(each, document.recipe.id) for each in self.tiers.upstream]
        return TieredSpace(own, document, upstream, keep=self.tiers.pull_through, is_made=is_made)
