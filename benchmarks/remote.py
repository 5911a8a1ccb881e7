"""Read a store from an S3 server on the loopback: random rows against a download of as many bytes in one piece.

Two workloads: every second row of a segment (dense), and few of many (sparse). Three servers: moto, an S3 server in
Python; a server of files that answers like S3 and costs little; and that one with a delay before each answer, as object
stores have it. Cold is a freshly opened store, with its commits, index and keys; warm is the same store
again. Every answer is compared with what the local store reads. At last, a store of very many segments is opened and
asked, locally and from the server of files.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import urllib3
from obstore.store import S3Store

from benchmarks.contenders import random_keys, toy_recipe
from benchmarks.timing import (
    Task,
    Timings,
    environment,
    installed_version,
    interleaved,
    parser,
    print_report,
    scratch_folder,
)
from embedstore.records import Canaries, EmbeddingBatch, Keys
from embedstore.storage.local import LocalStorage
from embedstore.storage.objects import ObjectStorage
from embedstore.storage.ranges import GAP_BYTES, REQUEST_BYTES, REQUESTS_AT_ONCE
from embedstore.store import Space, SpaceStore
from embedstore.store.segment_files import SortedRows
from embedstore.store.segments import write_segment
from embedstore.upkeep.web_index import publish_web_index

_SPACE = "benchmark"
_BUCKET = "benchmark"
_PIECE = "one-piece"
_SMALL_ROWS = 10
_MOTO = (
    "import sys; from moto.server import ThreadedMotoServer as S; s = S('127.0.0.1', 0, verbose=False); s.start();"
    "print('http://%s:%d' % s.get_host_and_port(), flush=True); sys.stdin.read()"
)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; print and return the report."""
    options = parser("remote", __doc__)
    options.add_argument("--dim", type=int, default=1280, help="length of a vector (default: %(default)s)")
    options.add_argument("--queries", type=int, default=10_000, help="vectors asked for (default: %(default)s)")
    options.add_argument(
        "--sparse", type=int, default=10, help="one row in how many is asked for (default: %(default)s)"
    )
    options.add_argument("--delay-ms", type=float, default=30, help="of an object store (default: %(default)s)")
    options.add_argument("--segments", type=int, default=1000, help="of the last store (default: %(default)s)")
    options.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    given = options.parse_args(arguments)

    described = environment("embedstore", "numpy", "obstore", "moto")
    with scratch_folder(given.directory, 8 * given.queries * given.sparse * given.dim * 4) as folder:
        report = {
            "benchmark": "remote",
            "environment": described,
            "dim": given.dim,
            "queries": given.queries,
            "rounds": given.rounds,
            "requests_at_once": REQUESTS_AT_ONCE,
            "gap_kib": GAP_BYTES >> 10,
            "request_mib": REQUEST_BYTES >> 20,
            **_reading(folder, given.queries, given.dim, given.sparse, given.delay_ms / 1000, given.rounds, given.seed),
            **_opening(folder / "segments", given.segments, given.delay_ms / 1000, given.rounds, given.seed),
        }
    print_report(report, as_json=given.json)
    return report


def _reading(
    folder: Path, count: int, dim: int, sparse: int, delay_s: float, rounds: int, seed: int
) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(seed)
    report: dict[str, dict[str, Any]] = {}
    for name, share in (("dense", 2), ("sparse", sparse)):
        place = folder / name
        keys = _written(place, count * share, dim, rng)
        (place / _PIECE).write_bytes(rng.bytes(count * dim * 4))
        queries = [keys[rng.permutation(len(keys))[:count]] for _ in range(rounds)]
        kinds = {"files": _files_server(place, 0.0), "files_with_delay": _files_server(place, delay_s)}
        if installed_version("moto"):
            kinds["moto"] = _moto_server(place)
        report[name] = {kind: _measured(server, place, queries) for kind, server in kinds.items()}
    return report


