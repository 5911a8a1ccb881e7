"""Write vectors durably, from memory: ours against raw bytes and a sync (the limit) and against other layouts.

Ours sort by key, count a checksum for every row and a digest for every file, and read the commit back. The files of
every contender are synced before its time ends.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import OTHERS, OURS, Contender, MemoryMap, fill_random, random_keys
from benchmarks.timing import Task, environment, interleaved, parser, print_report, scratch_folder

_PACKAGES = ("embedstore", "numpy", "zarr", "h5py", "lmdb", "pylance", "google-crc32c")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; print and return the report."""
    options = parser("writing", __doc__)
    options.add_argument("--rows", type=int, default=50_000, help="vectors written (default: %(default)s)")
    options.add_argument("--dim", type=int, default=1280, help="their length (default: %(default)s)")
    options.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    given = options.parse_args(arguments)

    described = environment(*_PACKAGES)
    with scratch_folder(given.directory, 4 * given.rows * given.dim * 4) as folder:
        report = {
            "benchmark": "writing",
            "environment": described,
            "rows": given.rows,
            "dim": given.dim,
            "rounds": given.rounds,
            **_measured(folder, given.rows, given.dim, given.rounds, np.random.default_rng(given.seed)),
        }
    print_report(report, as_json=given.json)
    return report


def _measured(folder: Path, rows: int, dim: int, rounds: int, rng: np.random.Generator) -> dict[str, Any]:
    keys = random_keys(rows, rng)
    vectors = np.empty((rows, dim), np.float32)
    fill_random(vectors, rng)
    numbers = itertools.count()

    def task(kind: type[Contender]) -> Task:
        count = max(1, round(rows * kind.share))

        def write(_round: int) -> None:
            place = folder / f"{kind.name}-{next(numbers)}"
            place.mkdir()
            kind(place).write(keys[:count], vectors[:count])

        return Task(write, rounds=None if kind.share == 1.0 else 3, scale=rows / count, clean=lambda: _empty(folder))

    kinds = [MemoryMap, *OURS, *OTHERS]
    skipped = {kind.name: obstacle for kind in kinds if (obstacle := kind.obstacle())}
    taking_part = [kind for kind in kinds if kind.name not in skipped]
    timings = interleaved({kind.name: task(kind) for kind in taking_part}, rounds)
    ours = [kind.name for kind in OURS]
    slower = max(ours, key=timings.median_s)
    others = [kind.name for kind in taking_part if kind is not MemoryMap and kind not in OURS]
    return {
        "ratio_to_raw_file": timings.ratio(slower, MemoryMap.name),
        "ratio_to_raw_file_by_layout": {name: timings.ratio(name, MemoryMap.name) for name in ours},
        "times_faster": {name: timings.ratio(name, slower) for name in others},
        "milliseconds": timings.milliseconds(),
        "scaled_up_from_rows": {kind.name: max(1, round(rows * kind.share)) for kind in taking_part if kind.share < 1},
        "skipped": skipped,
    }


def _empty(folder: Path) -> None:
    for place in folder.iterdir():
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
