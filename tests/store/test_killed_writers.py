"""A writer that is killed with SIGKILL loses nothing that it had acknowledged, and damages nothing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from sample_rows import LAYOUTS, assert_right, new_space, open_space, sample_batch, sample_keys
from writers import append_for_ever, processes

from embedstore.store import SpaceStore
from embedstore.store.documents import SegmentFormat

_LONGEST_LIFE_S = 0.15


def live_and_be_killed(place: Path, seed: int, life_s: float) -> set[int]:
    """Return the keys (as numbers) that were acknowledged before the end."""
    ours, theirs = processes.Pipe(duplex=False)
    writer = processes.Process(target=append_for_ever, args=(place, seed, theirs))
    writer.start()
    theirs.close()
    acknowledged = set(ours.recv())  # it is ready
    time.sleep(life_s)
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    try:
        while True:
            acknowledged |= set(ours.recv())
    except EOFError:
        return acknowledged
    finally:
        ours.close()


def kill_many(place: Path, layout: SegmentFormat, runs: int) -> tuple[set[int], int]:
    """Kill writers one after another; return what they acknowledged, and how many files they left behind."""
    space = new_space(place, layout)
    started = time.monotonic()
    space.append(sample_batch(sample_keys([0]), space.recipe))
    longest_life_s = max(_LONGEST_LIFE_S, 10 * (time.monotonic() - started))  # on a busy machine all takes longer
    random = np.random.default_rng(7)
    acknowledged: set[int] = set()
    for seed in range(runs):
        acknowledged |= live_and_be_killed(place, seed, random.uniform(0, longest_life_s))
        space = open_space(place)
        assert_right(space, sample_keys(sorted(acknowledged)))
        assert_right(space, space.keys())
        assert SpaceStore.open(place).verify(deep=seed % 5 == 0).problems == []
    report = SpaceStore.open(place).verify(deep=True)
    assert report.problems == []
    return acknowledged, len(report.orphans)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_killed_writers_lose_nothing_acknowledged(tmp_path: Path, layout: SegmentFormat) -> None:
    acknowledged, _ = kill_many(tmp_path, layout, runs=15)
    assert acknowledged


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_hundred_killed_writers_lose_nothing_acknowledged(tmp_path: Path, layout: SegmentFormat) -> None:
    acknowledged, orphans = kill_many(tmp_path, layout, runs=100)
    assert acknowledged
    assert orphans  # some were killed in the midst of it
