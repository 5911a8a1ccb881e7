"""Workers of Dask clusters: the store of an ordinary fill, whichever of them are killed."""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_workers import RECIPE, Toy, content, counts, proteins, records, toy_target

from embedstore.distributed import DaskCluster, DaskScheduler, dask_workers, fill_with_workers, read_cluster_file
from embedstore.errors import InputError, MissingDependencyError, WorkerError
from embedstore.filling import FillOptions, fill
from embedstore.library import Store
from embedstore_cli.main import main

SEQUENCES = proteins(200)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


@pytest.fixture
def pythons_own_ctrl_c() -> Iterator[None]:
    """Whatever imports dask_jobqueue in these tests leaves it replaced."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextmanager
def running_cluster() -> Iterator[Any]:
    """Two workers that somebody else has started."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
    ) as cluster:
        yield cluster


def test_a_cluster_one_of_whose_workers_is_killed_fills_like_one_process(store: Store, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    diary.mkdir()
    killed: list[int] = []

    def kill_one() -> None:
        while not (found := [int(file.name.split("-")[0]) for file in diary.iterdir()]):
            time.sleep(0.01)
        os.kill(found[0], signal.SIGKILL)
        killed.append(found[0])

    with running_cluster() as cluster:
        killer = threading.Thread(target=kill_one)
        killer.start()
        given = [*SEQUENCES, "M-V", *SEQUENCES[:9]]
        workers = DaskScheduler(cluster.scheduler_address)
        report = fill_with_workers(records(given), toy_target(store, Toy(seconds=0.05, diary=diary)), workers)
        killer.join()
    assert (report.read, report.unique, report.hits + report.computed) == (210, 200, 200)
    assert [item.id for item in report.rejected] == ["r201"]
    assert (report.failed, report.interrupted, len(killed)) == ((), False, 1)
    assert len({file.name.split("-")[0] for file in diary.iterdir()}) > 1
    whole = Store.open(tmp_path / "whole", create=True)
    fill(records(SEQUENCES), toy_target(whole, Toy()))
    for found, wanted in zip(content(store), content(whole), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.usefixtures("pythons_own_ctrl_c")
def test_an_interrupted_fill_stores_what_its_tasks_have(store: Store, tmp_path: Path) -> None:
    """Tasks of a minute, each stopped after the pack that it is at."""
    diary = tmp_path / "diary"
    diary.mkdir()

    def interrupt() -> None:
        while len({file.name.split("-")[0] for file in diary.iterdir()}) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    with running_cluster() as cluster:
        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        workers = DaskScheduler(cluster.scheduler_address)
        report = fill_with_workers(records(proteins(3000)), toy_target(store, Toy(seconds=0.2, diary=diary)), workers)
        interrupter.join()
    assert (report.signal, report.unique, report.hits, report.failed) == ("SIGINT", 3000, 0, ())
    assert report.computed == len(Store.open(store.location).space("toy")) > 0


@pytest.mark.slow
def test_a_sequence_of_which_dask_workers_die_is_isolated(store: Store) -> None:
    import dask
    import distributed  # noqa: F401 - its defaults must be there before one is changed

    toy = Toy(poison=frozenset({SEQUENCES[3].encode()}))
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}), running_cluster() as cluster:
        report = fill_with_workers(
            records(SEQUENCES[:4]), toy_target(store, toy), DaskScheduler(cluster.scheduler_address)
        )
    assert (report.unique, report.hits + report.computed) == (4, 3)
    assert [(item.id, item.reason) for item in report.failed] == [
        ("r4", "2 times the worker that computed it died, and 1 more after it")
    ]
    assert len(content(store)[0]) == 3


CLAIM = """
import sys
from dataclasses import replace
from toy_workers import RECIPE
from embedstore.distributed import working
from embedstore.distributed.working import Job
from embedstore.filling.committing import SegmentLimits

working.gpu_names = lambda: ["first", "second"]
job = Job("store", replace(RECIPE, weights_sha256="0" * 64), "toy", None, sys.argv[1] or None, SegmentLimits())
print(working.with_own_gpu(working.with_own_gpu(job)).device, flush=True)
sys.stdin.read()
"""


