"""Dying at any step of any change leaves a store that opens, holds all or nothing of it, and takes it again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty_storage import Death, FaultyStorage, SimulatedCrash
from sample_rows import (
    LAYOUTS,
    assert_right,
    new_space,
    open_space,
    sample_batch,
    sample_canaries,
    sample_keys,
    sample_recipe,
)

from embedstore.errors import SpaceNotFoundError, StoreNotFoundError
from embedstore.store import SpaceStore
from embedstore.store.documents import SegmentFormat

BEFORE = sample_keys(range(8))
OPERATIONS = {
    Death.BEFORE: {"read", "write", "list", "entry", "delete", "open"},
    Death.AFTER: {"write", "delete"},  # dying after the others is dying before the next
    Death.TORN: {"write"},
}
OPERATIONS = {
    Death.BEFORE: {"read", "write", "list", "entry", "delete", "open"},
    Death.AFTER: {"write", "delete"},  # dying after the others is dying before the next
    Death.TORN: {"write"},
}
ADDED = sample_keys(range(5, 14))  # three of them are there already


def create_store(storage: FaultyStorage, layout: SegmentFormat) -> None:
    SpaceStore(storage, create=True, segment_format=layout)


def create_space(storage: FaultyStorage, layout: SegmentFormat) -> None:
    recipe = sample_recipe()
    SpaceStore(storage).create_space(recipe, "toy", sample_canaries(recipe))


def append(storage: FaultyStorage, layout: SegmentFormat) -> None:
    space = SpaceStore(storage).space("toy")
    assert space.append(sample_batch(ADDED, space.recipe)) == 6


def optimise(storage: FaultyStorage, layout: SegmentFormat) -> None:
    SpaceStore(storage).space("toy").optimise()


Change = Callable[[FaultyStorage, SegmentFormat], None]


def prepare(place: Path, change: Change, layout: SegmentFormat) -> None:
    """Bring the store to where the change starts."""
    if change is create_store:
        return
    if change is create_space:
        SpaceStore.open(place, create=True, segment_format=layout)
        return
    space = new_space(place, layout)
    space.append(sample_batch(BEFORE[:5], space.recipe))
    space.optimise()
    space.append(sample_batch(BEFORE[5:], space.recipe))


def change_again(place: Path, change: Change, layout: SegmentFormat) -> None:
    """What somebody does who comes after the crash, not knowing of it."""
    space = new_space(place, layout)
    space.append(sample_batch(BEFORE, space.recipe))
    if change is append:
        space.append(sample_batch(ADDED, space.recipe))
    open_space(place).optimise()


def assert_whole_or_absent(place: Path, change: Change) -> None:
    try:
        space = open_space(place)
    except (StoreNotFoundError, SpaceNotFoundError):
        assert change in (create_store, create_space)
        return
    assert len(space) in ((0,) if change is create_space else (8, 14) if change is append else (8,))
    assert_right(space, space.keys())
    if change is not create_space:
        assert space.contains(BEFORE).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("death", Death, ids=lambda death: death.value)
@pytest.mark.parametrize("change", [create_store, create_space, append, optimise], ids=lambda change: change.__name__)
def test_a_crash_at_any_step_leaves_all_or_nothing(
    tmp_path: Path, change: Change, death: Death, layout: SegmentFormat
) -> None:
    start = tmp_path / "start"
    start.mkdir()
    prepare(start, change, layout)
    counted = FaultyStorage(shutil.copytree(start, tmp_path / "counted"))
    change(counted, layout)
    assert "write" in counted.steps
    for step, operation in enumerate(counted.steps):
        if operation not in OPERATIONS[death]:
            continue
        place = shutil.copytree(start, tmp_path / f"store{step}")
        with pytest.raises(SimulatedCrash):
            change(FaultyStorage(place, step, death), layout)
        assert_whole_or_absent(place, change)
        if change is not create_store:
            assert SpaceStore.open(place).verify(deep=True).problems == []
        change_again(place, change, layout)
        space = open_space(place)
        assert_right(space, BEFORE)
        if change is append:
            assert_right(space, ADDED)
        assert len(space) == (14 if change is append else 8)
        report = SpaceStore.open(place).verify(deep=True)
        assert report.problems == []
        if death is Death.TORN:
            assert [name for name in report.orphans if ".tmp-torn" in name]
