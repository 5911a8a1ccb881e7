"""Paths in somebody's home directory, which a service's user or a container's may not have."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from embedstore.errors import InputError


def expanded(path: str | PathLike[str]) -> Path:
    """Replace a leading `~` or `~user`.

    Raises
    ------
    InputError : there is no such home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"Cannot find {path}: expected a home directory, found none. Set HOME, or give the path without ~."
        ) from error
