"""Removing a space for good."""

from __future__ import annotations

from embedstore.errors import StoreError
from embedstore.maintenance.collection import note, remove_indexes
from embedstore.maintenance.inventory import in_order_of_removal, take_inventory
from embedstore.store.condemned import is_document
from embedstore.store.pins import read_pins
from embedstore.store.space import Space
from embedstore.store.store import SpaceStore


def remove_space(store: SpaceStore, space: Space) -> None:
    """Remove a space and all its vectors, at once. Who fills it at this moment gets an error.

    Stopped halfway, the space is gone, and collecting removes the rest.

    Raises
    ------
    StoreError : a pin needs it.
    """
    storage, folder = store.storage, space.folder
    _refuse_pinned(store, space)
    inventory = take_inventory(storage, folder, set())
    names = inventory.own_files()
    note(storage, folder, names)
    _refuse_pinned(store, space)  # whoever pins from now on sees what is condemned
    storage.delete(f"{folder}space.json")
    remove_indexes(storage, folder)
    for name in in_order_of_removal(inventory, names):
        storage.delete(f"{folder}{name}")
    for entry in storage.list(f"{folder}gc/"):
        if is_document(entry.name[len(folder) :]):
            storage.delete(entry.name)


def _refuse_pinned(store: SpaceStore, space: Space) -> None:
    needing = [pin.name for pin in read_pins(store.storage) if pin.spaces.get(space.id)]
    if needing:
        raise StoreError(
            f"Cannot remove space {space.name}: it is pinned as {', '.join(needing)}. "
            "Remove the pin first, if nobody needs it."
        )
