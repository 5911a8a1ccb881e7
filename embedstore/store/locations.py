"""From what people write as the place of a store to the storage that reads it."""

from __future__ import annotations

from pathlib import Path

from embedstore.errors import InputError
from embedstore.store.local import LocalStorage
from embedstore.store.storage import Storage

Location = str | Path
"""A folder, or a URL."""


def is_url(location: Location) -> bool:
    """Tell a URL from a folder."""
    return isinstance(location, str) and "://" in location


def open_storage(location: Location) -> Storage:
    """Return the storage at a place; nothing is read or made yet.

    Raises
    ------
    InputError : no such kind of place is known.
    """
    if not is_url(location):
        return LocalStorage(location)
    scheme = str(location).partition("://")[0]
    raise InputError(f"Cannot open a store at {scheme}://…: expected a folder. No such kind of place is known.")
