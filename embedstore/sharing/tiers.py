"""Tiers: the own store first, then others in order. What an upstream store has is used, and kept if that is wanted.

Spaces are matched by id; an upstream space of the same name that was made by another recipe is none. As long as the own
store has what is asked for, the others are not even opened.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

from embedstore.errors import CorruptStoreError, InputError
from embedstore.filling import canaries
from embedstore.home import expanded
from embedstore.identity import Recipe
from embedstore.sharing.tiered_space import OwnParts, TieredSpace
from embedstore.sharing.upstream import Upstream, UpstreamSpace
from embedstore.store.documents import SegmentFormat, SpaceDocument
from embedstore.store.locations import Location, is_url, open_storage
from embedstore.store.signatures import Trust, trust_of
from embedstore.store.space import Space
from embedstore.store.store import SpaceStore, recipe_conflict


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
