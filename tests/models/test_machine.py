"""What is kept of a machine: found again for the same model and place only, and never trusted blindly."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from embedstore.identity import Recipe
from embedstore.models import ModelOptions, resolve
from embedstore.models.embedder import ModelShape
from embedstore.models.machine import (
    Place,
    Setting,
    keep_rate,
    keep_setting,
    kept_file,
    kept_rate,
    kept_setting,
    processor,
    usable_processors,
)

DATA = Path(__file__).resolve().parents[1] / "data" / "esm"
SHAPE = ModelShape("esm2", 6, 320)
HERE = Place(processor(), "float32")
GPU = Place("NVIDIA Imaginary 9000", "float16")
SETTING = Setting(1024, 3, 2)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def recipe() -> Recipe:
    return resolve(str(DATA / "fastesm2_tiny")).recipe


def test_a_setting_is_found_again_for_its_shape_and_place_only() -> None:
    assert kept_setting(SHAPE, HERE) == Setting()
    assert keep_setting(SHAPE, HERE, SETTING)
    assert keep_setting(SHAPE, GPU, Setting(65_536, 2, 1))
    assert kept_setting(SHAPE, HERE) == SETTING
    assert kept_setting(SHAPE, GPU) == Setting(65_536, 2, 1)
    assert kept_setting(replace(SHAPE, layers=12), HERE) == Setting()
    assert kept_setting(SHAPE, replace(HERE, dtype="float16")) == Setting()
    assert [file.name for file in kept_file().parent.iterdir()] == ["machine.json"]


@pytest.mark.parametrize("damage", [b"", b"not json", b"[]", b'{"settings": 3, "rates": [1]}', b"\xff", b"[" * 100_000])
def test_a_damaged_file_counts_as_none(damage: bytes, recipe: Recipe) -> None:
    keep_setting(SHAPE, HERE, SETTING)
    kept_file().write_bytes(damage)
    assert kept_setting(SHAPE, HERE) == Setting()
    assert kept_rate(recipe) is None
    assert keep_setting(SHAPE, HERE, SETTING)
    assert kept_setting(SHAPE, HERE) == SETTING


@pytest.mark.parametrize("value", [0, -1, True, "many", None, 10**30, 2.5, []])
@pytest.mark.parametrize("field", ["pack_tokens", "workers", "threads"])
def test_a_setting_that_cannot_be_is_ignored(field: str, value: object) -> None:
    keep_setting(SHAPE, HERE, SETTING)
    document = json.loads(kept_file().read_text())
    (entry,) = document["settings"].values()
    entry[field] = value
    kept_file().write_text(json.dumps(document))
    assert kept_setting(SHAPE, HERE) == Setting()


def test_the_rate_of_the_fastest_device_counts_unless_the_processor_is_asked_for(recipe: Recipe) -> None:
    assert kept_rate(recipe) is None
    keep_rate(recipe, HERE, 1000.0)
    assert kept_rate(recipe) == kept_rate(recipe, "cpu") == 1000.0
    keep_rate(recipe, GPU, 90_000.0)
    assert kept_rate(recipe) == 90_000.0
    assert kept_rate(recipe, "cpu") == 1000.0


def test_a_rate_belongs_to_weights_and_arithmetic(recipe: Recipe) -> None:
    full = resolve(str(DATA / "fastesm2_tiny"), ModelOptions(precision="full")).recipe
    keep_rate(recipe, GPU, 90_000.0)
    assert kept_rate(full) is None
    keep_rate(recipe, HERE, 1000.0)
    assert kept_rate(full) == 1000.0  # a processor computes both in float32
    assert kept_rate(replace(recipe, weights_sha256="0" * 64)) is None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert not keep_setting(SHAPE, HERE, SETTING)
    assert kept_setting(SHAPE, HERE) == Setting()


def test_all_processors_count_where_the_system_has_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_processors() <= frozenset(range(os.cpu_count() or 1))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_processors() == frozenset(range(os.cpu_count() or 1))
