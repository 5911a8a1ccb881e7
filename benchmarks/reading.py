"""Read random vectors by key, warm: ours against a bare memory map (the limit) and against other layouts.

Ours look keys up and check every row; layouts without keys are asked by row number. Each contender's rows are compared
with those of the memory map once, before anything is timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import OTHERS, OURS, Contender, MemoryMap, Query, fill_random, random_keys
from benchmarks.timing import Task, environment, interleaved, parser, print_report, scratch_folder

_PACKAGES = ("embedstore", "numpy", "zarr", "h5py", "lmdb", "pylance", "google-crc32c")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; print and return the report."""
    options = parser("reading", __doc__)
    options.add_argument("--rows", type=int, default=200_000, help="vectors kept (default: %(default)s)")
    options.add_argument("--dim", type=int, default=1280, help="their length (default: %(default)s)")
    options.add_argument("--queries", type=int, default=10_000, help="vectors asked for (default: %(default)s)")
    options.add_argument("--rounds", type=int, default=9, help="(default: %(default)s)")
    given = options.parse_args(arguments)

    described = environment(*_PACKAGES)
    contenders = [MemoryMap, *OURS, *OTHERS]
    with scratch_folder(given.directory, 2 * given.rows * given.dim * 4 * len(contenders)) as folder:
        report = {
            "benchmark": "reading",
            "environment": described,
            "rows": given.rows,
            "dim": given.dim,
            "queries": given.queries,
            "rounds": given.rounds,
            **_measured(contenders, folder, given.rows, given.dim, given.queries, given.rounds, given.seed),
        }
    print_report(report, as_json=given.json)
    return report


def _measured(
    kinds: Sequence[type[Contender]], folder: Path, rows: int, dim: int, count: int, rounds: int, seed: int
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    keys = random_keys(rows, rng)
    queries = [Query(keys[chosen], chosen) for chosen in rng.integers(0, rows, (rounds + 1, count))]
    contenders, skipped = _written(kinds, folder, keys, dim, rng)
    limit = contenders[0]
    for contender in contenders:
        contender.open()
        warm_up = queries[rounds].part(contender.share)
        if not np.array_equal(contender.read(warm_up), limit.read(warm_up)):
            raise SystemExit(f"{contender.name} did not return the vectors that it was given.")

    def task(contender: Contender) -> Task:
        # A slow contender is given a part of the queries in three rounds only.
        in_rounds = None if contender.share == 1.0 else 3
        scale = count / len(queries[0].part(contender.share))
        return Task(lambda number: contender.read(queries[number].part(contender.share)), in_rounds, scale)

    timings = interleaved({contender.name: task(contender) for contender in contenders}, rounds)
    ours = [kind.name for kind in OURS]
    slower = max(ours, key=timings.median_s)
    others = [contender.name for contender in contenders if contender is not limit and contender.name not in ours]
    return {
        "ratio_to_memory_map": timings.ratio(slower, limit.name),
        "ratio_to_memory_map_by_layout": {name: timings.ratio(name, limit.name) for name in ours},
        "times_faster": {name: timings.ratio(name, slower) for name in others},
        "milliseconds": timings.milliseconds(),
        "read_from_disk_mib": timings.disk_mib(),
        "scaled_up_from_queries": {
            contender.name: len(queries[0].part(contender.share)) for contender in contenders if contender.share < 1
        },
        "skipped": skipped,
    }


def _written(
    kinds: Sequence[type[Contender]], folder: Path, keys: np.ndarray, dim: int, rng: np.random.Generator
) -> tuple[list[Contender], dict[str, str]]:
    """Let every contender that can take part write the same vectors."""
    source = np.lib.format.open_memmap(folder / "source.npy", "w+", np.dtype("<f4"), (len(keys), dim))
    fill_random(source, rng)
    contenders, skipped = [], {}
    for kind in kinds:
        obstacle = kind.obstacle()
        if obstacle is not None:
            skipped[kind.name] = obstacle
            continue
        (folder / kind.name).mkdir()
        contender = kind(folder / kind.name)
        contender.write(keys, np.asarray(source))
        contenders.append(contender)
    del source
    (folder / "source.npy").unlink()
    return contenders, skipped


if __name__ == "__main__":
    main()
