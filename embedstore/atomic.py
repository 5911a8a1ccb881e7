"""What is written: files and folders that appear under their names only when they are complete, and cells of tables."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from embedstore.errors import UNSHOWABLE, InputError, StorageError, escaped

_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u((?!d[89a-f])[0-9a-f]{4}))")
_TO_ESCAPE = re.compile(rf"[{UNSHOWABLE}]|\\(?=x[0-9a-f]{{2}}|u(?!d[89a-f])[0-9a-f]{{4}})")


def cell(text: str) -> str:
    r"""Write a text into a field of a tab-separated table; `from_cell` reads it back, whatever it is.

    What would break the row, or steer a terminal, becomes `\xHH` or `\uHHHH`, and a backslash becomes `\x5c` where it
    would read as one of these. All other texts stay as they are. (Lone surrogates, which are no text and stand for the
    bytes of odd file names, stay escaped when they are read back.)
    """
    return text if text.isprintable() and "\\" not in text else _TO_ESCAPE.sub(lambda found: escaped(found[0]), text)


def from_cell(text: str) -> str:
    """Read back what `cell` wrote."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda found: chr(int(found[1] or found[2], 16)), text)


def check_folder(path: Path, marker: str, what: str) -> None:
    """Refuse a place where something other than a folder like the one to be written is.

    Parameters
    ----------
    path : of the folder.
    marker : name of the file that all such folders hold.
    what : the folder, for the message: "a classifier".

    Raises
    ------
    InputError : a file, or a folder without the marker, is there; or the folder above does not exist.
    """
    is_empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not is_empty and not (path / marker).is_file():
        raise InputError(f"Cannot write {what} to {path}: something else is there. Give another name.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"Cannot write {what} to {path}: there is no folder {path.parent}. Create it first.")


@contextmanager
def complete(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write a file or folder to; it takes the place of `path` at the end.

    After an error nothing new is there, and what was at `path` still is.

    Parameters
    ----------
    path : of the finished file or folder.

    Raises
    ------
    InputError : a folder is missing.
    StorageError : it cannot be written.
    """
    if not path.parent.is_dir():
        raise InputError(f"Cannot write {path}: there is no folder {path.parent}. Create it first.")
    with replacing(path) as temporary:
        yield temporary


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """As `complete`, for callers whose error for a missing folder is the StorageError."""
    temporary = _beside(path)
    try:
        yield temporary
        _replace(temporary, path)
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # why it was not written is the error to tell
            path.unlink()


def _replace(temporary: Path, path: Path) -> None:
    if not path.is_dir():
        temporary.replace(path)
        return
    old = _beside(path)  # a folder that holds something is not replaced in one step
    path.rename(old)
    temporary.rename(path)
    remove(old)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
