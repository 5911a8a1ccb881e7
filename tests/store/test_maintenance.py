"""Merging, collecting, pinning, removing, repairing: what was readable stays readable, and what is needless goes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from sample_rows import LAYOUTS, assert_right, new_space, open_space, right_vectors, sample_batch, sample_keys

from embedstore.errors import InputError, SpaceNotFoundError, StorageError, StoreError
from embedstore.records import EmbeddingBatch
from embedstore.storage.local import LocalStorage
from embedstore.store import Space, SpaceStore
from embedstore.store.documents import SegmentFormat
from embedstore.upkeep import collect, compact, pin, remove_space, repair, tend, unpin
from embedstore.upkeep.compaction import MANY_SMALL_SEGMENTS

KEYS = sample_keys(range(60))
DAY_S = 86_400.0


def filled(place: Path, segments: int = 6, layout: SegmentFormat = "zarr") -> Space:
    space = new_space(place, layout)
    for rows in np.array_split(np.arange(len(KEYS)), segments):
        space.append(sample_batch(KEYS[rows], space.recipe), {"letters": 10, "compute_seconds": 0.5})
    return space


def grow_older(place: Path, seconds: float) -> None:
    """Set back the times of all files, which for a folder are the storage's clock."""
    for path in place.rglob("*"):
        if path.is_file():
            status = path.stat()
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - round(seconds * 1e9)))


def data_files(place: Path) -> list[Path]:
    return [path for path in place.glob("spaces/*/data/**/*") if path.is_file()]


def assert_clean(place: Path) -> None:
    report = SpaceStore.open(place).verify(deep=True)
    assert report.problems == []
    assert report.orphans == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_compacting_makes_one_segment_of_many_and_collecting_leaves_only_that(
    tmp_path: Path, layout: SegmentFormat
) -> None:
    reader = filled(tmp_path, layout=layout)
    assert_right(reader, KEYS)
    info = reader.info()
    report = compact(open_space(tmp_path))
    assert (report.segments_before, report.segments_after, report.merged, report.rows) == (6, 1, 6, 60)
    space = open_space(tmp_path)
    assert_right(space, KEYS)
    assert len(space) == 60
    assert (space.info().residues, space.info().compute_seconds) == (info.residues, info.compute_seconds)
    many = len(data_files(tmp_path))
    found = collect(LocalStorage(tmp_path), grace_s=0)
    assert found.removed_files >= many // 2
    assert found.waiting_files == 0
    assert_right(reader, KEYS)  # it had the old files open, or looks again
    assert_clean(tmp_path)
    assert list(tmp_path.glob("spaces/*/gc/*")) == []


def test_of_two_vectors_the_older_stays_after_merging(tmp_path: Path) -> None:
    space = new_space(tmp_path, "zarr")
    right = right_vectors(KEYS[:3], space.recipe)
    other = open_space(tmp_path)
    near = (right.astype(np.float64) * (1 + space.recipe.tolerance / 4)).astype(space.dtype)
    other._without_present = lambda batch: batch  # type: ignore[method-assign] # as two writers in the same moment
    space.append(EmbeddingBatch(KEYS[:3], right))
    other.append(EmbeddingBatch(KEYS[:3], near))
    space.append(sample_batch(KEYS[3:9], space.recipe))
    assert len(open_space(tmp_path).segments()) == 3
    compact(open_space(tmp_path))
    merged = open_space(tmp_path)
    assert len(merged.segments()) == 1
    assert merged.read(KEYS[:3]).tobytes() == right.tobytes()
    assert len(merged) == 9


def test_only_neighbours_in_age_and_no_giants_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedstore.upkeep.compaction.MAX_MERGED_ROWS", 25)
    filled(tmp_path, segments=6)
    assert compact(open_space(tmp_path)).segments_after == 3
    assert compact(open_space(tmp_path)).merged == 0
    assert_right(open_space(tmp_path), KEYS)


def test_collecting_waits_for_the_grace_period(tmp_path: Path) -> None:
    filled(tmp_path)
    compact(open_space(tmp_path))
    before = len(data_files(tmp_path))
    first = collect(LocalStorage(tmp_path), grace_s=DAY_S)
    assert first.removed_files == 0
    assert first.waiting_files > 0
    assert len(data_files(tmp_path)) == before
    assert collect(LocalStorage(tmp_path), grace_s=DAY_S).removed_files == 0
    grow_older(tmp_path, 2 * DAY_S)
    dry = collect(LocalStorage(tmp_path), grace_s=DAY_S, dry_run=True)
    assert dry.removed_files == first.waiting_files
    assert len(data_files(tmp_path)) == before
    assert collect(LocalStorage(tmp_path), grace_s=DAY_S).removed_files == first.waiting_files
    assert_right(open_space(tmp_path), KEYS)
    assert_clean(tmp_path)


