"""Eight fill, two merge, two collect, four read, and all are killed at random: nothing is lost, wrong, or stuck."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
from crowd import DOINGS
from sample_rows import LAYOUTS, assert_right, new_space, open_space, sample_keys
from writers import processes

from embedstore.storage.local import LocalStorage
from embedstore.store import SpaceStore
from embedstore.store.documents import SegmentFormat
from embedstore.upkeep import collect, compact

_PATIENCE_S = 60.0


@dataclass(slots=True)
class Worker:
    """One process, who took its place after it was killed, and when it last said something."""

    doing: Any
    process: Any = None
    said: Connection | None = None
    heard: float = 0.0
    killed: bool = False


@dataclass(slots=True)
class Crowd:
    """All processes in one store."""

    place: Path
    workers: list[Worker]
    acknowledged: set[int] = field(default_factory=set)
    did: Counter[str] = field(default_factory=Counter)
    starts: int = 0

    def start(self, worker: Worker) -> None:
        said, says = processes.Pipe(duplex=False)
        self.starts += 1
        worker.process = processes.Process(target=worker.doing, args=(self.place, self.starts, says), daemon=True)
        worker.process.start()
        says.close()
        worker.said, worker.heard, worker.killed = said, time.monotonic(), False

    def listen(self, seconds: float) -> None:
        """Note what they say; start those again that were killed; nobody else may have ended."""
        speakers = {worker.said: worker for worker in self.workers if worker.said is not None}
        for connection in wait(list(speakers), timeout=seconds):
            worker = speakers[connection]  # type: ignore[index]
            try:
                numbers = worker.said.recv()  # type: ignore[union-attr]
            except (EOFError, ConnectionResetError):
                worker.process.join()
                assert worker.killed, f"{worker.doing.__name__} ended with {worker.process.exitcode}"
                self.start(worker)
                continue
            self.acknowledged.update(numbers)
            self.did[worker.doing.__name__] += 1
            worker.heard = time.monotonic()

    def stop(self) -> None:
        for worker in self.workers:
            worker.killed = True
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()
            try:
                while worker.said is not None and worker.said.poll():
                    self.acknowledged.update(worker.said.recv())
            except (EOFError, ConnectionResetError):
                continue


def live_together(place: Path, layout: SegmentFormat, seconds: float, seconds_between_kills: float) -> Crowd:
    new_space(place, layout)
    crowd = Crowd(place, [Worker(doing) for doing, count in DOINGS.items() for _ in range(count)])
    chance = random.Random(5)
    for worker in crowd.workers:
        crowd.start(worker)
    end, next_kill = time.monotonic() + seconds, time.monotonic() + seconds_between_kills
    try:
        while time.monotonic() < end:
            crowd.listen(0.2)
            if time.monotonic() > next_kill:
                victim = chance.choice(crowd.workers)
                victim.killed = True
                victim.process.kill()
                next_kill = time.monotonic() + chance.uniform(0, 2 * seconds_between_kills)
            silent = [w.doing.__name__ for w in crowd.workers if time.monotonic() - w.heard > _PATIENCE_S]
            assert not silent, f"no word from {silent}"
    finally:
        crowd.stop()
    return crowd


def assert_nothing_is_lost_or_left(place: Path, acknowledged: set[int]) -> None:
    assert_right(open_space(place), sample_keys(sorted(acknowledged)))
    assert SpaceStore.open(place).verify(deep=True).problems == []
    compact(open_space(place))
    collect(LocalStorage(place), grace_s=0)
    space = open_space(place)
    assert_right(space, space.keys())
    assert space.contains(sample_keys(sorted(acknowledged))).all()
    assert len(space.segments()) == 1
    report = SpaceStore.open(place).verify(deep=True)
    assert (report.problems, report.orphans) == ([], [])


def test_a_crowd_for_a_moment(tmp_path: Path) -> None:
    crowd = live_together(tmp_path, "hdf5", seconds=8, seconds_between_kills=0.5)
    assert crowd.acknowledged
    assert_nothing_is_lost_or_left(tmp_path, crowd.acknowledged)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_crowd_for_two_minutes(tmp_path: Path, layout: SegmentFormat) -> None:
    crowd = live_together(tmp_path, layout, seconds=120, seconds_between_kills=0.5)
    assert set(crowd.did) == {"fill", "merge", "clear", "read"}
    print(f"{layout}: {dict(crowd.did)}, {len(crowd.acknowledged)} acknowledged, {crowd.starts} processes")
    assert_nothing_is_lost_or_left(tmp_path, crowd.acknowledged)
