"""A storage that dies at a chosen step, as a process or its machine would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from embedstore.storage.local import TEMPORARY_PREFIX, LocalStorage
from embedstore.storage.protocol import DOCUMENT_BYTES, Blob, Buffer, Entry, memory


class SimulatedCrash(BaseException):
    """Not an `Exception`: nothing in the store may catch it."""


class Death(Enum):
    """When a step dies, seen from its effect."""

    BEFORE = "before"
    AFTER = "after"
    TORN = "torn"
    """Half of the bytes lie under a temporary name; the name itself is not there."""


class FaultyStorage:
    """Count the steps (operations on the storage) and die at one of them.

    Parameters
    ----------
    folder : of the local storage that is wrapped.
    dies_at : number of the step, from 0; None never dies and only counts.
    """

    def __init__(self, folder: Path, dies_at: int | None = None, death: Death = Death.BEFORE) -> None:
        self._folder = folder
        self._inner = LocalStorage(folder)
        self._dies_at = dies_at
        self._death = death
        self.location = self._inner.location
        self.requests_at_once = self._inner.requests_at_once
        self.steps: list[str] = []

    def read(self, name: str, limit_bytes: int = DOCUMENT_BYTES) -> bytes:
        with self._step("read"):
            return self._inner.read(name, limit_bytes)

    def write(self, name: str, parts: Iterable[Buffer]) -> Entry:
        with self._step("write"):
            if self._dies_here and self._death is Death.TORN:
                self._leave_torn(name, parts)
                raise SimulatedCrash
            return self._inner.write(name, parts)

    def replace(self, name: str, parts: Iterable[Buffer]) -> Entry:
        with self._step("replace"):
            return self._inner.replace(name, parts)

    def list(self, folder: str) -> list[Entry]:
        with self._step("list"):
            return self._inner.list(folder)

    def walk(self, folder: str) -> Iterator[Entry]:
        with self._step("list"):
            return self._inner.walk(folder)

    def entry(self, name: str) -> Entry:
        with self._step("entry"):
            return self._inner.entry(name)

    def delete(self, name: str) -> None:
        with self._step("delete"):
            self._inner.delete(name)

    def open(self, name: str, size_bytes: int, *, mapped: bool = True) -> Blob:
        with self._step("open"):
            return self._inner.open(name, size_bytes, mapped=mapped)

    @property
    def _dies_here(self) -> bool:
        return len(self.steps) - 1 == self._dies_at

    @contextmanager
    def _step(self, operation: str) -> Iterator[None]:
        self.steps.append(operation)
        dies = self._dies_here  # asked now: what is written may be read from here, which are steps, too
        if dies and self._death is Death.BEFORE:
            raise SimulatedCrash
        try:
            yield
        finally:  # also where the effect was an error
            if dies:
                raise SimulatedCrash

    def _leave_torn(self, name: str, parts: Iterable[Buffer]) -> None:
        content = b"".join(bytes(memory(part)) for part in parts)
        folder = (self._folder / name).parent
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{TEMPORARY_PREFIX}torn{len(self.steps)}").write_bytes(content[: len(content) // 2])