def test_what_a_writer_is_at_work_on_is_not_condemned_before_it_is_old(tmp_path: Path) -> None:
    space = filled(tmp_path)
    orphan = tmp_path / "spaces" / space.id / "data" / f"{'0' * 32}.h5"
    orphan.write_bytes(b"x")
    report = collect(LocalStorage(tmp_path), grace_s=DAY_S)
    assert (report.removed_files, report.waiting_files) == (0, 1)
    assert not (tmp_path / "spaces" / space.id / "gc").exists()
    grow_older(tmp_path, 2 * DAY_S)
    assert collect(LocalStorage(tmp_path), grace_s=DAY_S).removed_files == 0
    grow_older(tmp_path, 2 * DAY_S)
    assert collect(LocalStorage(tmp_path), grace_s=DAY_S).removed_files == 1
    assert not orphan.exists()


def test_a_writer_whose_files_were_condemned_writes_them_again(tmp_path: Path) -> None:
    """It was slower than the grace period."""
    space = filled(tmp_path)
    more = sample_keys(range(100, 110))
    write_files = space.write_files

    def slow(rows):  # type: ignore[no-untyped-def]
        written = write_files(rows)
        if not collected:
            collected.append(collect(LocalStorage(tmp_path), grace_s=0))
        return written

    collected: list[object] = []
    space.write_files = slow  # type: ignore[method-assign]
    assert space.append(sample_batch(more, space.recipe)) == 10
    assert collected
    assert_right(open_space(tmp_path), more)
    assert SpaceStore.open(tmp_path).verify(deep=True).problems == []


def test_temporary_files_of_killed_writers_are_removed_wherever_they_lie(tmp_path: Path) -> None:
    space = filled(tmp_path)
    folder = tmp_path / "spaces" / space.id
    places = (
        tmp_path,
        folder,
        folder / "commits",
        folder / "data",
        folder / "index",
        next((folder / "data").iterdir()),
    )
    for place in (*places, tmp_path / "pins"):
        place.mkdir(exist_ok=True)
        (place / f".tmp-{'0' * 32}").write_bytes(b"half")
    assert len(SpaceStore.open(tmp_path).verify().orphans) == 7
    assert collect(LocalStorage(tmp_path), grace_s=0).removed_files == 7
    assert_clean(tmp_path)
    assert_right(open_space(tmp_path), KEYS)


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    space = filled(tmp_path)
    foreign = [
        tmp_path / "README",
        tmp_path / "spaces" / space.id / ".DS_Store",
        tmp_path / "spaces" / space.id / "data" / "x",
    ]
    for path in foreign:
        path.write_bytes(b"mine")
    compact(space)
    collect(LocalStorage(tmp_path), grace_s=0)
    assert all(path.exists() for path in foreign)


def test_a_pin_reads_the_same_bits_after_merging_and_collecting(tmp_path: Path) -> None:
    space = filled(tmp_path)
    before = space.read(KEYS)
    pin(SpaceStore.open(tmp_path), "paper")
    space.append(sample_batch(sample_keys(range(200, 210)), space.recipe))
    compact(open_space(tmp_path))
    collect(LocalStorage(tmp_path), grace_s=0)
    pinned = SpaceStore.open(tmp_path, pin="paper").space("toy")
    assert pinned.read(KEYS).tobytes() == before.tobytes()
    assert len(pinned) == 60
    assert len(open_space(tmp_path)) == 70
    with pytest.raises(InputError, match="pinned"):
        pinned.append(sample_batch(sample_keys([999]), space.recipe))
    assert SpaceStore.open(tmp_path).verify(deep=True).problems == []
    with pytest.raises(InputError, match="there is a pin of that name"):
        pin(SpaceStore.open(tmp_path), "paper")
    with pytest.raises(StoreError, match="pinned as paper"):
        remove_space(SpaceStore.open(tmp_path), open_space(tmp_path))
    unpin(SpaceStore.open(tmp_path), "paper")
    with pytest.raises(SpaceNotFoundError, match="No pin 'paper'"):
        SpaceStore.open(tmp_path, pin="paper")
    collect(LocalStorage(tmp_path), grace_s=0)
    assert_clean(tmp_path)
    assert len(open_space(tmp_path).segments()) == 1


def test_a_damaged_pin_stops_collecting_and_is_found_by_verify(tmp_path: Path) -> None:
    filled(tmp_path)
    pin(SpaceStore.open(tmp_path), "paper")
    file = tmp_path / "pins" / "paper.json"
    file.write_bytes(file.read_bytes().replace(b"toy", b"tox").replace(b"a", b"b", 1))
    compact(open_space(tmp_path))
    before = len(data_files(tmp_path))
    with pytest.raises(StoreError, match=r"pins/paper\.json"):
        collect(LocalStorage(tmp_path), grace_s=0)
    assert len(data_files(tmp_path)) == before
    assert [problem.file for problem in SpaceStore.open(tmp_path).verify().problems] == ["pins/paper.json"]


