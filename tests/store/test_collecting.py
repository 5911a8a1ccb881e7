"""Collecting among odd clocks, odd documents, false sizes and full disks."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sample_rows import assert_right, new_space, open_space, sample_batch, sample_keys
from test_maintenance import DAY_S, KEYS, assert_clean, data_files, filled, grow_older

from embedstore.errors import StorageError
from embedstore.storage.local import LocalStorage
from embedstore.storage.protocol import Buffer, Entry, memory
from embedstore.store import SpaceStore
from embedstore.store.documents import Commit
from embedstore.strict_json import canonical
from embedstore.upkeep import collect, compact, pin, remove_space, unpin


def condemned_and_due(place: Path) -> int:
    """Leave unneeded files that a document names, none of them due; return how many."""
    filled(place)
    compact(open_space(place))
    return collect(LocalStorage(place), grace_s=DAY_S).waiting_files


def documents(place: Path) -> list[Path]:
    return list(place.glob("spaces/*/gc/*.json"))


def test_a_document_from_the_future_shortens_nobody_elses_time(tmp_path: Path) -> None:
    waiting = condemned_and_due(tmp_path)
    (document,) = documents(tmp_path)
    later = document.with_name(f"{'f' * 32}.json")
    later.write_bytes(document.read_bytes())
    os.utime(later, (time.time() + 100 * DAY_S,) * 2)
    assert collect(LocalStorage(tmp_path), grace_s=DAY_S).removed_files == 0
    grow_older(tmp_path, 2 * DAY_S)  # which leaves that one in the future
    assert collect(LocalStorage(tmp_path), grace_s=DAY_S).removed_files == waiting
    assert_right(open_space(tmp_path), KEYS)


def test_what_stands_only_in_a_document_from_the_future_goes_a_grace_period_later(tmp_path: Path) -> None:
    waiting = condemned_and_due(tmp_path)
    (document,) = documents(tmp_path)
    os.utime(document, (time.time() + 100 * DAY_S,) * 2)
    assert collect(LocalStorage(tmp_path), grace_s=DAY_S).removed_files == 0
    assert len(documents(tmp_path)) == 2
    grow_older(tmp_path, 2 * DAY_S)
    assert collect(LocalStorage(tmp_path), grace_s=DAY_S).removed_files == waiting


class AheadStorage(LocalStorage):
    """A server whose clock has stepped ahead by a year since the files were written."""

    def write(self, name: str, parts: Iterable[Buffer]) -> Entry:
        entry = super().write(name, parts)
        return entry._replace(modified_ns=entry.modified_ns + round(365 * DAY_S * 1e9))


def test_a_servers_clock_that_steps_ahead_does_not_shorten_the_grace_period(tmp_path: Path) -> None:
    condemned_and_due(tmp_path)
    assert collect(AheadStorage(tmp_path), grace_s=DAY_S).removed_files == 0


def test_a_collectors_clock_that_is_ahead_or_behind_does_not_shorten_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    condemned_and_due(tmp_path)
    now_ns = time.time_ns()
    for days in (365, -365):
        monkeypatch.setattr(time, "time_ns", lambda days=days: now_ns + round(days * DAY_S * 1e9))
        assert collect(LocalStorage(tmp_path), grace_s=DAY_S).removed_files == 0


def test_a_document_older_than_what_it_names_does_not_count_from_its_own_time(tmp_path: Path) -> None:
    """As when a computer without a clock of its own had not yet heard what time it is."""
    condemned_and_due(tmp_path)
    (document,) = documents(tmp_path)
    os.utime(document, (0, 0))
    assert collect(LocalStorage(tmp_path), grace_s=DAY_S).removed_files == 0


@pytest.mark.parametrize("content", [b"", b"{}", b"junk", b'{"files": ["commits"]}'])
def test_damaged_and_foreign_documents_stop_neither_writers_nor_collectors(tmp_path: Path, content: bytes) -> None:
    waiting = condemned_and_due(tmp_path)
    (document,) = documents(tmp_path)
    document.with_name(f"{'e' * 32}.json").write_bytes(content)
    document.with_name("notes.txt").write_bytes(content)
    more = sample_keys(range(500, 510))
    space = open_space(tmp_path)
    assert space.append(sample_batch(more, space.recipe)) == 10
    grow_older(tmp_path, 2 * DAY_S)
    assert collect(LocalStorage(tmp_path), grace_s=DAY_S).removed_files == waiting
    assert_right(open_space(tmp_path), more)
    assert any("e" * 32 in problem.file for problem in SpaceStore.open(tmp_path).verify().problems)


@pytest.mark.parametrize("claimed", [0, 10**13])
def test_a_false_size_in_one_commit_evicts_nothing_else(tmp_path: Path, claimed: int) -> None:
    space = filled(tmp_path)
    size = sum(path.stat().st_size for path in data_files(tmp_path))
    commit = space.segments()[0].commit
    document = json.loads(commit.to_bytes())
    for fact in document["files"].values():
        fact["size"] = max(claimed, fact["size"]) if claimed else fact["size"]
    document["created_ns"] += 1
    forged = canonical(document)
    file = f"spaces/{space.id}/commits/{hashlib.sha256(forged).hexdigest()}.json"
    (tmp_path / file).write_bytes(forged)
    assert Commit.from_bytes(file, forged).size_bytes >= claimed  # it is one that can be read
    assert collect(LocalStorage(tmp_path), grace_s=0, max_size_bytes=2 * size).evicted_rows == 0


class FullStorage(LocalStorage):
    """A disk on which there is no room for a byte until a file is removed; names cost nothing."""

    full = True

    def write(self, name: str, parts: Iterable[Buffer]) -> Entry:
        content = b"".join(bytes(memory(part)) for part in parts)
        if self.full and content:
            raise StorageError(f"Cannot write {name}: No space left on device.")
        return super().write(name, [content])

    def delete(self, name: str) -> None:
        self.full = False
        super().delete(name)


class EmptyAtFirst(FullStorage):
    """Its clock file may be removed without making room."""

    def delete(self, name: str) -> None:
        if "clock-" in name:
            LocalStorage.delete(self, name)
        else:
            super().delete(name)


def test_on_a_full_disk_what_is_due_goes_first_and_makes_room(tmp_path: Path) -> None:
    waiting = condemned_and_due(tmp_path)
    grow_older(tmp_path, 2 * DAY_S)
    space = open_space(tmp_path)
    for start in range(500, 520, 5):
        space.append(sample_batch(sample_keys(range(start, start + 5)), space.recipe))
    compact(space)
    report = collect(EmptyAtFirst(tmp_path), grace_s=DAY_S)
    assert report.removed_files >= waiting
    assert report.waiting_files > 0
    assert len(documents(tmp_path)) == 1  # what was merged since is noted, now that there is room
    assert_right(open_space(tmp_path), KEYS)


def test_a_space_is_removed_from_a_full_disk(tmp_path: Path) -> None:
    filled(tmp_path).optimise()
    store = SpaceStore(EmptyAtFirst(tmp_path))
    remove_space(store, store.space("toy"))
    assert data_files(tmp_path) == []


def test_vectors_are_evicted_from_a_full_disk(tmp_path: Path) -> None:
    filled(tmp_path).optimise()
    assert collect(EmptyAtFirst(tmp_path), grace_s=0, max_size_bytes=0).evicted_rows == 60
    assert len(open_space(tmp_path)) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs to be allowed to mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill_up(file: Path) -> None:
    """Leave no room for a byte."""
    with suppress(OSError), file.open("wb") as ballast:
        while True:
            os.write(ballast.fileno(), bytes(4096))


def test_a_real_full_disk_is_collected(small_disk: Path) -> None:
    place = small_disk / "store"
    space = new_space(place, "hdf5")
    for start in range(0, 100, 5):
        space.append(sample_batch(sample_keys(range(start, start + 5)), space.recipe))
    compact(space)
    del space  # it holds the index, whose room is free only when nobody does
    gc.collect()
    fill_up(small_disk / "ballast")
    report = collect(LocalStorage(place), grace_s=0)
    assert report.removed_files >= 20
    collect(LocalStorage(place), grace_s=0)
    assert_right(open_space(place), sample_keys(range(100)))
    assert_clean(place)
    fill_up(small_disk / "more ballast")
    store = SpaceStore.open(place)
    remove_space(store, store.space("toy"))
    assert data_files(place) == []


def test_nothing_empty_is_left_of_what_is_collected(tmp_path: Path) -> None:
    for number in range(3):
        space = new_space(tmp_path, "zarr")
        for start in range(0, 40, 5):
            space.append(
                sample_batch(sample_keys(range(1000 * number + start, 1000 * number + start + 5)), space.recipe)
            )
        compact(space)
        collect(LocalStorage(tmp_path), grace_s=0)
    (tmp_path / "spaces" / space.id / "data" / ("0" * 32) / "key" / "c").mkdir(parents=True)  # of a stopped process
    collect(LocalStorage(tmp_path), grace_s=0)
    assert [path for path in tmp_path.rglob("*") if path.is_dir() and not any(path.iterdir())] == []


def test_what_makes_a_pinned_commit_dead_stays_as_long_as_the_pin(tmp_path: Path) -> None:
    """Or the pinned commit would come back to life beside what it was merged into."""
    filled(tmp_path, segments=2)
    pin(SpaceStore.open(tmp_path), "paper")
    compact(open_space(tmp_path))
    space = open_space(tmp_path)
    space.append(sample_batch(sample_keys(range(500, 505)), space.recipe))
    compact(space)
    for _ in range(2):
        collect(LocalStorage(tmp_path), grace_s=0)
    assert len(open_space(tmp_path).segments()) == 1
    assert_right(open_space(tmp_path), KEYS)
    assert_right(SpaceStore.open(tmp_path, pin="paper").space("toy"), KEYS)
    unpin(SpaceStore.open(tmp_path), "paper")
    for _ in range(3):
        collect(LocalStorage(tmp_path), grace_s=0)
    assert len(list(tmp_path.glob("spaces/*/commits/*.json"))) == 1
    assert_clean(tmp_path)
