"""Timing that a busy machine disturbs little: contenders take turns in every round, and medians are compared."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_BLOCK_BYTES = 512  # in which getrusage counts, on any disk


@dataclass(frozen=True, slots=True)
class Task:
    """Something to be timed.

    Attributes
    ----------
    run : called with the number of the round.
    rounds : in how many rounds it takes part; None: in all.
    scale : what its time is multiplied by, for a task that is given a part of the work only.
    clean : called after each run, untimed.
    """

    run: Callable[[int], object]
    rounds: int | None = None
    scale: float = 1.0
    clean: Callable[[], object] | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Measurements of each task, a list with one number for each round that it took part in.

    Attributes
    ----------
    seconds : elapsed.
    disk_bytes : read from a disk meanwhile; zero if all was warm.
    """

    seconds: dict[str, list[float]]
    disk_bytes: dict[str, list[int]]

    def median_s(self, name: str) -> float:
        """Median over the rounds."""
        return statistics.median(self.seconds[name])

    def milliseconds(self) -> dict[str, float]:
        """Medians of all tasks, fastest first."""
        medians = {name: rounded(self.median_s(name) * 1000) for name in self.seconds}
        return dict(sorted(medians.items(), key=lambda item: item[1]))

    def disk_mib(self) -> dict[str, float]:
        """Sums over all rounds, of those tasks that read from a disk."""
        sums = {name: rounded(sum(counts) / 2**20) for name, counts in self.disk_bytes.items()}
        return {name: total for name, total in sums.items() if total}

    def ratio(self, name: str, other: str) -> float:
        """How many times longer `name` takes than `other`."""
        return rounded(self.median_s(name) / self.median_s(other))


def interleaved(tasks: Mapping[str, Task], rounds: int) -> Timings:
    """Time tasks in turns, in every round beginning with another one, so that what disturbs one disturbs all."""
    timings = Timings({name: [] for name in tasks}, {name: [] for name in tasks})
    names = list(tasks)
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            task = tasks[name]
            if task.rounds is None or number < task.rounds:
                blocks = resource.getrusage(resource.RUSAGE_SELF).ru_inblock
                started = time.perf_counter()
                task.run(number)
                timings.seconds[name].append((time.perf_counter() - started) * task.scale)
                blocks = resource.getrusage(resource.RUSAGE_SELF).ru_inblock - blocks
                timings.disk_bytes[name].append(blocks * _BLOCK_BYTES)
                if task.clean is not None:
                    task.clean()
    return timings


def rounded(number: float) -> float:
    """Three significant digits: no more of a time on a shared machine means anything."""
    return float(f"{number:.3g}")


def environment(*packages: str) -> dict[str, Any]:
    """Describe the machine, its load now, and the versions of packages."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": rounded(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": f"{platform.system()} {platform.release()}",
        "load_1_minute_before": rounded(os.getloadavg()[0]),
        "python": platform.python_version(),
        "packages": {name: found for name in packages if (found := installed_version(name))},
    }


def installed_version(package: str) -> str | None:
    """Version of a package, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextmanager
def scratch_folder(directory: str | None, needed_bytes: int) -> Iterator[Path]:
    """Make a temporary folder that has room, and remove it afterwards.

    Raises
    ------
    SystemExit : not enough disk is free.
    """
    with tempfile.TemporaryDirectory(prefix="embedstore-benchmark-", dir=directory) as folder:
        free_bytes = shutil.disk_usage(folder).free
        if free_bytes < needed_bytes:
            raise SystemExit(
                f"Cannot run the benchmark in {folder}: expected {needed_bytes / 2**30:.1f} GiB of free disk, found "
                f"{free_bytes / 2**30:.1f}. Choose another place with --directory, or smaller sizes."
            )
        yield Path(folder)


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Make the parser of one benchmark with the options that all have."""
    options = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=description)
    options.add_argument("--directory", help="where the temporary data goes (default: the system's temporary folder)")
    options.add_argument("--seed", type=int, default=1, help="of the synthetic data (default: %(default)s)")
    options.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return options


def print_report(report: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a report: mappings as tables, the rest as lines."""
    if as_json:
        print(json.dumps(report, indent=1))
        return
    console = Console()
    for name, value in report.items():
        title = name.replace("_", " ")
        if isinstance(value, Mapping):
            table = Table(title=title, title_justify="left", show_header=False)
            for key, entry in value.items():
                table.add_row(str(key).replace("_", " "), json.dumps(entry) if isinstance(entry, dict) else str(entry))
            console.print(table)
        else:
            console.print(f"{title}: {value}")
