"""The dry run: counts and an estimate, nothing loaded, nothing made."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from toy_model import RECIPE, ToyEmbedder, proteins, records, toy_target

from embedstore.filling import SpaceTarget, fill, find_target, preview
from embedstore.library import Store
from embedstore.models.resolution import ModelOptions

SEQUENCES = proteins(40)


def test_preview_counts_hits_and_misses_without_the_model(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    fill(records(SEQUENCES[:30]), toy_target(store, ToyEmbedder()))
    report = preview(records([*SEQUENCES, *SEQUENCES, "M-V"]), toy_target(store))
    assert report.dry_run is not None
    assert (report.read, report.unique, report.hits, report.computed) == (81, 40, 30, 0)
    assert report.dry_run.misses == 10
    assert len(report.rejected) == 1


def test_preview_works_without_a_store(tmp_path: Path) -> None:
    report = preview(
        records(SEQUENCES), SpaceTarget(None, RECIPE, "toy", None, lambda: pytest.fail("the model was asked for"))
    )
    assert report.dry_run is not None
    assert (report.hits, report.dry_run.misses, report.dry_run.estimated_seconds) == (0, 40, None)
    assert report.to_json()["estimated_seconds"] is None


def test_the_estimate_follows_from_what_the_commits_cost(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    fill(records(SEQUENCES[:20]), toy_target(store, ToyEmbedder(before=lambda *_: time.sleep(0.01))))
    info = store.space("toy").info()
    report = preview(records(SEQUENCES), toy_target(store))
    assert report.dry_run is not None
    residues = sum(map(len, SEQUENCES[20:]))
    assert report.dry_run.estimated_seconds == pytest.approx(residues * info.compute_seconds / info.residues)


def test_the_estimate_of_a_new_space_is_the_rough_one_of_its_model() -> None:
    target = find_target(None, "aac_dpc", ModelOptions())
    report = preview(records(SEQUENCES), replace(target))
    assert report.dry_run is not None
    assert 0 < (report.dry_run.estimated_seconds or 0) < 1
