"""A store: a folder of spaces, with one document that says how to read it.

One space that cannot be read, damaged or of a newer version, hides none of the others: it is named where somebody asks
for it, and listed in `unreadable`. A store may have others behind it, which are looked up after it: then a space *has*
what lies behind it, and all that is written stays here.
"""

from __future__ import annotations

import uuid
from collections import ChainMap
from collections.abc import Container, Iterator, Sequence
from typing import Any, Protocol, Self, TypedDict, Unpack

from embedstore.errors import (
    CorruptStoreError,
    FormatVersionError,
    InputError,
    SpaceConflictError,
    SpaceNotFoundError,
    StorageError,
    StoreNotFoundError,
)
from embedstore.identity import Recipe
from embedstore.records import Canaries
from embedstore.storage.listing import ROOT_NAME
from embedstore.storage.local import TEMPORARY_PREFIX
from embedstore.storage.locations import Location, open_storage
from embedstore.storage.open_files import OpenFiles
from embedstore.storage.protocol import Storage, is_stray
from embedstore.store.commits import Unreadable
from embedstore.store.documents import SPACE_NAME, Root, SegmentFormat, SpaceDocument, space_file, space_folders
from embedstore.store.pins import read_pin
from embedstore.store.signing import NO_TRUST, Trust, trust_of
from embedstore.store.space import Space, SpaceUpstream
from embedstore.store.verification import VerifyReport, verify

_MIN_ID_PREFIX = 8


class StoreUpstream(Protocol):
    """What lies behind a store: others that are looked up after it; see `sharing.tiers`."""

    def __len__(self) -> int:
        """How many stores."""
        ...

    def documents(self, known: Container[str]) -> Iterator[SpaceDocument]:
        """Yield what spaces those stores have, without those whose ids are known already, one after another.

        Parameters
        ----------
        known : ids; asked before each space, so it may grow meanwhile.
        """
        ...

    def behind(self, space: Space) -> SpaceUpstream:
        """Return what lies behind a space of this store.

        Parameters
        ----------
        space : of this store.
        """
        ...


class Opening(TypedDict, total=False):
    """How to open a store.

    Attributes
    ----------
    create : make a store where there is nothing, or an empty folder; without it there must be one.
    segment_format : "zarr" or "hdf5", for a store that is made now; without it "zarr".
    pin : read what the store held when the pin of that name was made, bit for bit; nothing can be added then.
    trust : who signs what is published, and whose signature what is read must have.
    """

    create: bool
    segment_format: SegmentFormat
    pin: str | None
    trust: Trust