def test_too_old_and_too_large_give_up_the_oldest_rows_but_no_pinned_ones(tmp_path: Path) -> None:
    space = filled(tmp_path, segments=6)
    size = space.info().size_bytes
    pin(SpaceStore.open(tmp_path), "kept")
    assert collect(LocalStorage(tmp_path), grace_s=0, max_size_bytes=0).evicted_rows == 0
    unpin(SpaceStore.open(tmp_path), "kept")
    dry = collect(LocalStorage(tmp_path), grace_s=0, max_size_bytes=size // 2, dry_run=True)
    assert dry.evicted_rows == 30
    assert len(open_space(tmp_path)) == 60
    report = collect(LocalStorage(tmp_path), grace_s=0, max_size_bytes=size // 2)
    assert report.evicted_rows == 30
    left = open_space(tmp_path)
    assert len(left) == 30
    assert_right(left, KEYS[30:])  # the newest stay
    assert_clean(tmp_path)
    assert collect(LocalStorage(tmp_path), grace_s=0, older_than_s=3600).evicted_rows == 0
    time.sleep(0.01)
    assert collect(LocalStorage(tmp_path), grace_s=0, older_than_s=0.001).evicted_rows == 30
    assert len(open_space(tmp_path)) == 0
    assert_clean(tmp_path)


def test_evicting_what_was_merged_does_not_bring_its_parts_back(tmp_path: Path) -> None:
    filled(tmp_path)
    compact(open_space(tmp_path))
    collect(LocalStorage(tmp_path), grace_s=DAY_S, max_size_bytes=0)
    assert len(open_space(tmp_path)) == 0


def test_a_removed_space_is_gone_and_may_be_made_again(tmp_path: Path) -> None:
    filled(tmp_path)
    writer = open_space(tmp_path)
    store = SpaceStore.open(tmp_path)
    remove_space(store, store.space("toy"))
    assert SpaceStore.open(tmp_path).spaces() == []
    assert data_files(tmp_path) == []
    with pytest.raises(StorageError, match="removed meanwhile"):
        writer.append(sample_batch(sample_keys([1000]), writer.recipe))
    space = new_space(tmp_path, "zarr")
    space.append(sample_batch(KEYS, space.recipe))
    assert_right(open_space(tmp_path), KEYS)


def test_many_small_segments_are_merged_by_themselves(tmp_path: Path) -> None:
    space = new_space(tmp_path, "hdf5")
    for row in range(MANY_SMALL_SEGMENTS):
        space.append(sample_batch(KEYS[row : row + 1], space.recipe))
    assert tend(space) is None
    space.append(sample_batch(KEYS[MANY_SMALL_SEGMENTS : MANY_SMALL_SEGMENTS + 1], space.recipe))
    report = tend(space)
    assert report is not None
    assert report.segments_after == 1
    assert_right(open_space(tmp_path), KEYS[: MANY_SMALL_SEGMENTS + 1])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_repair_keeps_undamaged_rows_and_the_next_fill_adds_the_rest(
    tmp_path: Path, layout: SegmentFormat, harm: str
) -> None:
    space = filled(tmp_path, segments=2, layout=layout)
    name = next(part.file for part in space.segments()[0].commit.arrays["vectors"])
    file = tmp_path / "spaces" / space.id / name
    content = bytearray(file.read_bytes())
    offset = space.segments()[0].commit.arrays["vectors"][0].offset
    content[offset + 5] ^= 0xFF  # a byte of the first row
    file.unlink()
    if harm != "remove":
        file.write_bytes(content if harm == "flip" else content[:-9])
    report = repair(LocalStorage(tmp_path))
    assert {problem.file for problem in report.removed} == {f"spaces/{space.id}/{name}"}
    assert report.left == []
    lost = 1 if harm == "flip" else 30
    assert (report.rows_lost, report.rows_kept) == (lost, 30 - lost)
    repaired = open_space(tmp_path)
    assert len(repaired) == 60 - lost
    assert_right(repaired, repaired.keys())
    assert repaired.append(sample_batch(KEYS, repaired.recipe)) == lost
    assert_right(open_space(tmp_path), KEYS)
    collect(LocalStorage(tmp_path), grace_s=0)
    assert_clean(tmp_path)


@pytest.mark.parametrize("what", ["commits/*.json", "space.json", "index/*.idx", "embedstore.json"])
def test_repair_removes_damaged_documents(tmp_path: Path, what: str) -> None:
    space = filled(tmp_path)
    compact(space)
    space.append(sample_batch(sample_keys(range(300, 310)), space.recipe))
    file = sorted((tmp_path if "embedstore" in what else tmp_path / "spaces" / space.id).glob(what))[0]
    content = bytearray(file.read_bytes())
    content[-10] ^= 1
    file.write_bytes(content)
    report = repair(LocalStorage(tmp_path))
    assert [str(tmp_path / problem.file) for problem in report.removed] == [str(file)]
    assert report.left == ([] if what != "space.json" else report.left)
    again = new_space(tmp_path, "zarr")
    again.append(sample_batch(KEYS, again.recipe))
    assert_right(open_space(tmp_path), KEYS)
    assert SpaceStore.open(tmp_path).verify(deep=True).problems == []


def test_an_undamaged_store_needs_no_repair(tmp_path: Path) -> None:
    filled(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*"))
    report = repair(LocalStorage(tmp_path))
    assert report.to_json() == {"removed": [], "rows_lost": 0, "rows_kept": 0, "left": []}
    assert sorted(path for path in tmp_path.rglob("*")) == before
