"""Removing single sequences: they are gone for who looks afterwards, all others stay, and pins stay as they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from faulty_storage import Death, FaultyStorage, SimulatedCrash
from sample_rows import LAYOUTS, assert_right, new_space, open_space, sample_batch, sample_keys, sample_recipe

from embedstore.errors import CorruptStoreError, InputError, StorageError, StoreError
from embedstore.records import Keys
from embedstore.sharing import pull
from embedstore.storage.local import LocalStorage
from embedstore.store import Space, SpaceStore
from embedstore.store.documents import SegmentFormat
from embedstore.store.signing import PublicKey, Signer, Trust
from embedstore.upkeep import collect, compact, pin, remove_sequences, unpin
from embedstore.upkeep.compaction import rewritten

KEYS = sample_keys(range(40))
SOME = KEYS[[3, 11, 12, 35]]
"""In three of the four segments of `filled`."""


def filled(place: Path, layout: SegmentFormat = "zarr", segments: int = 4) -> Space:
    space = new_space(place, layout)
    for rows in np.array_split(np.arange(len(KEYS)), segments):
        space.append(sample_batch(KEYS[rows], space.recipe), {"letters": 10, "compute_seconds": 0.5})
    return space


def without(removed: Keys) -> Keys:
    gone = {key.tobytes() for key in removed}
    return KEYS[[key.tobytes() not in gone for key in KEYS]]


def assert_removed(place: Path, removed: Keys) -> None:
    space = open_space(place)
    assert not space.contains(removed).any()
    assert len(space) == len(without(removed))
    assert_right(space, without(removed))
    assert SpaceStore.open(place).verify(deep=True).problems == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_removed_sequences_are_gone_and_only_their_segments_are_rewritten(
    tmp_path: Path, layout: SegmentFormat
) -> None:
    reader = filled(tmp_path, layout)
    before, cost = {segment.commit_id for segment in reader.segments()}, reader.info()
    space = open_space(tmp_path)
    assert remove_sequences(space, SOME) == 4
    assert_removed(tmp_path, SOME)
    segments = reader.segments()
    assert not reader.contains(SOME).any()
    assert [len(segment) for segment in segments] == [9, 8, 10, 9]
    assert [segment.commit_id in before for segment in segments] == [False, False, True, False]
    assert [segment.commit.provenance.get("removed_rows") for segment in segments] == [1, 2, None, 1]
    assert (space.info().residues, space.info().compute_seconds) == (cost.residues, cost.compute_seconds)
    collect(LocalStorage(tmp_path), grace_s=0)
    assert_removed(tmp_path, SOME)
    assert SpaceStore.open(tmp_path).verify(deep=True).orphans == []
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not any(key.tobytes() in files for key in SOME)
    assert space.append(sample_batch(SOME, space.recipe)) == 4  # as the next fill does


def test_absent_and_repeated_keys_are_skipped(tmp_path: Path) -> None:
    space = filled(tmp_path)
    before = [segment.commit_id for segment in space.segments()]
    assert remove_sequences(space, sample_keys(range(100, 105))) == 0
    assert remove_sequences(space, KEYS[:0]) == 0
    assert [segment.commit_id for segment in space.segments()] == before
    assert remove_sequences(space, np.concatenate([SOME, sample_keys([100]), SOME[::-1]])) == 4
    assert_removed(tmp_path, SOME)
    with pytest.raises(InputError, match=r"\(n, 24\) uint8"):
        remove_sequences(space, np.zeros((2, 3), np.uint8))


def test_a_sequence_that_several_segments_hold_is_removed_from_all(tmp_path: Path) -> None:
    space = filled(tmp_path)
    for _ in range(7):
        other = open_space(tmp_path)
        other._without_present = lambda batch: batch  # type: ignore[method-assign] # as writers in the same moment
        other.append(sample_batch(KEYS[[3, 20]], space.recipe))
    assert len(space.segments()) == 11
    assert remove_sequences(space, SOME) == 4
    assert_removed(tmp_path, SOME)


@pytest.mark.parametrize(
    ("numbers", "rows"),
    [
        (range(10), [10, 10, 10]),
        (range(10, 20), [10, 10, 10]),
        (range(30, 40), [10, 10, 10]),
        (range(5, 35), [5, 5]),
        (range(10, 30), [10, 10]),
        ([*range(10), *range(20, 30)], [10, 10]),
        (range(39), [1]),
    ],
)
def test_a_segment_of_which_nothing_is_left_goes_into_its_neighbour(
    tmp_path: Path, numbers: range | list[int], rows: list[int]
) -> None:
    space = filled(tmp_path)
    removed = KEYS[list(numbers)]
    assert remove_sequences(space, removed) == len(removed)
    assert_removed(tmp_path, removed)
    assert [len(segment) for segment in space.segments()] == rows
    ages = [segment.commit.created_ns for segment in space.segments()]
    assert ages == sorted(ages)


def test_removing_all_is_refused_with_advice(tmp_path: Path) -> None:
    space = filled(tmp_path)
    with pytest.raises(InputError, match=r"Cannot remove all 40 sequences of space toy.*`embedstore rm toy`"):
        remove_sequences(space, KEYS)
    assert_removed(tmp_path, KEYS[:0])


def test_a_pin_keeps_what_is_removed_until_it_goes(tmp_path: Path) -> None:
    filled(tmp_path)
    pin(SpaceStore.open(tmp_path), "paper")
    pinned = SpaceStore.open(tmp_path, pin="paper").space("toy")
    with pytest.raises(InputError, match="pinned"):
        remove_sequences(pinned, SOME)
    removed = np.concatenate([SOME, KEYS[20:30]])
    assert remove_sequences(open_space(tmp_path), removed) == 14
    for _ in range(2):
        collect(LocalStorage(tmp_path), grace_s=0)
        compact(open_space(tmp_path))
        assert_removed(tmp_path, removed)
        assert_right(SpaceStore.open(tmp_path, pin="paper").space("toy"), KEYS)
    unpin(SpaceStore.open(tmp_path), "paper")
    for _ in range(3):
        collect(LocalStorage(tmp_path), grace_s=0)
    assert_removed(tmp_path, removed)
    assert len(list(tmp_path.glob("spaces/*/commits/*.json"))) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("death", Death, ids=lambda death: death.value)
def test_killed_at_any_step_it_has_removed_some_and_goes_on_when_called_again(
    tmp_path: Path, death: Death, layout: SegmentFormat
) -> None:
    start = tmp_path / "start"
    start.mkdir()
    filled(start, layout, segments=2)
    removed = KEYS[[3, 35]]
    counted = FaultyStorage(shutil.copytree(start, tmp_path / "counted"))
    remove_sequences(open_space(counted), removed)
    for step in [step for step, kind in enumerate(counted.steps) if kind in ("write", "delete")]:
        place = tmp_path / f"died{step}"
        shutil.copytree(start, place, copy_function=os.link)
        with pytest.raises(SimulatedCrash):
            remove_sequences(open_space(FaultyStorage(place, step, death)), removed)
        space = open_space(place)
        assert_right(space, without(removed))
        assert_right(space, space.keys())
        assert SpaceStore.open(place).verify(deep=True).problems == []
        remove_sequences(space, removed)
        assert_removed(place, removed)


def test_only_who_may_replace_a_signed_segment_removes_from_it(tmp_path: Path) -> None:
    store = tmp_path / "store"
    alice, bob = signer("alice"), signer("bob")
    members = {each.public.fingerprint: each.public for each in (alice, bob)}
    new_space(store, "zarr")

    def opened(trust: Trust) -> Space:
        return SpaceStore(LocalStorage(store), trust=trust).space("toy")

    for number, each in enumerate([alice, bob, alice]):
        space = opened(Trust(each))
        space.append(sample_batch(KEYS[10 * number : 10 * number + 10], space.recipe))
    opened(Trust()).append(sample_batch(KEYS[30:], sample_recipe()))
    for trust, numbers in [
        (Trust(), [3]),
        (Trust(bob), [3]),
        (Trust(alice), [35]),
        (Trust(bob), range(10, 20)),
        (Trust(members=members), [3]),
    ]:
        with pytest.raises(StoreError, match=r"Cannot remove sequences from space toy.*sign"):
            remove_sequences(opened(trust), KEYS[list(numbers)])
    assert_removed(store, KEYS[:0])
    assert remove_sequences(opened(Trust()), KEYS[[35]]) == 1
    assert remove_sequences(opened(Trust(bob, members)), KEYS[[3, *range(10, 20)]]) == 11  # members trust each other
    space = opened(Trust(members=members))
    assert_right(space, KEYS[[0, 1, 2, *range(4, 10), *range(20, 30)]])
    assert len(space) == 19
    collect(LocalStorage(store), grace_s=0, members=members)
    assert_removed(store, KEYS[[3, 35, *range(10, 20)]])


def signer(name: str) -> Signer:
    key = Ed25519PrivateKey.generate()
    return Signer(PublicKey(key.public_key().public_bytes_raw(), name), key.sign)


def test_a_store_that_can_only_be_read_refuses(tmp_path: Path) -> None:
    class ReadOnly(LocalStorage):
        def write(self, name, parts):  # type: ignore[no-untyped-def]
            raise StorageError(f"Cannot write {name}: it is read-only.")

    filled(tmp_path)
    with pytest.raises(StorageError, match="read-only"):
        remove_sequences(open_space(ReadOnly(tmp_path)), SOME)
    assert_removed(tmp_path, KEYS[:0])


def test_a_damaged_row_that_stays_is_an_error_and_nothing_is_lost(tmp_path: Path) -> None:
    filled(tmp_path, "hdf5", segments=1)
    (file,) = tmp_path.glob("spaces/*/data/*.h5")
    content = bytearray(file.read_bytes())
    content[6144] ^= 1  # in a vector
    file.unlink()
    file.write_bytes(content)
    with pytest.raises(CorruptStoreError, match="checksum"):
        remove_sequences(open_space(tmp_path), SOME)
    assert len(open_space(tmp_path)) == len(KEYS)


class Interrupted(LocalStorage):
    """Calls somebody else just before or after the first file of some kind is written."""

    def __init__(self, place: Path, other: Callable[[], object], kind: str, *, after: bool) -> None:
        super().__init__(place)
        self.other: Callable[[], object] | None = other
        self.kind = kind
        self.after = after

    def write(self, name, parts):  # type: ignore[no-untyped-def]
        other, self.other = (self.other, None) if self.kind in name else (None, self.other)
        if other is not None and not self.after:
            other()
        entry = super().write(name, parts)
        if other is not None and self.after:
            other()
        return entry


MOMENTS = pytest.mark.parametrize(
    ("kind", "after"), [("/vectors/", False), ("/commits/", True)], ids=["before its data", "after its commit"]
)


@MOMENTS
def test_a_merge_that_was_under_way_does_not_bring_removed_rows_back(tmp_path: Path, kind: str, after: bool) -> None:
    filled(tmp_path)
    removed = np.concatenate([SOME, KEYS[20:30]])
    merging = Interrupted(tmp_path, lambda: remove_sequences(open_space(tmp_path), removed), kind, after=after)
    compact(open_space(merging))
    assert merging.other is None
    assert_removed(tmp_path, removed)


@pytest.mark.parametrize(("kind", "after"), [("/vectors/", False), ("/commits/", False), ("/commits/", True)])
def test_rows_that_are_merged_while_they_are_removed_are_removed(tmp_path: Path, kind: str, after: bool) -> None:
    filled(tmp_path)
    storage = Interrupted(tmp_path, lambda: compact(open_space(tmp_path)), kind, after=after)
    remove_sequences(open_space(storage), SOME)
    assert storage.other is None
    assert_removed(tmp_path, SOME)


@MOMENTS
def test_two_who_remove_at_once_remove_what_either_removes(tmp_path: Path, kind: str, after: bool) -> None:
    filled(tmp_path)
    others = KEYS[[4, 13, 20]]
    storage = Interrupted(tmp_path, lambda: remove_sequences(open_space(tmp_path), others), kind, after=after)
    remove_sequences(open_space(storage), SOME)
    assert storage.other is None
    assert_removed(tmp_path, np.concatenate([SOME, others]))


def test_what_is_filled_again_while_it_is_removed_elsewhere_stays(tmp_path: Path) -> None:
    filled(tmp_path)

    def remove_and_fill() -> None:
        space = open_space(tmp_path)
        remove_sequences(space, SOME)
        space.append(sample_batch(SOME[:2], space.recipe))

    compact(open_space(Interrupted(tmp_path, remove_and_fill, "/vectors/", after=False)))
    assert_removed(tmp_path, SOME[2:])


def test_others_that_rewrite_again_and_again_are_an_error(tmp_path: Path) -> None:
    filled(tmp_path)

    class Rewritten(LocalStorage):
        def write(self, name, parts):  # type: ignore[no-untyped-def]
            if name.endswith("vectors/zarr.json"):
                other = open_space(tmp_path)
                rewritten(other, other.segments()[:1], {})
            return super().write(name, parts)

    with pytest.raises(StorageError, match="try again"):
        remove_sequences(open_space(Rewritten(tmp_path)), SOME[:1])
    assert_removed(tmp_path, KEYS[:0])


def test_a_pull_from_a_store_that_has_them_brings_them_back(tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    filled(near)
    shutil.copytree(near, far)
    remove_sequences(open_space(near), SOME)
    assert pull(SpaceStore.open(near), SpaceStore.open(far)).copied == 4
    assert_removed(near, KEYS[:0])