@contextmanager
def worker_with_two_gpus(folder: Path, wish: str = "") -> Iterator[str]:
    """A process that sees two GPUs, as all of its machine do; gives the device that it takes, until it is killed."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", CLAIM, wish],
        env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


def test_workers_of_one_machine_get_a_gpu_each(tmp_path: Path) -> None:
    with worker_with_two_gpus(tmp_path) as first:
        with worker_with_two_gpus(tmp_path, "cuda") as second, worker_with_two_gpus(tmp_path) as third:
            assert (first, second) == ("cuda:0", "cuda:1")
            assert third in ("cuda:0", "cuda:1")  # there is no other
        with worker_with_two_gpus(tmp_path) as after_the_second:
            assert after_the_second == "cuda:1"


@pytest.mark.parametrize("wish", ["cpu", "cuda:1"])
def test_a_device_that_was_chosen_is_kept(wish: str, tmp_path: Path) -> None:
    with worker_with_two_gpus(tmp_path, wish) as found:
        assert found == wish
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_task_of_a_gpu_travels_without_a_warning(store: Store) -> None:
    """Dask warns of messages of more than 10 MB; warnings are errors here."""
    long = ["M" * 12_000_000 + sequence for sequence in SEQUENCES[:2]]
    toy = Toy(recipe=replace(RECIPE, weights_sha256="0" * 64), scale=1e-3)
    options = FillOptions(device="cpu")
    with running_cluster() as cluster:
        workers = DaskScheduler(cluster.scheduler_address)
        report = fill_with_workers(records(long), toy_target(store, toy), workers, options)
    assert (report.unique, report.computed, report.failed) == (2, 2, ())


def test_what_a_dask_worker_cannot_do_is_reported(store: Store) -> None:
    with running_cluster() as cluster, pytest.raises(WorkerError, match="ZeroDivisionError: the toy is broken"):
        fill_with_workers(
            records(SEQUENCES), toy_target(store, Toy(trouble="embed")), DaskScheduler(cluster.scheduler_address)
        )


def test_a_cluster_file_starts_workers_and_ends_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.faa").write_text("".join(f">s{n}\n{sequence}\n" for n, sequence in enumerate(SEQUENCES)))
    (tmp_path / "here.yaml").write_text("kind: local\nminimum: 1\nmaximum: 2\n")
    given = ["fill", str(tmp_path / "p.faa"), "-m", "aac_dpc", "-s", str(tmp_path / "store"), "--json", "-q"]
    assert main([*given, "--cluster", str(tmp_path / "here.yaml")]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert (report["unique"], report["computed"], report["interrupted"]) == (200, 200, False)
    assert captured.err == ""
    assert len(Store.open(tmp_path / "store").get(SEQUENCES, "aac_dpc")) == 200


SBATCH = """#!/bin/bash
copy=$(mktemp "$JOBS/XXXXXX.sh")
cp "$1" "$copy"
setsid bash "$copy" > "$copy.log" 2>&1 &
echo "Submitted batch job $!"
"""


@pytest.mark.slow
def test_jobs_of_a_queue_compute(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm's two commands are played by scripts that run the job here; all else is real."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    for name, script in (("sbatch", SBATCH), ("scancel", '#!/bin/bash\nkill -TERM -- "-$1"\n')):
        (jobs / name).write_text(script)
        (jobs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{jobs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("JOBS", str(jobs))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    options = {
        "cores": 1,
        "memory": "1GB",
        "local_directory": str(jobs),
        "scheduler_options": {"host": "127.0.0.1", "dashboard_address": ":0"},
    }
    report = fill_with_workers(
        records(SEQUENCES), toy_target(store, Toy(seconds=0.02)), DaskCluster("slurm", 0, 2, options)
    )
    assert counts(report) == (200, 200, 0, 200)
    assert len(list(jobs.glob("*.sh"))) in (1, 2)


def test_an_address_without_a_scheduler_is_reported(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_workers, "_CONNECT_S", 0.3)
    with pytest.raises(WorkerError, match=r"Cannot reach the Dask scheduler at tcp://127\.0\.0\.1:9"):
        fill_with_workers(records(SEQUENCES), toy_target(store, Toy()), DaskScheduler("tcp://127.0.0.1:9"))
    with pytest.raises(WorkerError, match="Expected an address like tcp://host:8786"):
        fill_with_workers(records(SEQUENCES), toy_target(store, Toy()), DaskScheduler("nonsense://x"))


def test_without_dask_the_extra_is_named(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingDependencyError, match=r"embedstore-bio\[cluster\]"):
        fill_with_workers(records(SEQUENCES), toy_target(store, Toy()), DaskScheduler("tcp://127.0.0.1:9"))
    (tmp_path / "p.faa").write_text(">a\nMKV\n")
    given = ["fill", str(tmp_path / "p.faa"), "-m", "aac_dpc", "-s", str(store.location)]
    assert main([*given, "--cluster", str(tmp_path / "c.yaml")]) == 1
    assert "embedstore-bio[cluster]" in capsys.readouterr().err


def test_a_missing_queue_is_reported(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(WorkerError, match="bsub is not found here"):
        fill_with_workers(
            records(SEQUENCES), toy_target(store, Toy()), DaskCluster("lsf", 0, 2, {"cores": 1, "memory": "1GB"})
        )


def test_a_queue_that_refuses_is_reported(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sbatch").write_text("#!/bin/bash\necho invalid partition >&2; exit 1\n")
    (tmp_path / "sbatch").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    options = {"cores": 1, "memory": "1GB", "scheduler_options": {"host": "127.0.0.1", "dashboard_address": ":0"}}
    with pytest.raises(WorkerError, match=r"(?s)Cannot start slurm workers.*invalid partition"):
        fill_with_workers(records(SEQUENCES), toy_target(store, Toy()), DaskCluster("slurm", 0, 2, options))


def test_options_that_the_class_does_not_take_are_reported(store: Store) -> None:
    with pytest.raises(InputError, match="Cannot start local workers with these options"):
        fill_with_workers(records(SEQUENCES), toy_target(store, Toy()), DaskCluster("local", 1, 1, {"walltime": "1"}))


def test_a_cluster_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("kind: slurm\nminimum: 0\nmaximum: 40\noptions:\n  queue: gpu\n  cores: 8\n")
    assert read_cluster_file(file) == DaskCluster("slurm", 0, 40, {"queue": "gpu", "cores": 8})
    file.write_text("kind: local\nmaximum: 3\n")
    assert read_cluster_file(file) == DaskCluster("local", 3, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found no such fields"),
        ("- 1\n", "found no such fields"),
        ("kind: [\n", "it is not YAML"),
        ("kind: sge\nmaximum: 1\n", "expected kind local, slurm, pbs, lsf, found 'sge'"),
        ("kind: local\n", "expected a number of workers as maximum, found None"),
        ("kind: local\nmaximum: true\n", "expected a number of workers as maximum, found True"),
        ("kind: local\nmaximum: 2\nminimum: 3\n", "a cluster of 3 to 2 workers"),
        ("kind: local\nmaximum: 0\n", "a cluster of 0 to 0 workers"),
        ("kind: slurm\nmaximum: 2\nqueue: gpu\n", "found queue. Options of the cluster's class belong under"),
        ("kind: slurm\nmaximum: 2\noptions: 3\n", "expected names and values under options"),
    ],
)
def test_a_cluster_file_of_something_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_cluster_file(tmp_path / "c.yaml")


def test_a_missing_cluster_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_cluster_file(tmp_path / "none.yaml")
