"""A second read through the local store against a plain local read, and a push against a copy of the same files.

The store that is looked up second lies behind `python -m http.server`. The first read fetches from there and keeps what
it finds (pull-through); the second one, by a freshly opened store, should cost what a local store costs.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import urllib3

from benchmarks.contenders import random_keys, toy_recipe
from benchmarks.timing import Task, environment, interleaved, parser, print_report, scratch_folder
from embedstore.library import Store, open_store, publish_index
from embedstore.records import Canaries, EmbeddingBatch, Keys
from embedstore.sharing import push
from embedstore.store import SpaceStore

_SPACE = "benchmark"
_SEGMENT_ROWS = 10_000
_LONGEST_START_S = 20.0


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; print and return the report."""
    options = parser("tiers", __doc__)
    options.add_argument("--rows", type=int, default=50_000, help="vectors in the far store (default: %(default)s)")
    options.add_argument("--dim", type=int, default=1280, help="length of a vector (default: %(default)s)")
    options.add_argument("--queries", type=int, default=10_000, help="vectors asked for (default: %(default)s)")
    options.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    given = options.parse_args(arguments)
    with scratch_folder(given.directory, 5 * given.rows * given.dim * 4) as folder:
        rng = np.random.default_rng(given.seed)
        keys = _written(folder / "far", given.rows, given.dim, rng)
        report = {
            "benchmark": "tiers",
            "environment": environment("embedstore", "numpy", "urllib3"),
            "rows": given.rows,
            "dim": given.dim,
            "queries": given.queries,
            "rounds": given.rounds,
            **_reading(folder, keys[rng.permutation(len(keys))[: given.queries]], given.rounds),
            **_pushing(folder, min(3, given.rounds)),
        }
    print_report(report, as_json=given.json)
    return report


def _reading(folder: Path, asked: Keys, rounds: int) -> dict[str, Any]:
    publish_index(folder / "far")
    with _web_server(folder / "far") as url:

        def opened() -> Store:
            return open_store(folder / "own", create=True, upstream=[url], pull_through=True)

        started = time.perf_counter()
        first = opened().space(_SPACE).read(asked)
        first_s = time.perf_counter() - started
        plain, tiered = Store.open(folder / "own").space(_SPACE), opened().space(_SPACE)
        if not (np.array_equal(first, tiered.read(asked)) and np.array_equal(first, plain.read(asked))):
            raise SystemExit("Expected the vectors of the far store, found others.")
        tasks = {
            "second_read_through_tiers": Task(lambda _: tiered.read(asked)),
            "plain_local_read": Task(lambda _: plain.read(asked)),
            "opened_anew_with_tiers": Task(lambda _: opened().space(_SPACE).read(asked)),
            "opened_anew_plain": Task(lambda _: Store.open(folder / "own").space(_SPACE).read(asked)),
        }
        timings = interleaved(tasks, rounds)
    return {
        "second_read_to_local": timings.ratio("second_read_through_tiers", "plain_local_read"),
        "opened_anew_to_local": timings.ratio("opened_anew_with_tiers", "opened_anew_plain"),
        "first_read_seconds": round(first_s, 3),
        "milliseconds": timings.milliseconds(),
    }


def _pushing(folder: Path, rounds: int) -> dict[str, Any]:
    near = SpaceStore.open(folder / "far")

    def pushed(number: int) -> None:
        copied = push(near, SpaceStore.open(folder / f"pushed{number}", create=True)).copied
        if copied != len(near.space(_SPACE)):
            raise SystemExit(f"Expected all vectors to be copied, found {copied}.")

    def copied(number: int) -> None:
        place = folder / f"copied{number}"
        shutil.copytree(folder / "far", place)
        for path in place.rglob("*"):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    def clean() -> None:
        for place in [*folder.glob("pushed*"), *folder.glob("copied*")]:
            shutil.rmtree(place)

    timings = interleaved({"push": Task(pushed, clean=clean), "copy_and_sync": Task(copied, clean=clean)}, rounds)
    return {
        "push_to_copy": timings.ratio("push", "copy_and_sync"),
        "milliseconds_pushing": timings.milliseconds(),
    }


def _written(place: Path, rows: int, dim: int, rng: np.random.Generator) -> Keys:
    canaries = Canaries(("MKV",), np.ones((1, dim), np.float32))
    space = SpaceStore.open(place, create=True).create_space(toy_recipe(dim), _SPACE, canaries)
    keys = random_keys(rows, rng)
    for start in range(0, rows, _SEGMENT_ROWS):
        some = keys[start : start + _SEGMENT_ROWS]
        space.append(EmbeddingBatch(some, rng.standard_normal((len(some), dim), np.float32).astype(space.dtype)))
    return keys


@contextmanager
def _web_server(folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        urllib3.PoolManager(
            retries=urllib3.Retry(100, backoff_factor=0.01, backoff_max=_LONGEST_START_S / 100)
        ).request("GET", f"{url}/embedstore.json")
        yield url
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
