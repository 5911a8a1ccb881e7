"""A real Slurm of one node on the loopback: jobs that are cancelled, and a fill whose workers are jobs, interrupted."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from embedstore.library import Store

pytestmark = pytest.mark.slow
pytest.importorskip("dask_jobqueue", reason="needs the extra `cluster`")

ESM = Path(__file__).resolve().parents[1] / "data" / "esm" / "fastesm2_tiny"
COMMAND = [sys.executable, "-m", "embedstore"]
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
_START_S = 30.0

CONFIGURATION = """
ClusterName=embedstore
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SlurmdParameters=config_overrides
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True, slots=True)
class Slurm:
    """A running Slurm; its commands find it by the environment."""

    environment: dict[str, str]

    def run(self, *command: str | Path) -> str:
        return subprocess.run(
            list(map(str, command)), env=self.environment, check=True, capture_output=True, text=True, timeout=60
        ).stdout

    def jobs(self) -> int:
        """Count the jobs that run or wait."""
        return len(self.run("squeue", "--noheader").splitlines())


def program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        pytest.skip(f"needs {name}: as root, apt-get install slurm-wlm munge")
    return found


def wait_until(is_so: Callable[[], bool], seconds: float, what: str) -> None:
    until_s = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until_s, what
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def running(log: Path, environment: dict[str, str], *command: str | Path) -> Iterator[None]:
    with log.open("w") as stream:
        process = subprocess.Popen(list(map(str, command)), env=environment, stdout=stream, stderr=stream)
    try:
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    munged, controller, node = map(program, ("munged", "slurmctld", "slurmd"))
    if os.getuid() != 0:
        pytest.skip("needs root, as whom Slurm starts jobs")
    folder = tmp_path_factory.mktemp("slurm")
    host = socket.gethostname().split(".")[0]
    file = folder / "slurm.conf"
    ports = {"controller_port": free_port(), "node_port": free_port()}
    file.write_text(CONFIGURATION.format(host=host, folder=folder, **ports))
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(random.randbytes(1024))
    (folder / "munge.key").chmod(0o400)
    paths = os.pathsep.join(path for path in sys.path if path)
    found = Slurm({**os.environ, "PATH": _PATH, "SLURM_CONF": str(file), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"})
    munge_files = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("key-file", "socket", "pid-file")]
    munge_files += [f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
    with contextlib.ExitStack() as stack:
        start = [("munged", [munged, "--foreground", "--force", *munge_files])]
        start += [("slurmctld", [controller, "-D", "-f", file]), ("slurmd", [node, "-D", "-f", file, "-N", host])]
        for name, command in start:
            stack.enter_context(running(folder / f"{name}.out", found.environment, *command))
            wait_until((folder / "munge.socket").exists, _START_S, (folder / "munged.out").read_text())
        idle = ["sinfo", "--noheader", "--format=%t"]
        wait_until(
            lambda: (
                subprocess.run(idle, env=found.environment, capture_output=True, text=True, check=False).stdout
                == "idle\n"
            ),
            _START_S,
            f"Slurm does not start: see {folder}",
        )
        try:
            yield found
        finally:
            found.run("scancel", "--user", "root")
            wait_until(lambda: found.jobs() == 0, 60, "jobs are left")


@pytest.fixture(scope="module")
def fasta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Proteins that take the model minutes."""
    file = tmp_path_factory.mktemp("input") / "p.faa"
    choose = random.Random(0)
    sequences = (
        "M" + "".join(choose.choices("ACDEFGHIKLMNPQRSTVWY", k=choose.randint(100, 600))) for _ in range(20_000)
    )
    file.write_text("".join(f">p{number}\n{sequence}\n" for number, sequence in enumerate(sequences)))
    return file


def stored(place: Path) -> int:
    store = Store.open(place)
    assert store.verify(deep=True).problems == []
    return len(store.space("fastesm2_tiny"))


@pytest.mark.parametrize("more", [[], ["--workers", "2"]], ids=["alone", "workers"])
def test_scancel_stores_what_was_computed(slurm: Slurm, fasta: Path, tmp_path: Path, more: list[str]) -> None:
    place, script = tmp_path / "store", tmp_path / "job.sh"
    given = ["fill", str(fasta), "-m", str(ESM), "-s", str(place), "--device", "cpu", "--json", "--quiet", *more]
    script.write_text(f"#!/bin/bash\nexec {' '.join(COMMAND)} {' '.join(given)} > {tmp_path}/report.json\n")
    job = slurm.run("sbatch", "--parsable", f"--output={tmp_path}/job.log", script).strip()
    wait_until(lambda: seconds_of_the_busiest(str(place)) > 6, 120, "the job does not compute")
    slurm.run("scancel", job)
    wait_until(lambda: slurm.jobs() == 0, 60, "the job does not end")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["signal"], report["interrupted"]) == ("SIGTERM", True)
    assert report["computed"] + report["hits"] == stored(place) > 0
    assert re.search(r"ExitCode=(\S+)", slurm.run("scontrol", "show", "job", job))[1] == "143:0"
    assert "Traceback" not in (tmp_path / "job.log").read_text()


def seconds_of_the_busiest(place: str) -> float:
    """Processor time of the command that fills a store, or of the worker of it that has used the least."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if place in command and "embedstore" in command:
            with contextlib.suppress(psutil.NoSuchProcess):
                workers = [child for child in process.children() if "spawn_main" in str(child.cmdline())]
                wanted = 2 if "--workers" in command else 0
                return 0.0 if len(workers) < wanted else min(each.cpu_times().user for each in workers or [process])
    return 0.0


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"])
def test_a_fill_whose_workers_are_jobs_can_be_interrupted(
    slurm: Slurm, fasta: Path, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    place, cluster = tmp_path / "store", tmp_path / "slurm.yaml"
    options = {
        "cores": 1,
        "memory": "4GB",
        "local_directory": str(tmp_path),
        "log_directory": str(tmp_path / "logs"),
        "scheduler_options": {"host": "127.0.0.1", "dashboard_address": ":0"},
    }
    cluster.write_text(json.dumps({"kind": "slurm", "minimum": 2, "maximum": 2, "options": options}))
    given = ["fill", fasta, "-m", ESM, "-s", place, "--device", "cpu", "--json", "--quiet", "--cluster", cluster]
    process = subprocess.Popen(
        [*COMMAND, *map(str, given)],
        env=slurm.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def have_stored() -> bool:
        assert process.poll() is None, process.communicate()
        return len(list(place.glob("spaces/*/commits/*.json"))) >= 2

    wait_until(have_stored, 180, "the jobs compute nothing")
    process.send_signal(sent)
    output, errors = process.communicate(timeout=90)
    report = json.loads(output)
    assert (process.returncode, report["signal"], errors) == (code, sent.name, "")
    assert report["computed"] + report["hits"] == stored(place)
    assert report["computed"] > 0
    wait_until(lambda: slurm.jobs() == 0, 60, "its jobs are left")
