"""Storage in memory with its own clock, listings that lag behind, and clients that crash, wait, or lose an answer."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from faulty_storage import SimulatedCrash
from numpy.typing import NDArray

from embedstore.errors import CorruptStoreError, StorageError
from embedstore.storage.protocol import DOCUMENT_BYTES, Blob, Buffer, Entry, memory

LAG_NS = 5 * 10**9
"""How old a listing may be."""
_STEP_NS = 10**6


@dataclass(slots=True)
class World:
    """Real time; it passes a little with every operation."""

    now_ns: int = 10**18
    turns: Turns | None = None
    """Who else is at work, where several are at once."""

    def pass_time(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


class Turns:
    """Lets several do something at once. Whose turn it is may change before any operation of a storage.

    Each runs in a thread of its own, one at a time, so that a history follows from its seed.

    Parameters
    ----------
    pause_s : time that may pass when the turn changes: a thread that waits is stopped for so long.
    """

    def __init__(self, world: World, seed: int, pause_s: float) -> None:
        self._world = world
        self._random = random.Random(seed)
        self._change = self._random.choice([0.03, 0.1, 0.4])
        self._pause_s = pause_s
        self._gates: list[threading.Semaphore] = []
        self._at_work: list[int] = []
        self._current = 0
        self._errors: list[BaseException] = []

    def run(self, doings: Sequence[Callable[[], object]]) -> None:
        """Do all of it; raise what the first that failed raised."""
        self._gates = [threading.Semaphore(0) for _ in doings]
        self._at_work = list(range(len(doings)))
        self._world.turns = self
        threads = [threading.Thread(target=self._do, args=each, daemon=True) for each in enumerate(doings)]
        for thread in threads:
            thread.start()
        self._current = self._random.choice(self._at_work)
        self._gates[self._current].release()
        for thread in threads:
            thread.join()
        self._world.turns = None
        if self._errors:
            raise self._errors[0]

    def may_change(self) -> None:
        """Go on, or wait for the next turn."""
        if self._random.random() >= self._change:
            return
        me = self._current
        self._current = self._random.choice(self._at_work)
        if self._random.random() < 0.2:
            self._world.pass_time(self._pause_s)
        if self._current != me:
            self._gates[self._current].release()
            self._gates[me].acquire()

    def _do(self, me: int, doing: Callable[[], object]) -> None:
        self._gates[me].acquire()
        try:
            doing()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._errors.append(error)
        self._at_work.remove(me)
        if self._at_work:
            self._current = self._random.choice(self._at_work)
            self._gates[self._current].release()


@dataclass(slots=True)
class File:
    """One file, from when it was there to when it was not."""

    content: bytes
    created_ns: int
    deleted_ns: int | None = None


@dataclass(slots=True)
class Server:
    """Where files lie. Its clock is off by `skew_ns`, for good."""

    world: World
    location: str
    skew_ns: int = 0
    files: dict[str, File] = field(default_factory=dict)
    deleted: list[tuple[str, File]] = field(default_factory=list)

    def entry(self, name: str) -> Entry:
        file = self.files.get(name)
        if file is None:
            raise FileNotFoundError(2, "No such file", name)
        return Entry(name, len(file.content), file.created_ns + self.skew_ns)

    def write(self, name: str, content: bytes) -> None:
        if name not in self.files:
            self.files[name] = File(content, self.world.now_ns)

    def delete(self, name: str) -> None:
        file = self.files.pop(name, None)
        if file is not None:
            file.deleted_ns = self.world.now_ns
            self.deleted.append((name, file))

    def files_at(self, time_ns: int) -> list[Entry]:
        """What a listing of that moment says."""
        there = [(name, file) for name, file in self.files.items() if file.created_ns <= time_ns]
        self.deleted = [each for each in self.deleted if (each[1].deleted_ns or 0) > self.world.now_ns - LAG_NS]
        there += [(n, f) for n, f in self.deleted if f.created_ns <= time_ns < (f.deleted_ns or 0)]
        return sorted(
            Entry(name, len(file.content), file.created_ns + self.skew_ns) for name, file in dict(there).items()
        )


@dataclass(slots=True)
class Fault:
    """What happens at one operation of a client.

    Attributes
    ----------
    step : which, from 0.
    before : called instead of the operation's beginning: may raise, let time pass, or let others do something.
    after : the same, when the operation has had its effect.
    """

    step: int
    before: Callable[[], object] | None = None
    after: Callable[[], object] | None = None


class SimulatedStorage:
    """One client of a server.

    Parameters
    ----------
    seed : of how old its listings are; None: they are never old.
    """

    requests_at_once = 1

    def __init__(self, server: Server, seed: int | None = None, fault: Fault | None = None) -> None:
        self.server = server
        self.location = server.location
        self._random = None if seed is None else random.Random(seed)
        self._fault = fault
        self._steps = 0

    def read(self, name: str, limit_bytes: int = DOCUMENT_BYTES) -> bytes:
        with self._step():
            self.server.entry(name)
            return self.server.files[name].content

    def write(self, name: str, parts: Iterable[Buffer]) -> Entry:
        content = b"".join(bytes(memory(part)) for part in parts)
        with self._step():
            self.server.write(name, content)
            return self.server.entry(name)

    def list(self, folder: str) -> list[Entry]:
        found: dict[str, Entry] = {}
        for entry in self.walk(folder):
            inner, slash, _ = entry.name.removeprefix(folder).partition("/")
            found[inner] = Entry(f"{folder}{inner}/", 0, 0) if slash else entry
        return sorted(found.values())

    def walk(self, folder: str) -> Iterator[Entry]:
        with self._step():
            age_ns = self._random.choice([0, self._random.randrange(LAG_NS)]) if self._random else 0
            entries = self.server.files_at(self.server.world.now_ns - age_ns)
        return iter([entry for entry in entries if entry.name.startswith(folder)])

    def entry(self, name: str) -> Entry:
        with self._step():
            return self.server.entry(name)

    def delete(self, name: str) -> None:
        with self._step():
            self.server.delete(name)

    def open(self, name: str, size_bytes: int, *, mapped: bool = True) -> Blob:
        with self._step():
            found = self.server.entry(name).size_bytes
            if found != size_bytes:
                raise CorruptStoreError(name, f"expected {size_bytes} bytes, found {found}")
            return SimulatedBlob(self.server, name)

    @contextmanager
    def _step(self) -> Iterator[None]:
        self.server.world.now_ns += _STEP_NS
        fault = self._fault if self._fault and self._fault.step == self._steps else None
        self._steps += 1
        if self.server.world.turns is not None:
            self.server.world.turns.may_change()
        if fault and fault.before:
            fault.before()
        yield
        if fault and fault.after:
            fault.after()


class SimulatedBlob:
    """A file that may vanish while it is open, as on NFS and in object stores."""

    gather_bytes = 1 << 20
    in_order = False
    identity = None

    def __init__(self, server: Server, name: str) -> None:
        self._server = server
        self._name = name

    def bytes(self, start: int, length: int) -> NDArray[np.uint8]:
        return self._content()[start : start + length]

    def rows(
        self, start: int, row_bytes: int, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        content = self._content()
        table = content[start : start + (len(content) - start) // row_bytes * row_bytes].reshape(-1, row_bytes)
        if out is None:
            return table[rows]
        out[:] = table[rows]
        return out

    def _content(self) -> NDArray[np.uint8]:
        self._server.entry(self._name)
        return np.frombuffer(self._server.files[self._name].content, np.uint8)


def crash() -> None:
    """Die, as a killed process does."""
    raise SimulatedCrash


def lose_the_answer() -> None:
    """Fail after the effect, as when a connection breaks."""
    raise StorageError("The connection broke while waiting for the answer.")
