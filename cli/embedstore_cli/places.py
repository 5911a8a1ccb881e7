"""Which store a command works on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore_cli.output import notice

if TYPE_CHECKING:
    from embedstore.filling import SpaceTarget
    from embedstore.library import Store
    from embedstore.models.resolution import ModelOptions


def store_if_any(place: str | None) -> Store | None:
    """Open the store, if there is one."""
    from embedstore.errors import StoreNotFoundError
    from embedstore.library import open_store

    try:
        return open_store(place)
    except StoreNotFoundError:
        return None


def target_to_fill(
    place: str | None, model: str, options: ModelOptions, name: str | None, *, quiet: bool
) -> SpaceTarget:
    """Find the space to fill; makes the store if there is none, but only once the model is known to be one."""
    from dataclasses import replace

    from embedstore.filling import find_target
    from embedstore.library import open_store

    store = store_if_any(place)
    target = find_target(store, model, options, name)
    if target.notice is not None and not quiet:
        notice(target.notice)
    if store is not None:
        return target
    made = open_store(place, create=True)
    if not quiet:
        notice(f"Made a store at {made.location}.")
    return replace(target, store=made)
