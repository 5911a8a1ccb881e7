"""Signals that ask the command to end: what was computed is stored, what is reported is what is stored."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import psutil
import pytest

from embedstore import interruption
from embedstore.filling.summary import Phase
from embedstore.interruption import Interrupted, heeded, kept_handlers, signal_of, uninterrupted
from embedstore.library import Store
from embedstore_cli.main import main

ESM = Path(__file__).resolve().parents[1] / "data" / "esm" / "fastesm2_tiny"
COMMAND = [sys.executable, "-m", "embedstore"]


def write_proteins(path: Path, count: int) -> Path:
    choose = random.Random(count)
    lengths = (choose.randint(200, 600) for _ in range(count))
    sequences = ("M" + "".join(choose.choices("ACDEFGHIKLMNPQRSTVWY", k=length)) for length in lengths)
    path.write_text("".join(f">p{number}\n{sequence}\n" for number, sequence in enumerate(sequences)))
    return path


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start the command in a session of its own, signals as they are by default."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "2")
    environment = {**os.environ, **threads}  # other tests import what sets them
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def stored(place: Path) -> int:
    """Count the vectors of a store that is whole."""
    if not (place / "embedstore.json").exists():
        return 0
    store = Store.open(place)
    assert store.verify(deep=True).problems == []
    return sum(len(space) for space in store.spaces())


def wait_for_model(process: subprocess.Popen[str]) -> None:
    """Wait until a model is at work, for a second or so; importing and loading it takes less than 3 s."""
    watched = psutil.Process(process.pid)
    while watched.cpu_times().user < 4:
        assert process.poll() is None
        time.sleep(0.02)


@pytest.mark.parametrize("moments", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_sigterm_at_random_moments_reports_what_is_stored(tmp_path: Path, moments: int) -> None:
    choose = random.Random(moments)
    fasta = write_proteins(tmp_path / "p.faa", 3000)
    with_vectors = 0
    for moment in range(moments):
        place = tmp_path / f"store{moment}"
        process = start("fill", fasta, "-m", ESM, "-s", place, "--json", "--quiet")
        if moment:
            time.sleep(choose.uniform(0, 3 if moments < 20 else 8))  # after 2 s the model works
        else:
            wait_for_model(process)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
        assert errors in ("", "Interrupted by SIGTERM.\n")
        if not output:  # stopped before there was something to report
            assert process.returncode in (143, -signal.SIGTERM)
            assert stored(place) == 0
            continue
        report = json.loads(output)
        assert (process.returncode, report["interrupted"], report["signal"]) == (143, True, "SIGTERM")
        assert (report["unique"], report["hits"]) == (report["read"], 0)
        assert report["computed"] == stored(place)
        with_vectors += bool(report["computed"])
    assert with_vectors >= moments // 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)],
    ids=["TERM", "HUP", "INT"],
)
def test_a_signal_that_is_sent_twice_at_once_is_one(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    """`timeout` sends it to the command and to its group, a shell that is hung up on does the like."""
    process = start("fill", write_proteins(tmp_path / "p.faa", 3000), "-m", ESM, "-s", tmp_path / "store")
    wait_for_model(process)
    for _ in range(3):
        process.send_signal(sent)
        time.sleep(0.01)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"by {sent.name}; what was computed is stored; the same command continues" in output
    made, *progress = errors.splitlines()
    assert made == f"Made a store at {tmp_path / 'store'}."
    assert all(line.split(",")[0].split(":")[0] in get_args(Phase) for line in progress)
    assert f"computed       {stored(tmp_path / 'store'):,} in" in output


@pytest.mark.slow
def test_hanging_up_is_ignored_under_nohup(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start("fill", write_proteins(tmp_path / "p.faa", 2000), "-m", ESM, "-s", tmp_path / "store", "--json")
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for_model(process)
    process.send_signal(signal.SIGHUP)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, json.loads(output)["computed"]) == (0, 2000)


@pytest.mark.slow
def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    """The first waits for the pack that the model works on, and for the commit: here, a reader that never comes."""
    script = """
import os, sys
from embedstore.store.space import Space
append = Space.append

def slow(self, *arguments):
    print("committing", flush=True)
    os.read(int(sys.argv[1]), 1)
    return append(self, *arguments)

