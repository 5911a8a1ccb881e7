"""Look keys up among millions in hundreds of segments: opening a store in a fresh process, and its memory.

The store is written with the store's own parts, its vectors tiny. The index is then built and published as `fill` does
it. A fresh process opens the store, twice looks up keys of which half are there, and says how much memory that took.
With `--compact` another one then merges the segments, and the first is asked again.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import random_keys, toy_recipe
from benchmarks.memory import resident_bytes, with_peak_own
from benchmarks.timing import environment, parser, print_report, rounded, scratch_folder
from embedstore.records import Canaries, EmbeddingBatch
from embedstore.storage.local import LocalStorage
from embedstore.store import SpaceStore
from embedstore.store.segment_files import SortedRows
from embedstore.store.segments import write_segment
from embedstore.upkeep import compact

_DIM = 2
_SPACE = "benchmark"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; print and return the report."""
    options = parser("index", __doc__)
    options.add_argument("--keys", type=int, default=10_000_000, help="in the store (default: %(default)s)")
    options.add_argument("--segments", type=int, default=300, help="that hold them (default: %(default)s)")
    options.add_argument("--queries", type=int, default=10_000, help="keys looked up (default: %(default)s)")
    options.add_argument("--rounds", type=int, default=5, help="fresh processes (default: %(default)s)")
    options.add_argument("--compact", action="store_true", help="then merge the segments, and look up again")
    options.add_argument("--merge", metavar="STORE", type=Path, help="only merge the segments of this store")
    options.add_argument("--look-up", metavar="STORE", type=Path, help="only open this store and look up")
    given = options.parse_args(arguments)
    if given.look_up or given.merge:
        found = _look_up(given.look_up) if given.look_up else _merge(given.merge)
        print(json.dumps(found))
        return found

    described = environment("embedstore", "numpy", "google-crc32c")
    with scratch_folder(given.directory, 100 * given.keys) as folder:
        build_seconds, index_bytes = _build(folder / "store", given.keys, given.segments, given.queries, given.seed)
        runs = [_fresh_process("--look-up", folder / "store") for _ in range(given.rounds)]
        merged = _compacted(folder / "store", given.rounds) if given.compact else {}
        report = {
            "benchmark": "index",
            "environment": described,
            "keys": given.keys,
            "segments": given.segments,
            "queries": given.queries,
            "rounds": given.rounds,
            **{name: rounded(statistics.median(run[name] for run in runs)) for name in runs[0]},
            "index_build_seconds": rounded(build_seconds),
            "index_mib": rounded(index_bytes / 2**20),
            **merged,
        }
    print_report(report, as_json=given.json)
    return report


def _build(folder: Path, keys: int, segments: int, queries: int, seed: int) -> tuple[float, int]:
    """Write the store, its index, and the queries beside it; return the seconds that the index took, and its size."""
    recipe = toy_recipe(_DIM)
    canaries = Canaries(("M",), np.ones((1, _DIM), np.float32))
    space = SpaceStore.open(folder, create=True).create_space(recipe, _SPACE, canaries)
    storage, place = LocalStorage(folder), f"spaces/{recipe.id}/"
    rng = np.random.default_rng(seed)
    queried = [random_keys(queries - queries // 2, rng)]
    for number, rows in enumerate(_shares(keys, segments)):
        batch = EmbeddingBatch(random_keys(rows, rng), np.zeros((rows, _DIM), np.float32))
        queried.append(batch.keys[: _shares(queries // 2, segments)[number]])
        commit = write_segment(storage, place, SortedRows.of(batch), "zarr", {}).commit(recipe.id, number, {})
        storage.write(f"{place}commits/{commit.id}.json", [commit.to_bytes()])
    np.save(_queries_file(folder), rng.permutation(np.concatenate(queried)))
    started = time.perf_counter()
    space.optimise()
    seconds = time.perf_counter() - started
    return seconds, sum(path.stat().st_size for path in folder.rglob("*.idx"))


def _look_up(folder: Path) -> dict[str, float]:
    keys = np.load(_queries_file(folder))
    before = resident_bytes()
    started = time.perf_counter()
    space = SpaceStore.open(folder).space(_SPACE)
    first = space.contains(keys)
    opened = time.perf_counter()
    again = space.contains(keys)
    ended = time.perf_counter()
    after = resident_bytes()
    if not first.sum() == again.sum() == len(keys) // 2:
        raise SystemExit(f"Expected {len(keys) // 2} of {len(keys)} keys to be found, found {first.sum()}.")
    return {
        "milliseconds_opening_and_look_up": (opened - started) * 1000,
        "milliseconds_look_up_again": (ended - opened) * 1000,
        "resident_growth_mib_own": (after.own - before.own) / 2**20,
        "resident_growth_mib_mapped_files": (after.mapped_files - before.mapped_files) / 2**20,
    }


def _compacted(folder: Path, rounds: int) -> dict[str, Any]:
    """Merge in a fresh process, and look up in others."""
    merged = _fresh_process("--merge", folder)
    runs = [_fresh_process("--look-up", folder) for _ in range(rounds)]
    after = {f"{name}_after_merging": rounded(statistics.median(run[name] for run in runs)) for name in runs[0]}
    return {name: rounded(number) for name, number in merged.items()} | after


def _merge(folder: Path) -> dict[str, float]:
    space = SpaceStore.open(folder).space(_SPACE)
    started = time.perf_counter()
    report, peak = with_peak_own(lambda: compact(space))
    return {
        "merging_seconds": time.perf_counter() - started,
        "merging_peak_own_mib": peak / 2**20,
        "segments_after_merging": report.segments_after,
    }


def _fresh_process(do: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.index", do, str(folder)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def _shares(total: int, parts: int) -> list[int]:
    """Divide a number into parts as equal as whole numbers can be."""
    return np.diff(np.linspace(0, total, parts + 1, dtype=np.int64)).tolist()


def _queries_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-queries.npy")


if __name__ == "__main__":
    main()
