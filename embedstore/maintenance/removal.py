"""Removing a space for good."""

from __future__ import annotations

from collections.abc import Sequence

from embedstore.errors import StorageError, StoreError
from embedstore.maintenance.collection import noted, remove_indexes
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
    names = in_order_of_removal(inventory, inventory.own_files())
    try:
        _remove(store, space, names)
    except StorageError as error:
        try:
            document = storage.read(f"{folder}space.json")
        except FileNotFoundError:  # it had begun
            raise error from None
        storage.delete(f"{folder}space.json")  # on a disk so full that only this makes room for what is noted first
        try:
            _remove(store, space, names)
        except StoreError:
            storage.write(f"{folder}space.json", [document])
            raise
    for entry in storage.list(f"{folder}gc/"):
        if is_document(entry.name[len(folder) :]):
            storage.delete(entry.name)


def _remove(store: SpaceStore, space: Space, ordered: Sequence[str]) -> None:
    for names in noted(store.storage, space.folder, ordered):
        _refuse_pinned(store, space)  # whoever pins from now on sees what is condemned
        store.storage.delete(f"{space.folder}space.json")
        remove_indexes(store.storage, space.folder)
        for name in names:
            store.storage.delete(f"{space.folder}{name}")


def _refuse_pinned(store: SpaceStore, space: Space) -> None:
    needing = [pin.name for pin in read_pins(store.storage) if pin.spaces.get(space.id)]
    if needing:
        raise StoreError(
            f"Cannot remove space {space.name}: it is pinned as {', '.join(needing)}. "
            "Remove the pin first, if nobody needs it."
        )
