"""Files that appear in a folder together when all of them are complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from embedstore.errors import InputError, StorageError


class OutputFolder:
    """Collects files in a hidden folder inside `path`, and moves them to their names at the end.

    Leaving the context without `publish` removes what was written. A killed process leaves the hidden folder behind,
    and no file under its name.

    Attributes
    ----------
    hidden : the folder inside, for temporary files too: where the results fit, these do, whatever $TMPDIR is.

    Raises
    ------
    InputError : the folder cannot be made or written. StorageError : writing fails later, as when the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_new = not path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
            self.hidden = Path(tempfile.mkdtemp(prefix=".prepare-", dir=path))
        except OSError as error:
            raise InputError(f"Cannot write into {path}: {error.strerror}. Choose another folder.") from error
        self._names: list[str] = []
        self._open_files = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # of no interest behind an error; without one, publish has closed them
            self._open_files.close()
        shutil.rmtree(self.hidden, ignore_errors=True)
        if kind is not None and self._is_new:
            with suppress(OSError):  # somebody else has put something there
                self._path.rmdir()
        if isinstance(error, OSError):
            raise StorageError(f"Cannot write into {self._path}: {error.strerror or error}.") from error

    def create(self, name: str) -> BinaryIO:
        """Open a new file; it is closed at the end."""
        self._names.append(name)
        return self._open_files.enter_context((self.hidden / name).open("xb"))

    def publish(self, marker: str) -> None:
        """Move all files to their names, `marker` last: where it lies, the others belong to it and are whole."""
        self._open_files.close()
        for name in self._names:
            _flush_to_disk(self.hidden / name)
        (self._path / marker).unlink(missing_ok=True)
        for name in sorted(self._names, key=lambda name: name == marker):
            (self.hidden / name).replace(self._path / name)
        _flush_to_disk(self._path)


def _flush_to_disk(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
