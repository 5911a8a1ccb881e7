"""Workers of this machine: the store and the report of an ordinary fill, whatever happens to the workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
from toy_workers import Toy, content, counts, proteins, records, toy_target

from embedstore.distributed import LocalProcesses, coordination, fill_with_workers
from embedstore.distributed.working import Job, physical_cores, transportable, worker_devices
from embedstore.errors import (
    CanaryError,
    CorruptStoreError,
    EmbedStoreError,
    InputError,
    ModelError,
    SpaceConflictError,
    StoreError,
    WorkerError,
)
from embedstore.filling import FillProgress, SegmentLimits, SpaceTarget, fill, pool
from embedstore.library import Store, open_store
from embedstore.models.resolution import ModelOptions
from embedstore_cli.main import main

SEQUENCES = proteins(120)
ESM = Path(__file__).resolve().parents[1] / "data" / "esm" / "fastesm2_tiny"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks of some hundred residues, several pools."""
    monkeypatch.setattr(coordination, "TASK_SECONDS", 0.1)
    monkeypatch.setattr(pool, "POOL_RECORDS", 50)
    monkeypatch.setattr("embedstore.filling.intake.FIRST_WINDOW_RECORDS", 30)
    monkeypatch.setattr("embedstore.filling.intake.WINDOW_RECORDS", 30)


def expected(tmp_path: Path, sequences: Sequence[str], toy: Toy | None = None) -> tuple[np.ndarray, np.ndarray]:
    """What an ordinary fill puts into a store."""
    whole = Store.open(tmp_path / "whole", create=True)
    fill(records(sequences), toy_target(whole, toy or Toy()))
    return content(whole)


