"""What another store says of a space is not taken on trust: its name, its canaries, its vectors, its order of keys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sharing_stores import OTHER, RECIPE, assert_clean, make_store
from store.sample_rows import LAYOUTS, assert_right, right_vectors, sample_batch, sample_canaries, sample_keys

from embedstore.errors import InputError
from embedstore.filling import canaries
from embedstore.identity import Recipe
from embedstore.library import open_store
from embedstore.models.resolution import ModelOptions, resolve
from embedstore.records import Canaries
from embedstore.sharing import pull
from embedstore.store import SpaceStore
from embedstore.store.documents import SegmentFormat
from embedstore.store.segment_files import SortedRows
from embedstore.upkeep import pin
from embedstore_cli.main import main

PROTEINS = str(Path(__file__).resolve().parents[2] / "examples" / "proteins.faa")


def stranger(place: Path, recipe: Recipe, name: str, kept: Canaries) -> SpaceStore:
    store = SpaceStore.open(place, create=True)
    store.create_space(recipe, name, kept).append(sample_batch(sample_keys(range(5)), recipe))
    return store


@pytest.mark.parametrize("name", ["aac_dpc", "tnf", "esm2_t6_8m", "dnabert_s"])
def test_the_name_of_a_model_is_kept_for_that_model(tmp_path: Path, name: str) -> None:
    fake = replace(RECIPE, implementation="fake/1")
    far = stranger(tmp_path / "far", fake, name, sample_canaries(fake))
    near = SpaceStore.open(tmp_path / "near", create=True)
    report = pull(near, far)
    assert (report.copied, report.complete) == (5, True)
    assert [space.name for space in near.spaces()] == [f"{name}-{fake.id[:8]}"]
    assert_right(near.spaces()[0], sample_keys(range(5)))
    tiered = open_store(tmp_path / "tiered", create=True, upstream=[tmp_path / "far"])
    assert [space.name for space in tiered.spaces()] == [f"{name}-{fake.id[:8]}"]


def test_a_model_fills_its_space_although_a_stranger_used_its_name(tmp_path: Path) -> None:
    fake = replace(RECIPE, implementation="fake/1")
    stranger(tmp_path / "far", fake, "aac_dpc", sample_canaries(fake))
    near = ["--store", str(tmp_path / "near")]
    assert main(["init", str(tmp_path / "near")]) == 0
    assert main(["pull", str(tmp_path / "far"), *near]) == 0
    assert main(["fill", PROTEINS, "--model", "aac_dpc", *near, "--quiet"]) == 0
    assert len(SpaceStore.open(tmp_path / "near").space("aac_dpc")) > 5


@pytest.mark.parametrize("how", ["empty", "zeros", "alike", "altered", "not protein"])
def test_canaries_that_no_model_gives_are_refused_at_the_pull(tmp_path: Path, how: str) -> None:
    model = resolve("aac_dpc", ModelOptions())
    right = canaries.compute(model.load(None))
    kept = {
        "empty": Canaries((), np.empty((0, model.recipe.dim), np.float32)),
        "zeros": Canaries(right.sequences, np.zeros_like(right.vectors)),
        "alike": Canaries(right.sequences, np.ones_like(right.vectors)),
        "altered": Canaries(right.sequences, right.vectors + np.float32(0.01)),
        "not protein": Canaries(("M-V", "123", "W"), right.vectors),
    }[how]
    far = stranger(tmp_path / "far", model.recipe, "aac_dpc", kept)
    make_store(far.storage, range(7), recipe=OTHER, name="other")
    near = SpaceStore.open(tmp_path / "near", create=True)
    report = pull(near, far)
    assert (report.copied, report.complete) == (7, False)
    assert [space.name for space in near.spaces()] == ["other"]
    assert "another store" in next(problem.reason for space in report.spaces for problem in space.problems)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("overlap", [0, 2], ids=["whole", "some rows"])
def test_vectors_that_are_not_finite_do_not_go_over(
    tmp_path: Path, layout: SegmentFormat, value: float, overlap: int
) -> None:
    far = make_store(tmp_path / "far", range(10, 15), layout=layout)
    space = far.space("toy")
    keys = sample_keys(range(5))
    vectors = right_vectors(keys, RECIPE)
    vectors[3, 1] = value
    order = np.lexsort(keys.T[::-1])
    rows = SortedRows(keys[order], RECIPE.dim, space.dtype, lambda start, stop: vectors[order][start:stop])
    space.publish(lambda: space.write_files(rows).commit(space.id, 1, {}))
    assert any("not finite" in problem.reason for problem in far.verify(deep=True).problems)
    near = make_store(tmp_path / "near", *([range(overlap)] if overlap else []))
    report = pull(near, far)
    assert (report.copied, report.complete) == (5, False)
    assert any("finite" in problem.reason for each in report.spaces for problem in each.problems)
    assert_right(near.space("toy"), sample_keys([*range(overlap), *range(10, 15)]))
    assert_clean(near)


def test_keys_that_are_not_sorted_do_not_go_over(tmp_path: Path) -> None:
    far = make_store(tmp_path / "far", range(10, 15))
    space = far.space("toy")
    keys = sample_keys(range(5))
    keys = keys[np.lexsort(keys.T[::-1])][::-1].copy()
    vectors = right_vectors(keys, RECIPE)
    rows = SortedRows(keys, RECIPE.dim, space.dtype, lambda start, stop: vectors[start:stop])
    space.publish(lambda: space.write_files(rows).commit(space.id, 1, {}))
    near = SpaceStore.open(tmp_path / "near", create=True)
    report = pull(near, far)
    assert (report.copied, report.complete) == (5, False)
    assert any("not sorted" in problem.reason for each in report.spaces for problem in each.problems)


def test_nothing_is_pulled_into_a_pinned_view(tmp_path: Path) -> None:
    far = make_store(tmp_path / "far", range(5))
    pin(make_store(tmp_path / "near", range(2)), "paper")
    with pytest.raises(InputError, match="pinned"):
        pull(SpaceStore.open(tmp_path / "near", pin="paper"), far)
