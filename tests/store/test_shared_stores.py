"""Stores that many use at once behave like dictionaries, whatever anybody does, at whatever moment somebody dies.

Users of two stores append, merge, collect, pin, copy, remove and read. In the middle of any operation, at any step, the
process may die, lose an answer, be stopped for longer than the grace period, or others may do something. Listings lag
behind by up to five seconds, and the stores' clocks are an hour off. The model is a dictionary for each store.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np
import pytest
from faulty_storage import SimulatedCrash
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sample_rows import LAYOUTS, right_vectors, sample_canaries, sample_keys, sample_recipe
from simulated_storage import LAG_NS, Fault, Server, SimulatedStorage, Turns, World, crash, lose_the_answer

from embedstore.errors import CorruptStoreError, InputError, MissingEmbeddingError, StorageError
from embedstore.identity import key_array
from embedstore.records import EmbeddingBatch, Vectors
from embedstore.sharing import push
from embedstore.storage.protocol import Buffer, Entry, Storage, memory
from embedstore.store import Space, SpaceStore
from embedstore.store.documents import Commit
from embedstore.store.pins import pinned_commits
from embedstore.upkeep import collect, compact, pin, remove_sequences, unpin
from embedstore.upkeep.collection import CollectReport
from embedstore.upkeep.inventory import take_inventory

GRACE_S = 100.0
HOUR_NS = 3600 * 10**9
STORES = ("near", "far")
USERS = 2
RECIPE = sample_recipe(dim=3)
KEYS = [key.tobytes() for key in sample_keys(range(24))]
PINS = ("first", "second")

stores = st.sampled_from(STORES)
users = st.integers(0, USERS - 1)
seeds = st.integers(0, 2**20)
offers = st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 2)), min_size=1, max_size=8)
"""Keys to append, each with how far from its right vector; all within the tolerance."""
events = st.one_of(
    st.none(),
    st.tuples(
        st.integers(0, 45),
        st.sampled_from(
            [
                "crash before",
                "crash after",
                "lost",
                "append",
                "compact",
                "collect",
                "long pause",
                "pin",
                "copy",
                "collect, copy",
                "remove",
            ]
        ),
    ),
)
"""What happens in the middle of an operation, and at which step."""
crowds = st.lists(
    st.tuples(st.sampled_from(["append", "compact", "collect", "copy", "pin", "remove"]), st.booleans()),
    min_size=2,
    max_size=4,
)
"""What is done at once, and whether it dies on the way."""


def other(name: str) -> str:
    return STORES[1 - STORES.index(name)]


def variants(key: bytes) -> list[bytes]:
    return [vectors_of([(key, step)])[0].tobytes() for step in range(3)]


def vectors_of(offered: list[tuple[bytes, int]]) -> Vectors:
    right = right_vectors(key_array([key for key, _ in offered]), RECIPE).astype(np.float64)
    steps = np.array([[step] for _, step in offered])
    near: Vectors = (right * (1 + steps * RECIPE.tolerance / 4)).astype(RECIPE.dtype)
    return near


class SharedStores(RuleBasedStateMachine):
    """Two stores, two users of each with views of their own, and a dictionary for each store."""

    collect: ClassVar[Callable[..., Any]] = staticmethod(collect)
    client: ClassVar[Callable[..., SimulatedStorage]] = SimulatedStorage

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize(layout=st.sampled_from(LAYOUTS), skews=st.tuples(*[st.sampled_from([-HOUR_NS, 0, HOUR_NS])] * 2))
    def make(self, layout: Any, skews: tuple[int, int]) -> None:
        self.servers = {name: Server(self.world, name, skew) for name, skew in zip(STORES, skews, strict=True)}
        self.acknowledged: dict[str, dict[bytes, int]] = {name: {} for name in STORES}
        """Store -> key -> when somebody was first told that it is there."""
        self.removing: dict[str, list[bytes]] = {name: [] for name in STORES}
        """Store -> keys that somebody is removing now."""
        self.removed: dict[str, dict[bytes, int]] = {name: {} for name in STORES}
        """Store -> key -> when somebody last stopped removing it."""
        self.pinned: dict[tuple[str, str], dict[bytes, bytes]] = {}
        self.users = {}
        for name in STORES:
            store = SpaceStore(self.client(self.servers[name]), create=True, segment_format=layout)
            store.create_space(RECIPE, "toy", sample_canaries(RECIPE))
            self.world.pass_time(10)
            for user in range(USERS):
                self.users[name, user] = self.opened(name, seed=user)

    def opened(self, name: str, seed: int | None = None, fault: Fault | None = None) -> Space:
        return SpaceStore(self.client(self.servers[name], seed, fault)).space("toy")

    def fault(self, event: tuple[int, str] | None, name: str) -> Fault | None:
        """Make of an event what a client's storage does at one step."""
        if event is None:
            return None
        step, kind = event
        if kind == "crash before":
            return Fault(step, before=crash)
        if kind == "crash after":
            return Fault(step, after=crash)
        if kind == "lost":
            return Fault(step, after=lose_the_answer)
        if kind == "long pause":
            return Fault(step, before=lambda: self.collect_twice(name))
        doings: dict[str, Callable[[], object]] = {
            "append": lambda: self.append(name, 0, [(key, 1) for key in KEYS[::5]], 1, None),
            "compact": lambda: self.compact(name, 1, None),
            "collect": lambda: self.collect_once(name, 1, None),
            "pin": lambda: self.pin(name, "second", 1, None),
            "copy": lambda: self.copy(other(name), 1, None),
            "remove": lambda: self.remove(name, [0, 4, 8], 1, None),
            "collect, copy": lambda: (self.collect_once(name, 1, None), self.copy(other(name), 1, None)),
        }
        return Fault(step, before=doings[kind])

    def collect_twice(self, name: str) -> None:
        for _ in range(3):
            self.collect_once(name, 1, None)
            self.world.pass_time(GRACE_S + 1)

    @rule(name=stores, user=users, offered=offers, seed=seeds, event=events)
    def append(
        self, name: str, user: int, offered: list[tuple[bytes, int]], seed: int, event: tuple[int, str] | None
    ) -> None:
        started_ns = self.world.now_ns
        with suppress(SimulatedCrash, StorageError):
            space = self.opened(name, seed, self.fault(event, name)) if event else self.users[name, user]
            space.append(EmbeddingBatch(key_array([key for key, _ in offered]), vectors_of(offered)))
            self.acknowledge(name, [key for key, _ in offered], started_ns)

    def acknowledge(self, name: str, keys: Iterable[bytes], started_ns: int) -> None:
        """Somebody is told that keys are there; not those that were removed when listings may still have shown them."""
        for key in keys:
            if key not in self.removing[name] and started_ns - self.removed[name].get(key, -(10**20)) > LAG_NS:
                self.acknowledged[name].setdefault(key, self.world.now_ns)

    @rule(name=stores, picks=st.lists(st.integers(0, len(KEYS) - 1), min_size=1, max_size=4), seed=seeds, event=events)
    def remove(self, name: str, picks: list[int], seed: int, event: tuple[int, str] | None) -> None:
        """Mostly keys that are there."""
        held = sorted(self.acknowledged[name]) or KEYS
        keys = [held[pick % len(held)] for pick in picks]
        self.removing[name] += keys
        try:
            with suppress(SimulatedCrash, StorageError, InputError):  # the last: nothing would be left
                remove_sequences(self.opened(name, seed, self.fault(event, name)), key_array(keys))
        finally:
            for key in keys:
                self.removing[name].remove(key)
                self.removed[name][key] = self.world.now_ns
                self.acknowledged[name].pop(key, None)

    @rule(name=stores, seed=seeds, event=events)
    def compact(self, name: str, seed: int | None, event: tuple[int, str] | None) -> None:
        with suppress(SimulatedCrash, StorageError):
            compact(self.opened(name, seed, self.fault(event, name)))

    @rule(name=stores, seed=seeds, event=events)
    def collect_once(self, name: str, seed: int | None, event: tuple[int, str] | None) -> None:
        with suppress(SimulatedCrash, StorageError):
            self.collect(self.client(self.servers[name], seed, self.fault(event, name)), grace_s=GRACE_S)

    @rule(name=stores, user=users)
    def tidy_before_a_reader(self, name: str, user: int) -> None:
        """All at once: the reader's listings may still be of before."""
        self.world.pass_time(10)
        self.compact(name, None, None)
        self.collect_once(name, None, None)
        self.read(name, user, KEYS)

    @rule(name=stores, title=st.sampled_from(PINS), seed=seeds, event=events)
    def pin(self, name: str, title: str, seed: int, event: tuple[int, str] | None) -> None:
        if (name, title) in self.pinned or f"pins/{title}.json" in self.servers[name].files:
            return
        with suppress(SimulatedCrash, StorageError, InputError):  # the last: somebody else took the name meanwhile
            store = SpaceStore(self.client(self.servers[name], seed, self.fault(event, name)))
            pin(store, title)
            self.pinned[name, title] = self.rows_of(SpaceStore(self.client(self.servers[name]), pin=title))

    @rule(name=stores, title=st.sampled_from(PINS))
    def unpin(self, name: str, title: str) -> None:
        if f"pins/{title}.json" in self.servers[name].files:
            unpin(SpaceStore(self.client(self.servers[name])), title)
            self.pinned.pop((name, title), None)

    @rule(source=stores, seed=seeds, event=events)
    def copy(self, source: str, seed: int, event: tuple[int, str] | None) -> None:
        target = other(source)
        before, started_ns = dict(self.acknowledged[source]), self.world.now_ns
        with suppress(SimulatedCrash, StorageError):
            near = SpaceStore(self.client(self.servers[source], seed))
            far = SpaceStore(self.client(self.servers[target], seed + 1, self.fault(event, target)))
            if push(near, far).complete:  # what was newer when it began, a listing may not have shown
                old = [key for key, since_ns in before.items() if started_ns - since_ns > 2 * LAG_NS]
                self.acknowledge(target, self.acknowledged[source].keys() & old, started_ns)

    @rule(source=stores, seed=seeds, step=st.integers(0, 45))
    def leave_half_a_copy(self, source: str, seed: int, step: int) -> None:
        """It died long ago, and what it left was found unneeded long ago."""
        self.copy(source, seed, (step, "crash before"))
        self.world.pass_time(GRACE_S + 1)
        self.collect_once(other(source), None, None)
        self.world.pass_time(GRACE_S + 1)

    @rule(name=stores, crowd=crowds, seed=seeds)
    def do_at_once(self, name: str, crowd: list[tuple[str, bool]], seed: int) -> None:
        """Their steps in any order; any of them may be stopped for longer than the grace period, or die."""
        chance = random.Random(seed)

        def doing(number: int, kind: str, dies: bool) -> Callable[[], object]:
            event = (chance.randrange(60), "crash after") if dies else None
            own = chance.randrange(2**20)
            offered = [(key, number % 3) for key in chance.sample(KEYS, 4)]
            doings: dict[str, Callable[[], object]] = {
                "append": lambda: self.append(name, 0, offered, own, event or (10**6, "crash after")),
                "compact": lambda: self.compact(name, own, event),
                "collect": lambda: self.collect_once(name, own, event),
                "copy": lambda: self.copy(other(name), own, event),
                "pin": lambda: self.pin(name, PINS[number % 2], own, event),
                "remove": lambda: self.remove(name, [number, number + 5], own, event),
            }
            return doings[kind]

        Turns(self.world, seed, GRACE_S + 1).run([doing(number, *each) for number, each in enumerate(crowd)])

    @rule(seconds=st.sampled_from([1.0, 10.0, 60.0, GRACE_S + 1]))
    def wait(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(name=stores, user=users, wanted=st.lists(st.sampled_from(KEYS), max_size=8))
    def read(self, name: str, user: int, wanted: list[bytes]) -> None:
        """By a user whose view and listings may be old: what was there long enough must be found."""
        old = [key for key in wanted if self.world.now_ns - self.acknowledged[name].get(key, 10**20) > LAG_NS]
        space = self.users[name, user]
        rows = space.read(key_array(old))
        assert all(row.tobytes() in variants(key) for key, row in zip(old, rows, strict=True))
        with suppress(MissingEmbeddingError):
            rows = space.read(key_array(wanted))
            assert all(row.tobytes() in variants(key) for key, row in zip(wanted, rows, strict=True))

    def rows_of(self, store: SpaceStore) -> dict[bytes, bytes]:
        if not store.spaces():
            return {}
        space = store.space("toy")
        keys = space.keys()
        return {key.tobytes(): row.tobytes() for key, row in zip(keys, space.read(keys), strict=True)}

    def check(self) -> None:
        """By a newcomer: all that was acknowledged is there, nothing is wrong, pins have not changed."""
        for name, server in self.servers.items():
            rows = self.rows_of(SpaceStore(self.client(server)))
            assert self.acknowledged[name].keys() <= rows.keys()
            assert all(row in variants(key) for key, row in rows.items())
            report = SpaceStore(self.client(server)).verify(deep=True)
            assert report.problems == []
        for (name, title), expected in self.pinned.items():
            assert self.rows_of(SpaceStore(self.client(self.servers[name]), pin=title)) == expected

    def teardown(self) -> None:
        if not hasattr(self, "servers"):
            return
        self.check()
        for name, server in self.servers.items():
            for title in PINS:
                self.unpin(name, title)
            compact(self.opened(name))
            self.collect_twice(name)
            assert SpaceStore(self.client(server)).verify(deep=True).orphans == []
            assert len(self.opened(name).segments()) <= 1
        self.pinned = {}
        self.check()


def run(machine: type[SharedStores], examples: int, steps: int = 12) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            derandomize=examples < 1000,
            phases=(Phase.generate,),
        ),
    )