def _measured(server: Callable[[], Any], place: Path, queries: Sequence[Keys]) -> dict[str, float]:
    local = SpaceStore.open(place).space(_SPACE)
    with server():
        warm = _opened()
        if not np.array_equal(warm.read(queries[0]), local.read(queries[0])):
            raise SystemExit("Expected the vectors of the local store from the server, found others.")
        bucket = S3Store(_BUCKET, client_options={"allow_http": True})
        data = max((path for path in place.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        tasks = {
            "cold": Task(lambda number: _opened().read(queries[number])),
            "warm": Task(lambda number: warm.read(queries[number])),
            "as_many_bytes_in_one_piece": Task(lambda number: _download(bucket, _PIECE)),
            "the_largest_file_in_one_piece": Task(lambda number: _download(bucket, str(data.relative_to(place)))),
        }
        timings = interleaved(tasks, len(queries))
    return _figures(timings)


def _figures(timings: Timings) -> dict[str, float]:
    piece = "as_many_bytes_in_one_piece"
    ratios = {f"{name}_to_one_piece": timings.ratio(name, piece) for name in ("cold", "warm")}
    return {**ratios, **{f"milliseconds_{name}": value for name, value in timings.milliseconds().items()}}


def _opening(place: Path, segments: int, delay_s: float, rounds: int, seed: int) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(seed)
    storage = LocalStorage(place)
    space = SpaceStore(storage, create=True).create_space(toy_recipe(2), _SPACE, _canaries(2))
    keys = _write_segments(storage, space, segments, rng)
    queries = keys[rng.permutation(len(keys))[: min(1000, len(keys))]]

    def ask(opened: Space) -> None:
        if not opened.contains(queries).all():
            raise SystemExit("Expected all keys to be found.")

    def measured(prefix: str) -> dict[str, float]:
        found = {}
        for name, server in (("files", _files_server(place, 0.0)), ("files_with_delay", _files_server(place, delay_s))):
            with server():
                web = f"{os.environ['AWS_ENDPOINT_URL']}/{_BUCKET}"
                tasks = {
                    "local": Task(lambda number: ask(SpaceStore.open(place).space(_SPACE))),
                    name: Task(lambda number: ask(_opened())),
                    f"web_{name}": Task(lambda number, web=web: ask(SpaceStore.open(web).space(_SPACE))),
                }
                found.update(interleaved(tasks, rounds).milliseconds())
        return {f"{prefix}_{name}": value for name, value in found.items()}

    publish_web_index(storage)
    without = measured("without_index")
    space.refresh()
    space.optimise()
    publish_web_index(storage)
    return {f"milliseconds_opening_{segments}_segments": {**without, **measured("with_index")}}


def _write_segments(storage: LocalStorage, space: Space, segments: int, rng: np.random.Generator) -> Keys:
    """Write segments of ten rows each; return all keys."""
    place, keys = f"spaces/{space.id}/", []
    for number in range(segments):
        rows = EmbeddingBatch(random_keys(_SMALL_ROWS, rng), np.zeros((_SMALL_ROWS, space.dim), np.float32))
        keys.append(rows.keys)
        commit = write_segment(storage, place, SortedRows.of(rows), "zarr", {}).commit(space.id, number, {})
        storage.write(f"{place}commits/{commit.id}.json", [commit.to_bytes()])
    return np.concatenate(keys)


def _opened() -> Space:
    return SpaceStore(ObjectStorage(f"s3://{_BUCKET}")).space(_SPACE)


def _download(bucket: S3Store, name: str) -> int:
    return len(np.frombuffer(obstore.get(bucket, name).bytes(), np.uint8))


def _written(place: Path, rows: int, dim: int, rng: np.random.Generator) -> Keys:
    """Write a store of one segment."""
    keys = random_keys(rows, rng)
    space = SpaceStore.open(place, create=True).create_space(toy_recipe(dim), _SPACE, _canaries(dim))
    space.append(EmbeddingBatch(keys, rng.standard_normal((rows, dim), dtype=np.float32)))
    space.optimise()
    return keys


def _canaries(dim: int) -> Canaries:
    return Canaries(("M",), np.ones((1, dim), np.float32))


def _files_server(place: Path, delay_s: float) -> Callable[[], Any]:
    command = [sys.executable, "-m", "benchmarks.object_server", str(place), str(delay_s)]

    @contextmanager
    def serve() -> Iterator[None]:
        with _running(command):
            yield

    return serve


def _moto_server(place: Path) -> Callable[[], Any]:
    @contextmanager
    def serve() -> Iterator[None]:
        with _running([sys.executable, "-c", _MOTO]) as url:
            urllib3.request("PUT", f"{url}/{_BUCKET}")
            remote, local = ObjectStorage(f"s3://{_BUCKET}"), LocalStorage(place)
            for entry in local.walk(""):
                remote.write(entry.name, [local.open(entry.name, entry.size_bytes).bytes(0, entry.size_bytes)])
            yield

    return serve


@contextmanager
def _running(command: Sequence[str]) -> Iterator[str]:
    """Run a server, with the variables of the environment pointed at it."""
    before = dict(os.environ)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            url = process.stdout.readline().strip() if process.stdout else ""
            os.environ.update(dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "benchmark"))
            os.environ["AWS_ENDPOINT_URL"] = url
            yield url
        finally:
            process.kill()
            os.environ.clear()
            os.environ.update(before)


if __name__ == "__main__":
    main()