def assert_same(found: tuple[np.ndarray, np.ndarray], wanted: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_array_equal(found[1], wanted[1])


def children() -> list[psutil.Process]:
    """Worker processes of this one that are alive."""
    return [child for child in psutil.Process().children() if "spawn_main" in str(child.cmdline())]


@pytest.mark.usefixtures("small_tasks")
def test_two_workers_fill_like_one_process(store: Store, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    diary.mkdir()
    seen: list[FillProgress] = []
    given = [*SEQUENCES, "M-V", *SEQUENCES[:70]]
    toy = Toy(diary=diary, seconds=0.01)
    report = fill_with_workers(records(given), toy_target(store, toy), LocalProcesses(2), on_progress=seen.append)
    assert counts(report) == (191, 120, 0, 120)
    assert [rejection.id for rejection in report.rejected] == ["r121"]
    assert not report.failed
    assert_same(content(store), expected(tmp_path, SEQUENCES))
    assert len({file.name.split("-")[0] for file in diary.iterdir()}) == 2
    assert (seen[-1].computed, seen[-1].waiting) == (120, 0)
    assert report.compute_seconds > 0
    again = fill_with_workers(records(given), toy_target(store, Toy(trouble="die")), LocalProcesses(2))
    assert counts(again) == (191, 120, 120, 0)
    assert children() == []


@pytest.mark.slow
def test_a_language_model_gives_the_same_vectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fasta = tmp_path / "p.faa"
    fasta.write_text("".join(f">s{number}\n{sequence}\n" for number, sequence in enumerate(SEQUENCES[:40])))
    reports, vectors = [], []
    for place, more in ((tmp_path / "one", []), (tmp_path / "two", ["--workers", "2", "--device", "cpu"])):
        given = ["fill", str(fasta), "-m", str(ESM), "--precision", "full", "-s", str(place), "--json", "-q"]
        assert main([*given, *more]) == 0
        reports.append(json.loads(capsys.readouterr().out))
        vectors.append(Store.open(place).get(SEQUENCES[:40], "fastesm2_tiny"))
    assert reports[0].keys() == reports[1].keys()
    assert [report["computed"] for report in reports] == [40, 40]
    np.testing.assert_allclose(*vectors, rtol=0, atol=1e-5 * np.abs(vectors[0]).max())


@pytest.mark.usefixtures("small_tasks")
def test_a_sequence_of_which_workers_die_is_isolated(store: Store, tmp_path: Path) -> None:
    poison, failing = SEQUENCES[7], SEQUENCES[33]
    toy = Toy(poison=frozenset({poison.encode()}), failing=frozenset({failing.encode()}))
    given = [*SEQUENCES[:60], poison.lower(), failing]
    report = fill_with_workers(records(given), toy_target(store, toy), LocalProcesses(2))
    assert counts(report) == (62, 60, 0, 58)
    assert {item.id: item.reason for item in report.failed} == {
        "r8": "2 times the worker that computed it died of SIGKILL",
        "r61": "2 times the worker that computed it died of SIGKILL",
        "r34": "the toy fails it",
        "r62": "the toy fails it",
    }
    assert len(report.failed) == 4
    assert_same(content(store), expected(tmp_path, [each for each in given[:60] if each not in (poison, failing)]))
    assert children() == []


@pytest.mark.usefixtures("small_tasks")
def test_a_killed_worker_costs_only_time(store: Store, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    diary.mkdir()

    def kill_one() -> None:
        while not any(diary.iterdir()):
            time.sleep(0.01)
        children()[0].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    toy = Toy(seconds=0.05, diary=diary)
    report = fill_with_workers(records(SEQUENCES), toy_target(store, toy), LocalProcesses(2))
    killer.join()
    assert (report.unique, report.hits + report.computed, report.failed) == (120, 120, ())
    assert_same(content(store), expected(tmp_path, SEQUENCES))


def test_workers_that_always_die_end_the_fill(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordination, "_MOST_LOSSES_IN_A_ROW", 0)
    monkeypatch.setattr(coordination, "_MOST_LOSSES_IN_A_ROW_PER_WORKER", 3)
    toy = Toy(poison=frozenset(sequence.encode() for sequence in SEQUENCES))
    with pytest.raises(WorkerError, match=r"4 times in a row a worker died.*SIGKILL"):
        fill_with_workers(records(SEQUENCES), toy_target(store, toy), LocalProcesses(1))
    assert children() == []


@pytest.mark.parametrize(
    ("trouble", "error", "message"),
    [
        ("load", ModelError, "the toy cannot be loaded on None"),
        ("die", WorkerError, "Worker 1 of 1 died of SIGKILL while it loaded the model"),
        ("embed", WorkerError, "Worker 1 failed: ZeroDivisionError: the toy is broken"),
    ],
)
def test_what_lies_in_no_sequence_ends_the_fill(
    store: Store, trouble: str, error: type[EmbedStoreError], message: str
) -> None:
    with pytest.raises(error, match=message):
        fill_with_workers(records(SEQUENCES), toy_target(store, Toy(trouble=trouble)), LocalProcesses(1))
    assert children() == []


def test_a_model_of_other_numbers_is_refused(store: Store) -> None:
    fill(records(SEQUENCES[:3]), toy_target(store, Toy()))
    with pytest.raises(CanaryError, match="does not reproduce the vectors"):
        fill_with_workers(records(SEQUENCES), toy_target(store, Toy(scale=1.1)), LocalProcesses(1))


def test_a_model_that_no_other_process_knows_is_refused(store: Store) -> None:
    toy = Toy()
    target = SpaceTarget(store, toy.recipe, "toy", None, toy)
    with pytest.raises(InputError, match="exists in this process only"):
        fill_with_workers(records(SEQUENCES), target, LocalProcesses(1))


def is_alive(process: psutil.Process) -> bool:
    """A process that has ended may stay in the table for as long as nobody asks for its exit code."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


INTERRUPTED = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from toy_workers import Toy, proteins, records, toy_target
from embedstore.distributed import LocalProcesses, fill_with_workers
from embedstore.interruption import heeded
from embedstore.library import Store

if __name__ == "__main__":
    store = Store.open(sys.argv[2], create=True)
    toy = Toy(seconds=0.1, diary=Path(sys.argv[3]))
    with heeded():
        report = fill_with_workers(records(proteins(3000)), toy_target(store, toy), LocalProcesses(2))
    print(json.dumps(report.to_json()))
"""


def start_long_fill(tmp_path: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """Start a fill of a minute in a session of its own; wait until both workers work."""
    script, diary = tmp_path / "script.py", tmp_path / "diary"
    script.write_text(INTERRUPTED)
    diary.mkdir()
    process = subprocess.Popen(
        [sys.executable, script, Path(__file__).parent, tmp_path / "store", diary],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while len({file.name.split("-")[0] for file in diary.iterdir()}) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    workers = [child for child in psutil.Process(process.pid).children() if "spawn_main" in str(child.cmdline())]
    assert len(workers) == 2
    return process, workers


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_a_signal_reports_what_is_stored_and_leaves_no_process(tmp_path: Path, sent: signal.Signals) -> None:
    process, workers = start_long_fill(tmp_path)
    os.killpg(process.pid, sent)  # as a terminal or a queue does: to all of them
    output, errors = process.communicate(timeout=20)
    report = json.loads(output)
    assert report["signal"] == sent.name
    assert len(Store.open(tmp_path / "store").space("toy")) == report["computed"] > 0
    assert report["computed"] < report["unique"] == 3000
    assert report["hits"] == 0
    assert errors == ""
    assert not [worker for worker in workers if is_alive(worker)]


def test_workers_end_when_who_started_them_is_killed(tmp_path: Path) -> None:
    process, workers = start_long_fill(tmp_path)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while any(map(is_alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    store = Store.open(tmp_path / "store")
    assert store.verify(deep=True).problems == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CorruptStoreError("x", "y"), StoreError),
        (SpaceConflictError("a", {"b": (1, 2)}), StoreError),
        (CanaryError("c"), CanaryError),
    ],
)
def test_errors_travel_as_the_nearest_that_can(error: EmbedStoreError, kind: type[EmbedStoreError]) -> None:
    found = transportable(error)
    assert (type(found), str(found)) == (kind, str(error))


def test_cores_and_devices_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert physical_cores() == 1
    job = Job("store", Toy().recipe, "toy", Toy(), "cpu", SegmentLimits())
    assert worker_devices(job, 3) == ["cpu"] * 3
    with pytest.raises(InputError, match="expected at least 1"):
        LocalProcesses(0)


def test_the_options_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.faa").write_text(">a\nMKV\n")
    given = ["fill", str(tmp_path / "p.faa"), "-m", "aac_dpc", "-s", str(tmp_path / "s"), "--workers", "2"]
    assert main([*given, "--scheduler", "tcp://localhost:1"]) == 2
    assert "one of --workers, --scheduler and --cluster" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_named_models_are_equal_for_equal_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ESM.parent)
    store = Store.open(tmp_path / "store", create=True)
    first, second = (store.target(ESM.name, options=ModelOptions(precision="full")) for _ in range(2))
    assert first.source == second.source
    assert hash(first.source) == hash(second.source)
    monkeypatch.chdir(tmp_path)
    assert first.source is not None
    assert first.source().recipe == first.recipe


def test_what_an_upstream_store_has_is_not_computed(tmp_path: Path) -> None:
    upstream = Store.open(tmp_path / "upstream", create=True)
    fill(records(SEQUENCES[:50]), toy_target(upstream, Toy()))
    store = open_store(tmp_path / "store", create=True, upstream=[tmp_path / "upstream"])
    with pytest.raises(CanaryError, match="does not reproduce the vectors"):
        fill_with_workers(records(SEQUENCES), toy_target(store, Toy(scale=1.1)), LocalProcesses(1))
    report = fill_with_workers(records(SEQUENCES), toy_target(store, Toy()), LocalProcesses(1))
    assert counts(report) == (120, 120, 50, 70)
    assert len(content(store)[0]) == 70
    again = fill_with_workers(records(SEQUENCES), toy_target(store, Toy(trouble="die")), LocalProcesses(1))
    assert counts(again) == (120, 120, 120, 0)


def test_workers_do_not_fill_a_space_whose_files_are_damaged(store: Store) -> None:
    fill(records(SEQUENCES[:50]), toy_target(store, Toy()))
    for file in Path(store.location).glob("spaces/*/data/**/vectors/c/*/*"):
        file.unlink()
    target = toy_target(Store.open(store.location), Toy())
    with pytest.raises(CorruptStoreError):
        fill_with_workers(records(SEQUENCES[:50]), target, LocalProcesses(1))


def test_progress_tells_when_workers_are_started_and_when_they_compute(store: Store) -> None:
    phases: list[str] = []
    target = toy_target(store, Toy())
    fill_with_workers(records(SEQUENCES), target, LocalProcesses(1), on_progress=lambda each: phases.append(each.phase))
    assert list(dict.fromkeys(phases)) == ["reading", "starting the workers", "computing", "committing", "done"]