def test_shared_stores_behave_like_dictionaries() -> None:
    run(SharedStores, 100)


@pytest.mark.slow
def test_shared_stores_behave_like_dictionaries_in_thousands_of_histories() -> None:
    run(SharedStores, 4000, steps=15)


class CollectsAtOnce(SharedStores):
    """A collector that removes what nothing needs as soon as it sees it."""

    @staticmethod
    def collect(storage: Storage, *, grace_s: float) -> CollectReport:
        for folder in [entry.name for entry in storage.list("spaces/")]:
            pinned = pinned_commits(storage).get(folder.split("/")[1], set())
            for name in take_inventory(storage, folder, pinned).unneeded():
                storage.delete(f"{folder}{name}")
        return CollectReport()


def test_a_collector_without_grace_is_detected() -> None:
    with pytest.raises((AssertionError, CorruptStoreError, MissingEmbeddingError)):
        run(CollectsAtOnce, 3000, steps=25)


class CommitsFirst(SharedStores):
    """Clients whose storage keeps the data of a segment back until its commit is there."""

    @staticmethod
    def client(server: Server, seed: int | None = None, fault: Fault | None = None) -> SimulatedStorage:
        return CommitFirstStorage(server, seed, fault)


class CommitFirstStorage(SimulatedStorage):
    """Says that data files are there, and writes them after the commit."""

    def __init__(self, server: Server, seed: int | None = None, fault: Fault | None = None) -> None:
        super().__init__(server, seed, fault)
        self._held: dict[str, bytes] = {}

    def write(self, name: str, parts: Iterable[Buffer]) -> Entry:
        content = b"".join(bytes(memory(part)) for part in parts)
        if "/data/" in name:
            self._held[name] = content
            return self.entry(name)
        written = super().write(name, [content])
        if "/commits/" in name:
            for file in list(self._held):
                super().write(file, [self._held.pop(file)])
        return written

    def entry(self, name: str) -> Entry:
        if name in self._held:
            return Entry(name, len(self._held[name]), self.server.world.now_ns + self.server.skew_ns)
        return super().entry(name)


def test_a_commit_before_its_data_is_detected() -> None:
    with pytest.raises((AssertionError, CorruptStoreError)):
        run(CommitsFirst, 3000)


class KeepsNames(SharedStores):
    """A copier that keeps the names of files and commits, as if nobody could be about to remove them."""

    def remove(self, name: str, picks: list[int], seed: int, event: tuple[int, str] | None) -> None:
        """Leave out what the fault has nothing to do with, so that it is found sooner."""

    def copy(self, source: str, seed: int, event: tuple[int, str] | None) -> None:
        copied = Commit.copied
        Commit.copied = lambda commit, nonce, *, signed: commit  # type: ignore[method-assign,assignment]
        try:
            super().copy(source, seed, event)
        finally:
            Commit.copied = copied  # type: ignore[method-assign]


@pytest.mark.slow
def test_a_copier_that_keeps_names_is_detected() -> None:
    with pytest.raises((AssertionError, CorruptStoreError, MissingEmbeddingError)):
        run(KeepsNames, 3000, steps=25)
