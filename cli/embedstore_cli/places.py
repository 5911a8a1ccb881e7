"""Which store a command works on, and which others it looks up after it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from embedstore_cli.output import notice

if TYPE_CHECKING:
    from embedstore.filling import SpaceTarget
    from embedstore.library import Store
    from embedstore.models.resolution import ModelOptions
    from embedstore.storage.locations import Location
    from embedstore.store import Space

T = TypeVar("T")


def opened(place: Location | None, *, create: bool = False, pin: str | None = None) -> Store:
    """Open the store with its upstream stores; where there is no store, and none is to be made, those alone."""
    from embedstore.errors import StoreNotFoundError
    from embedstore.library import open_store

    keep = bool(os.environ.get("EMBEDSTORE_PULL_THROUGH"))
    create = create or (keep and bool(os.environ.get("EMBEDSTORE_UPSTREAM")))
    try:
        return open_store(place, create=create, pin=pin, upstream=None, pull_through=keep)
    except StoreNotFoundError:
        found = None if pin else _upstream_alone()
        if found is None:
            raise
        return found


def store_if_any(place: Location | None) -> Store | None:
    """Open the store to look things up, with its upstream stores, if there is one of them."""
    from embedstore.errors import StoreNotFoundError
    from embedstore.library import open_store

    try:
        return open_store(place, upstream=None)
    except StoreNotFoundError:
        return _upstream_alone()


def of_each_space(store: Store, spaces: Sequence[Space], question: Callable[[Space], T]) -> Iterator[T]:
    """Yield the answer of each space; those that cannot be read are named on standard error, and hide no other."""
    from embedstore.errors import CorruptStoreError, FormatVersionError

    for error in store.unreadable.values():
        notice(f"Skipped: {error}")
    for space in spaces:
        try:
            yield question(space)
        except (CorruptStoreError, FormatVersionError) as error:
            notice(f"Skipped space {space.name}: {error}")


def target_to_fill(
    place: str | None, model: str, options: ModelOptions, name: str | None, *, quiet: bool
) -> SpaceTarget:
    """Find the space to fill; makes the store if there is none, but only once the model is known to be one."""
    from embedstore.filling import find_target

    found = store_if_any(place)
    target = find_target(found, model, options, name)
    if target.notice is not None and not quiet:
        notice(target.notice)
    store = opened(place, create=True)
    if not quiet and (found is None or found.id != store.id):
        notice(f"Made a store at {store.location}.")
    return find_target(store, model, options, name)


def _upstream_alone() -> Store | None:
    """Open the first upstream store that can be had, only to be read."""
    from embedstore.library import open_store
    from embedstore.sharing import upstream_places
    from embedstore.sharing.tiers import Upstream

    upstream = upstream_places()
    for number, each in enumerate(upstream):
        if Upstream(each).store is not None:
            return open_store(each, upstream=upstream[number + 1 :])
    return None
