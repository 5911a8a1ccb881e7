"""From what people write as the place of a store to the storage that reads it."""

from __future__ import annotations

from pathlib import Path

from embedstore.errors import InputError, MissingDependencyError
from embedstore.storage.local import LocalStorage
from embedstore.storage.protocol import Storage

Location = str | Path
"""A folder, or a URL."""

_OBJECTS = ("s3", "gs", "az")
_WEB = ("https", "http")


def is_url(location: Location) -> bool:
    """Tell a URL from a folder."""
    return isinstance(location, str) and "://" in location


def open_storage(location: Location) -> Storage:
    """Return the storage at a place; nothing is read or made yet.

    Parameters
    ----------
    location : a folder, or a URL.

    Raises
    ------
    InputError : no such kind of place is known.
    MissingDependencyError : the extra `remote` is not installed.
    StorageError : the settings of an object store cannot be used.
    """
    if not is_url(location):
        return LocalStorage(location)
    url = str(location)
    scheme = url.partition("://")[0].lower()
    if scheme not in _OBJECTS + _WEB:
        known = ", ".join(f"{name}://" for name in _OBJECTS + _WEB)
        raise InputError(f"Cannot open a store at {scheme}://…: expected a folder, or a URL that begins with {known}.")
    try:
        if scheme in _OBJECTS:
            from embedstore.storage.objects import ObjectStorage

            return ObjectStorage(url)
        from embedstore.storage.web import WebStorage

        return WebStorage(url)
    except ImportError as error:
        raise MissingDependencyError(
            f"Cannot open a store at {scheme}://…: {error.name} is not installed. "
            "Install it with `pip install 'embedstore-bio[remote]'`."
        ) from error