class SpaceStore:
    """The spaces of one store. `open` makes one; the constructor is for storages of other kinds.

    Parameters
    ----------
    storage : where the store lies.
    how : see `Opening`; without `trust` nothing is signed and no signature required, whatever the environment says.

    Attributes
    ----------
    location : where it lies.
    id : random, given when it was made.
    segment_format : "zarr" or "hdf5": how new segments are written; both are read.
    pinned : the pin whose view is read; None: what is live.
    trust : who signs what is published, and whose signature what is read must have.
    tiers : the stores that are looked up after this one; None: none are.
    unreadable : why spaces that `spaces` has met cannot be read, by id.
    """

    tiers: StoreUpstream | None = None

    def __init__(self, storage: Storage, **how: Unpack[Opening]) -> None:
        self.storage = storage
        self.trust = how.get("trust", NO_TRUST)
        self._files = OpenFiles(storage, check_digests=self.trust.members is not None)
        self._spaces: dict[str, Space] = {}
        self.unreadable: dict[str, Unreadable] = {}
        root = _read_root(storage, create=how.get("create", False), segment_format=how.get("segment_format", "zarr"))
        self.location = storage.location
        self.id = root.store_id
        self.segment_format: SegmentFormat = root.segment_format
        pin = how.get("pin")
        self.pinned = None if pin is None else read_pin(storage, pin)

    @classmethod
    def open(cls, location: Location, **how: Unpack[Opening]) -> Self:
        """Open a store in a folder, or at a URL.

        Parameters
        ----------
        location : path or URL.
        how : see `Opening`; without `trust` as the environment says, see `trust_of`.

        Raises
        ------
        StoreNotFoundError : no store lies there.
        SpaceNotFoundError : no such pin.
        CorruptStoreError : it cannot be read.
        FormatVersionError : it needs a newer embedstore.
        """
        how.setdefault("trust", trust_of())
        return cls(open_storage(location), **how)

    @property
    def local(self) -> SpaceStore:
        """This store without those that are looked up after it."""
        return SpaceStore(self.storage, trust=self.trust) if self.tiers else self

    def spaces(self) -> list[Space]:
        """All spaces that can be read, sorted by name; for the others see `unreadable`.

        Also those that only upstream stores have, if their names are not taken.

        Raises
        ------
        StorageError : the storage refuses, and no space can be read.
        """
        taken = {space.name for space in self._met()}
        known = ChainMap[str, Any](self._spaces, self.unreadable)
        for document in self.tiers.documents(known) if self.tiers else ():
            if document.name not in taken:
                self._spaces[document.recipe.id] = self._space_of(document, is_made=False)
                taken.add(document.name)
        return self._sorted()

    def local_spaces(self) -> list[Space]:
        """The spaces of this store that can be read, sorted by name, without those that only upstream stores have."""
        return [space for space in self._met() if space.is_made]

    def space(self, name_or_id: str) -> Space:
        """Find a space by its name, its id, or the first eight or more digits of its id; here before upstream.

        Parameters
        ----------
        name_or_id : one of those.

        Raises
        ------
        SpaceNotFoundError : none, or several, fit.
        CorruptStoreError : it cannot be read.
        FormatVersionError : it needs a newer embedstore.
        """
        fitting = _fitting(self._met(), name_or_id) or _fitting(self.spaces(), name_or_id)
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            ids = ", ".join(space.id for space in fitting)
            raise SpaceNotFoundError(f"Several spaces of {self.location} are called {name_or_id!r}: {ids}. Give an id.")
        for space_id, error in self.unreadable.items():
            # What a damaged one is called is not known, so it may be the one that is asked for.
            if not isinstance(error, FormatVersionError) or self._may_be(space_id, name_or_id, error):
                raise error
        known = ", ".join(space.name for space in self._sorted()) or "none yet"
        raise SpaceNotFoundError(f"No space {name_or_id!r} in {self.location}; its spaces: {known}.")

    def find_space(self, recipe: Recipe, name: str | None = None) -> Space | None:
        """Return the space of a recipe, or None where it has not been made yet.

        Parameters
        ----------
        recipe : of the space.
        name : of the space; checked against the names that are taken here, not upstream.

        Raises
        ------
        SpaceConflictError : another recipe has that name.
        CorruptStoreError : the space of that recipe, or of that name, is there and cannot be read.
        FormatVersionError : so it is, and it needs a newer embedstore.
        """
        spaces = self._met()  # listed once: another process may make the space meanwhile
        found = next((space for space in spaces if space.id == recipe.id), None)
        if found is not None:
            return found
        self._refuse_unreadable(recipe, name)
        for space in spaces:
            if space.name == name and space.is_made:
                raise recipe_conflict(space.name, space.recipe, recipe)
        return next((space for space in self.spaces() if space.id == recipe.id), None) if self.tiers else None

    def create_space(self, recipe: Recipe, name: str, canaries: Canaries) -> Space:
        """Make the space of a recipe; where it exists (somebody was faster), return that one.

        Parameters
        ----------
        recipe : what determines the vectors.
        name : of the space.
        canaries : sequences with their vectors, by which the model is recognised later.

        Raises
        ------
        InputError : not a name, or the store is read as it was pinned.
        SpaceConflictError : another recipe has that name.
        """
        if not SPACE_NAME.fullmatch(name):
            raise InputError(f"Cannot name a space {name!r}: expected up to 100 of A-Z a-z 0-9 and . _ + -")
        existing = self.find_space(recipe, name)
        if existing is not None:
            return existing
        if self.pinned is not None:
            raise InputError(f"Cannot make space {name}: the store is read as it was pinned. Open the store itself.")
        document = SpaceDocument(name, recipe, canaries)
        self.storage.write(space_file(recipe.id), [document.to_bytes()])
        space = self._open_space(recipe.id)
        if space is None:
            raise CorruptStoreError(space_file(recipe.id), "it cannot be read back after writing")
        return self._spaces.setdefault(recipe.id, space)

    def require_writable(self, space: Space | None) -> None:
        """Find out whether something can be stored, before hours are spent on computing it.

        Parameters
        ----------
        space : where vectors will be stored; None: in a space that is not there yet.

        Raises
        ------
        StorageError : no permission, or a place that can only be read.
        """
        probe = f"{'spaces/' if space is None else f'{space.folder}data/'}{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        try:
            self.storage.write(probe, [b"?"])
            self.storage.delete(probe)
        except StorageError as error:
            raise StorageError(
                f"Cannot add to the store {self.location}: {error} What it holds can be read: use a store of your own "
                "with this one as --upstream."
            ) from error

    def verify(self, *, deep: bool = False) -> VerifyReport:
        """Check that all that the store promises is there.

        Parameters
        ----------
        deep : read every byte.
        """
        return verify(self.storage, deep=deep, members=self.trust.members)

    def _met(self) -> list[Space]:
        """List the spaces that are here, and return them with those that upstream stores were found to have before."""
        self.unreadable = {}
        for folder in space_folders(self.storage):
            space_id = folder.split("/")[1]
            met = self._spaces.get(space_id)
            if met is None or not met.is_made:  # somebody may have made it here meanwhile
                try:
                    space = self._open_space(space_id)
                except (CorruptStoreError, FormatVersionError, StorageError) as error:
                    self.unreadable[space_id] = error
                    continue
                if space is not None:
                    self._spaces.setdefault(space_id, space).is_made = True
        refused = [error for error in self.unreadable.values() if isinstance(error, StorageError)]
        if refused and not self._spaces:
            raise refused[0]
        return self._sorted()

    def _sorted(self) -> list[Space]:
        return sorted(self._spaces.values(), key=lambda space: (space.name, space.id))

    def _refuse_unreadable(self, recipe: Recipe, name: str | None) -> None:
        """Refuse to go on as if a space were not there that only cannot be read."""
        for space_id, error in self.unreadable.items():
            if space_id == recipe.id or (name is not None and self._may_be(space_id, name, error)):
                raise error

    def _may_be(self, space_id: str, name_or_id: str, error: Unreadable) -> bool:
        """Tell whether a space that cannot be read is the one that is asked for, as far as its error says its name."""
        if len(name_or_id) >= _MIN_ID_PREFIX and space_id.startswith(name_or_id):
            return True
        return isinstance(error, FormatVersionError) and error.what.startswith(f"space {name_or_id} (")

    def _open_space(self, space_id: str) -> Space | None:
        file = space_file(space_id)
        if self.pinned is not None and space_id not in self.pinned.spaces:
            return None
        try:
            content = self.storage.read(file)
        except FileNotFoundError:  # being made just now, or left by a crash
            return None
        return self._space_of(SpaceDocument.from_bytes(file, content), is_made=True)

    def _space_of(self, document: SpaceDocument, *, is_made: bool) -> Space:
        pinned = None if self.pinned is None else self.pinned.spaces[document.recipe.id]
        space = Space(self.storage, self._files, document, self.segment_format, pinned, self.trust, is_made=is_made)
        if self.tiers:
            space.upstream = self.tiers.behind(space)
        return space


