"""`fill` killed with SIGKILL at any moment: nothing acknowledged is lost, nothing is left half, nothing done twice."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from embedstore.identity import canonical, key_array, sequence_key
from embedstore.library import Store

RECORDS = 3000

FILL = """
import json, sys
from embedstore.filling import FillOptions, SegmentLimits, fill, find_target, pool
from embedstore.library import Store
from embedstore.models.resolution import ModelOptions
from embedstore.sequences import read

pool.POOL_RECORDS = 500  # several rounds of look-up, model and commit
store = Store.open(sys.argv[1], create=True)
print("started", flush=True)
target = find_target(store, "aac_dpc", ModelOptions())
report = fill(read([sys.argv[2]]), target, FillOptions(limits=SegmentLimits(rows=200)))
print(json.dumps(report.to_json()), flush=True)
"""


def write_proteins(path: Path, seed: int) -> list[str]:
    choose = random.Random(seed)
    sequences = [
        "M" + "".join(choose.choices("ACDEFGHIKLMNPQRSTVWY", k=choose.randint(30, 300))) for _ in range(RECORDS)
    ]
    path.write_text("".join(f">p{number}\n{sequence}\n" for number, sequence in enumerate(sequences)))
    return sequences


def start_fill(store: Path, fasta: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", FILL, store, fasta], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_kills_at_random_moments_lose_nothing_and_repeat_nothing(tmp_path: Path, kills: int) -> None:
    choose = random.Random(kills)
    fasta, place = tmp_path / "proteins.faa", tmp_path / "store"
    killed, seed, duration_s = 0, 0, 0.5
    while killed < kills:
        keys = key_array(sequence_key(canonical(sequence, "protein")) for sequence in write_proteins(fasta, seed))
        expected = Store.open(tmp_path / "whole", create=True).embed(list(_sequences(fasta)), model="aac_dpc")
        while True:
            before = _present(place, keys)
            process = start_fill(place, fasta)
            try:
                output, _ = process.communicate(timeout=choose.uniform(0, duration_s))
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
                killed += 1
            after = _checked(place, keys, expected)
            assert after[before].all(), "a row that was there is gone"
            if output:
                report = json.loads(output)
                assert after.all()
                assert report["computed"] == (~before).sum(), "something was computed twice"
                break
            if killed >= kills:
                break
        seed += 1
        duration_s = _time_of_a_fill(tmp_path / "timing", fasta) * 1.2


def _sequences(fasta: Path) -> list[str]:
    return fasta.read_text().split()[1::2]


def _time_of_a_fill(place: Path, fasta: Path) -> float:
    """Seconds that an undisturbed fill takes after its start: kills fall anywhere within."""
    process = start_fill(place / str(time.monotonic_ns()), fasta)
    started = time.perf_counter()
    process.communicate()
    return time.perf_counter() - started


def _present(place: Path, keys: np.ndarray) -> np.ndarray:
    store = Store.open(place, create=True)
    return store.space("aac_dpc").contains(keys) if store.spaces() else np.zeros(len(keys), np.bool_)


def _checked(place: Path, keys: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Open the store afresh, verify it, compare every row that is there; say which are."""
    store = Store.open(place)
    assert store.verify(deep=True).problems == []
    present = _present(place, keys)
    if present.any():
        np.testing.assert_array_equal(store.space("aac_dpc").read(keys[present]), expected[present])
    return present
