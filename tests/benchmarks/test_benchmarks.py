"""The benchmarks run, at sizes at which their numbers mean nothing, and report what they promise."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import filling, index, reading, remote, sketching, tiers, training, writing
from benchmarks.contenders import OTHERS, OURS, Contender, MemoryMap, Query, random_keys
from benchmarks.proteins import write_proteins
from embedstore.sequences.reading import read

Main = Callable[[Sequence[str]], dict[str, Any]]

_PRESENT = [kind for kind in (MemoryMap, *OURS, *OTHERS) if kind.obstacle() is None]


@pytest.mark.parametrize(
    ("main", "arguments", "expected"),
    [
        (
            reading.main,
            ["--rows", "300", "--dim", "8", "--queries", "40", "--rounds", "1"],
            ["ratio_to_memory_map", "times_faster", "milliseconds", "skipped"],
        ),
        (
            writing.main,
            ["--rows", "100", "--dim", "8", "--rounds", "1"],
            ["ratio_to_raw_file", "times_faster", "milliseconds", "skipped"],
        ),
        (
            index.main,
            ["--keys", "500", "--segments", "4", "--queries", "50", "--rounds", "1"],
            ["milliseconds_opening_and_look_up", "resident_growth_mib_own", "index_build_seconds"],
        ),
        (
            remote.main,
            ["--queries", "40", "--dim", "8", "--segments", "5", "--rounds", "1", "--delay-ms", "1"],
            ["dense", "sparse", "milliseconds_opening_5_segments"],
        ),
        (
            filling.main,
            ["--proteins", "60", "--rounds", "1", "--memory-proteins", "20"],
            ["cached_to_bare_loop", "uncached_to_cached", "peak_memory"],
        ),
        (
            tiers.main,
            ["--rows", "60", "--dim", "8", "--queries", "40", "--rounds", "1"],
            ["second_read_to_local", "first_read_seconds", "push_to_copy"],
        ),
        (
            sketching.main,
            ["--sources", "20", "--bases", "3000"],
            ["seconds", "megabases_a_processor_second", "twins_found", "others_found"],
        ),
        (
            training.main,
            ["--samples", "600", "--dim", "8", "--rounds", "1"],
            ["virnucpro_to_ours", "microseconds_a_sample", "peak_mib"],
        ),
    ],
)
def test_benchmark_prints_its_report_as_json(
    main: Main, arguments: list[str], expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = main([*arguments, "--json", "--directory", str(tmp_path)])
    assert json.loads(capsys.readouterr().out) == report
    assert set(expected) <= set(report)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", _PRESENT, ids=lambda kind: kind.name)
def test_contender_returns_what_it_was_given(kind: type[Contender], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keys, vectors = random_keys(50, rng), rng.standard_normal((50, 6), dtype=np.float32)
    contender = kind(tmp_path)
    contender.write(keys, vectors)
    contender.open()
    rows = np.array([7, 49, 0, 7])
    assert np.array_equal(contender.read(Query(keys[rows], rows)), vectors[rows])


def test_no_room_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"expected .* GiB of free disk"):
        reading.main(["--rows", "1000000000", "--directory", str(tmp_path)])


def test_synthetic_proteins_are_read_back_completely(tmp_path: Path) -> None:
    write_proteins(tmp_path / "proteins.fasta", 25, seed=3)
    assert [record.id for record in read([tmp_path / "proteins.fasta"])] == [f"protein_{n}" for n in range(25)]