def _fitting(spaces: Sequence[Space], name_or_id: str) -> list[Space]:
    """Return the spaces of a name, else those whose ids begin so."""
    named = [space for space in spaces if space.name == name_or_id]
    if named or len(name_or_id) < _MIN_ID_PREFIX:
        return named
    return [space for space in spaces if space.id.startswith(name_or_id)]


def _read_root(storage: Storage, *, create: bool, segment_format: SegmentFormat) -> Root:
    try:
        return Root.from_bytes(storage.read(ROOT_NAME))
    except FileNotFoundError:
        if not create:
            raise StoreNotFoundError(
                f"No store at {storage.location}: {ROOT_NAME} is not there. "
                f"Make one with `embedstore init {storage.location}`, or check the path."
            ) from None
    listed = [entry.name for entry in storage.list("")]
    foreign = [name for name in listed if not (is_stray(name) or name.startswith(TEMPORARY_PREFIX))]
    if foreign and ROOT_NAME not in foreign:
        raise StoreNotFoundError(
            f"Cannot make a store at {storage.location}: expected nothing or an empty folder, "
            f"found {', '.join(foreign[:3])}{' …' if len(foreign) > 3 else ''}."
        )
    storage.write(ROOT_NAME, [Root(uuid.uuid4().hex, segment_format).to_bytes()])
    return Root.from_bytes(storage.read(ROOT_NAME))  # somebody may have been faster


def recipe_conflict(name: str, recipe: Recipe, asked: Recipe) -> SpaceConflictError:
    """Return the error for a space of that name and recipe where another recipe was asked for."""
    differences = recipe.differences(asked)
    fields = "; ".join(f"{field}: {there!r} there, {here!r} asked for" for field, (there, here) in differences.items())
    return SpaceConflictError(
        f"Space {name} ({recipe.id[:8]}…) was made by another recipe: {fields}. "
        "Ask for what it holds, or fill a space of another name (`embedstore fill --name NAME`).",
        differences,
    )