Space.append = slow
from embedstore_cli.main import run
sys.argv[1:] = sys.argv[2:]
run()
"""
    reading, writing = os.pipe()
    fasta = write_proteins(tmp_path / "p.faa", 3000)
    given = ["fill", str(fasta), "-m", str(ESM), "-s", str(tmp_path / "store"), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", script.replace("sys.argv[1]", str(reading)), "", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[reading],
    )
    try:
        assert process.stdout is not None
        wait_for_model(process)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "committing\n"
        time.sleep(interruption._SAME_S)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=10)
    finally:
        process.kill()
        process.communicate()
    os.close(reading)
    os.close(writing)
    assert (process.returncode, output) == (143, "")
    assert errors.endswith("Interrupted by SIGTERM.\n")
    assert stored(tmp_path / "store") == 0


@pytest.mark.slow
@pytest.mark.parametrize("who", ["--workers", "--cluster"])
def test_workers_of_a_job_that_is_cancelled_store_what_they_have(tmp_path: Path, who: str) -> None:
    fasta, cluster = write_proteins(tmp_path / "p.faa", 20_000), tmp_path / "local.yaml"
    cluster.write_text("kind: local\nmaximum: 2\n")
    given = ["fill", fasta, "-m", ESM, "-s", tmp_path / "store", "--json", "--quiet"]
    process = start(*given, who, "2" if who == "--workers" else cluster, "--device", "cpu")
    watched, workers = psutil.Process(process.pid), list[psutil.Process]()
    busy_s = 6 if who == "--workers" else 14  # Dask's workers import more, and start one after the other
    while len(workers) < 2 or any(worker.cpu_times().user < busy_s for worker in workers):
        assert process.poll() is None
        workers = [child for child in watched.children() if "spawn_main" in str(child.cmdline())]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)  # as Slurm does: to all processes of the job
    output, errors = process.communicate(timeout=60)
    report = json.loads(output)
    assert (process.returncode, report["signal"], errors) == (143, "SIGTERM", "")
    assert report["computed"] + report["hits"] == stored(tmp_path / "store") > 0
    assert report["hits"] == 0
    assert not [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_a_shard_that_is_stopped_reports_what_is_stored(tmp_path: Path) -> None:
    fasta = write_proteins(tmp_path / "p.faa", 6000)
    process = start("fill", fasta, "-m", ESM, "-s", tmp_path / "store", "--json", "--quiet", "--shard", "2/2")
    wait_for_model(process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, json.loads(output)["computed"]) == (143, stored(tmp_path / "store"))


def test_commands_that_fill_first_say_what_is_stored(tmp_path: Path) -> None:
    samples = tmp_path / "samples"
    genome = "".join(random.Random(1).choices("ACG", k=400_000))  # no stop codons
    (tmp_path / "g.fna").write_text(f">g\n{genome}\n")
    assert main(["prepare", str(tmp_path / "g.fna"), "-o", str(samples), "--length", "300"]) == 0
    given = [samples / "samples.tsv", "-m", ESM, "-o", tmp_path / "f.npz", "-s", tmp_path / "store", "--fill"]
    process = start("merge", *given, "--device", "cpu")
    wait_for_model(process)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    count = stored(tmp_path / "store")
    assert (process.returncode, output) == (143, "")
    *progress, last = errors.splitlines()
    assert all(line.split(",")[0].split(":")[0] in get_args(Phase) for line in progress)
    assert last == (
        f"Interrupted by SIGTERM. {count:,} vectors computed for space fastesm2_tiny are stored; the same command "
        "continues."
    )
    assert not (tmp_path / "f.npz").exists()


@pytest.mark.slow
def test_a_commit_that_fails_after_a_signal_is_an_error(tmp_path: Path) -> None:
    store = tmp_path / "store"
    process = start("fill", write_proteins(tmp_path / "p.faa", 3000), "-m", ESM, "-s", store, "--json")
    wait_for_model(process)
    space = next((store / "spaces").iterdir())
    (space / "data").mkdir(exist_ok=True)
    limited_to_nothing(process.pid)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    assert "Error: Cannot write" in errors
    assert "Traceback" not in errors
    assert stored(store) == 0


def limited_to_nothing(pid: int) -> None:
    """Let no file that a process writes grow, as on a full disk."""
    import resource

    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))


def test_the_handlers_of_who_calls_the_command_stay(tmp_path: Path) -> None:
    def mine(number: int, frame: object) -> None: ...

    before = {number: signal.getsignal(number) for number in interruption._SIGNALS}
    signal.signal(signal.SIGTERM, mine)
    try:
        with heeded():
            assert signal.getsignal(signal.SIGTERM) is mine
            assert signal.getsignal(signal.SIGHUP) is not before[signal.SIGHUP]
        assert main(["init", str(tmp_path / "store")]) == 0
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before[signal.SIGTERM])
    assert {number: signal.getsignal(number) for number in interruption._SIGNALS} == before


def test_in_another_thread_no_handler_is_touched(tmp_path: Path) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["init", str(tmp_path / "store")])))
    thread.start()
    thread.join()
    assert codes == [0]


def test_signals_are_held_back_until_it_is_done() -> None:
    done: list[str] = []

    def work() -> None:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("first")
            with uninterrupted():
                os.kill(os.getpid(), signal.SIGHUP)
            done.append("last")

    with heeded(), pytest.raises(Interrupted) as caught:
        work()
    assert (signal_of(caught.value), done) == ("SIGTERM", ["first", "last"])


def test_a_signal_that_comes_in_the_middle_of_an_import_waits_for_its_end(tmp_path: Path) -> None:
    (tmp_path / "slowly_imported.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(0.2)\nis_done = True\n"
    )
    script = """
import time
from embedstore.interruption import Interrupted, heeded
try:
    with heeded():
        import slowly_imported
        time.sleep(10)
except Interrupted as stop:
    assert slowly_imported.is_done
    print(stop.signal)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(tmp_path)])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("SIGTERM\n", "")


def test_a_signal_that_comes_in_a_callback_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    class Last:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)

    def work() -> None:
        Last()
        time.sleep(10)

    with heeded(), pytest.raises(Interrupted):
        work()
    assert capsys.readouterr().err == ""


def test_ctrl_c_of_python_is_held_back_too() -> None:
    done: list[str] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def work() -> None:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("all")

    with pytest.raises(KeyboardInterrupt) as caught:
        work()
    signal.signal(signal.SIGINT, before)
    assert (signal_of(caught.value), done) == ("SIGINT", ["all"])


def test_importing_changes_no_handler() -> None:
    imports: Sequence[str] = ("embedstore", "embedstore.distributed", "embedstore_cli.main")
    script = f"""
import importlib, signal
numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
before = [signal.getsignal(number) for number in numbers]
for name in {imports!r}:
    importlib.import_module(name)
from embedstore.distributed import dask_workers
dask_workers._imported("dask_jobqueue")
assert [signal.getsignal(number) for number in numbers] == before
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_handlers_that_an_import_replaces_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with kept_handlers():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) is before
