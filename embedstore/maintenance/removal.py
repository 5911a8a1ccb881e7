"""Removing a space for good."""

from __future__ import annotations

from embedstore.errors import StoreError
from embedstore.maintenance.collection import in_order_of_removal
from embedstore.maintenance.inventory import take_inventory
from embedstore.store.condemned import condemn
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
    names = {name for name in inventory.files if not name.startswith("gc/") and name != "space.json"}
    condemn(storage, folder, names)
    _refuse_pinned(store, space)  # whoever pins from now on sees what is condemned
    storage.delete(f"{folder}space.json")
    indexes = {name for name in names if name.startswith("index/")}
    for name in [*sorted(indexes), *in_order_of_removal(inventory, names - indexes)]:
        storage.delete(f"{folder}{name}")
    for entry in storage.list(f"{folder}gc/"):
        storage.delete(entry.name)


def _refuse_pinned(store: SpaceStore, space: Space) -> None:
    needing = [pin.name for pin in read_pins(store.storage) if pin.spaces.get(space.id)]
    if needing:
        raise StoreError(
            f"Cannot remove space {space.name}: it is pinned as {', '.join(needing)}. "
            "Remove the pin first, if nobody needs it."
        )
