"""Tuning: the fastest setting that fits is used by the next load, and changes no vector."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.models import resolve
from embedstore.models.devices import cores, machine_place
from embedstore.models.machine import Setting, keep_setting
from embedstore.models.packed import PackedEmbedder
from embedstore.models.tuning import CPU_PACK_TOKENS, Measured, choose, measure

DATA = Path(__file__).resolve().parents[1] / "data"
CHECKPOINTS = (DATA / "esm" / "fastesm2_tiny", DATA / "dnabert_s")
HERE = machine_place(torch.device("cpu"), torch.float32)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@cache
def embedder_of(checkpoint: Path) -> PackedEmbedder:
    """With whatever setting it was first loaded."""
    return load(checkpoint)


def load(checkpoint: Path) -> PackedEmbedder:
    embedder = resolve(str(checkpoint)).load("cpu")
    assert isinstance(embedder, PackedEmbedder)
    return embedder


def sequences(alphabet: bytes, count: int, seed: int = 0) -> list[bytes]:
    draw = np.random.default_rng(seed)
    return [bytes(draw.choice(list(alphabet), length)) for length in draw.integers(5, 60, count)]


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=["esm2", "dnabert"])
def test_loading_takes_the_kept_setting(checkpoint: Path) -> None:
    default = load(checkpoint).setting
    shape = resolve(str(checkpoint)).shape
    assert shape is not None
    keep_setting(shape, HERE, Setting(777, 3, 2))
    tuned = load(checkpoint)
    assert tuned.setting == Setting(777, 3, 2) != default
    assert tuned.with_setting(Setting()).setting == default


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from([(CHECKPOINTS[0], b"ACDEFGHIKLMNPQRSTVWYXJ"), (CHECKPOINTS[1], b"ACGTN")]),
    st.builds(Setting, st.integers(1, 1000), st.integers(1, 3), st.integers(1, 2)),
    st.integers(0, 2**32),
)
def test_no_setting_changes_a_vector(checkpoint: tuple[Path, bytes], setting: Setting, seed: int) -> None:
    embedder = embedder_of(checkpoint[0])
    work = sequences(checkpoint[1], 6, seed)
    alone = [embedder.embed([sequence]).vectors[0] for sequence in work]
    tuned = embedder.with_setting(setting)
    before = torch.get_num_threads()
    with ThreadPoolExecutor(tuned.workers) as executor:
        packs = executor.map(lambda start: tuned.embed(work[start : start + 2]).vectors, range(0, 6, 2))
        found = np.concatenate(list(packs))
    np.testing.assert_allclose(found, alone, rtol=0, atol=1e-5)
    assert torch.get_num_threads() == before


def test_the_curve_holds_budgets_first_and_then_ways_to_divide_the_cores() -> None:
    work = sequences(b"ACDEFGHIKLMNPQRSTVWY", 10)
    told: list[Setting] = []
    curve = measure(embedder_of(CHECKPOINTS[0]), lambda _: work, seconds=10, rounds=1, on_setting=told.append)
    budgets = [measured.setting.pack_tokens for measured in curve[: len(CPU_PACK_TOKENS)]]
    assert budgets == list(CPU_PACK_TOKENS)
    assert [measured.default for measured in curve].count(True) == 1
    assert all(measured.residues_per_second > 0 and measured.fits for measured in curve)
    divided = {(measured.setting.workers, measured.setting.threads) for measured in curve}
    assert {(cores(), 1), (1, cores())} <= divided
    assert len({measured.setting for measured in curve}) == len(curve)
    assert set(told) == {measured.setting for measured in curve}


def test_what_would_take_too_long_is_not_measured() -> None:
    work = sequences(b"ACDEFGHIKLMNPQRSTVWY", 4)
    curve = measure(embedder_of(CHECKPOINTS[0]), lambda _: work, seconds=1e-9, rounds=1)
    assert {measured.setting.pack_tokens for measured in curve} == {min(CPU_PACK_TOKENS)}


def test_the_default_is_left_only_for_what_is_clearly_faster_and_fits() -> None:
    default = Measured(Setting(2048, 2, 1), 100.0, default=True)
    little, much = Measured(Setting(1024, 2, 1), 101.0), Measured(Setting(512, 2, 1), 120.0)
    too_large = Measured(Setting(4096, 2, 1), 900.0, fits=False)
    assert choose([little, default]) is default
    assert choose([too_large, little, default, much]) is much
    assert choose([little, much]) is much
