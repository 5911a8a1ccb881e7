"""Sketch many sequences and find those that are alike: from a FASTA file to pairs, with every tenth one a mutated twin.

Reading, hashing and comparing are timed apart, in the processor seconds of all threads too: on a shared machine these
say more than the time that passes. Raw reading of the file is the limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.memory import with_peak_own
from benchmarks.timing import environment, parser, print_report, rounded, scratch_folder
from embedstore.classify.relatives import DNA, LEAST_DNA, LEAST_SHARED, MOST_HASHES
from embedstore.records import Record
from embedstore.sequences.in_memory import records_of
from embedstore.sequences.sketch import Sketches, SketchIndex, scaled_for, sketch_sources

T = TypeVar("T")

_TWIN_EVERY = 10
_MUTATED = 0.02


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; print and return the report."""
    options = parser("sketching", __doc__)
    options.add_argument("--sources", type=int, default=10_000, help="sequences (default: %(default)s)")
    options.add_argument("--bases", type=int, default=50_000, help="of each (default: %(default)s)")
    options.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    given = options.parse_args(arguments)

    described = environment("embedstore", "numpy", "scipy")
    total = given.sources * given.bases
    with scratch_folder(given.directory, 2 * total) as folder:
        file = folder / "sequences.fna"
        twins = _write(file, given.sources, given.bases, np.random.default_rng(given.seed))
        _, reading = _timed(lambda: sum(len(record.sequence) for record in _records(file)))
        (sketches, sketching), own_bytes = with_peak_own(lambda: _timed(lambda: _sketched(file, given)))
        pairs, comparing = _timed(lambda: _pairs(sketches))
    report = {
        "benchmark": "sketching",
        "environment": described,
        "sources": given.sources,
        "bases": given.bases,
        "threads": given.threads,
        "reading": reading,
        "reading_and_sketching": sketching,
        "comparing": comparing,
        "seconds": rounded(sketching["seconds"] + comparing["seconds"]),
        "megabases_a_processor_second": rounded(
            total / 1e6 / (sketching["processor_seconds"] + comparing["processor_seconds"])
        ),
        "hashes": len(sketches.hashes),
        "peak_own_mib": rounded(own_bytes / 2**20),
        "twins": len(twins),
        "twins_found": len(twins & pairs),
        "others_found": len(pairs - twins),
    }
    print_report(report, as_json=given.json)
    return report


def _write(file: Path, sources: int, bases: int, rng: np.random.Generator) -> set[tuple[int, int]]:
    """Write random sequences; every tenth one is the one before it with 2 % of its bases changed. Return these."""
    letters, twins = np.frombuffer(b"ACGT", np.uint8), set()
    codes = np.empty(bases, np.int64)
    with file.open("wb") as stream:
        for number in range(sources):
            if number % _TWIN_EVERY == _TWIN_EVERY - 1:
                chosen = rng.random(bases) < _MUTATED
                codes = np.where(chosen, (codes + rng.integers(1, 4, bases)) % 4, codes)
                twins.add((number - 1, number))
            else:
                codes = rng.integers(0, 4, bases)
            stream.write(b">%08d\n%s\n" % (number, letters[codes].tobytes()))
    return twins


def _records(file: Path) -> Iterator[Record]:
    return (record for record in records_of(file) if isinstance(record, Record))


def _sketched(file: Path, given: Any) -> Sketches:
    names = [f"{number:08d}" for number in range(given.sources)]
    scaled = scaled_for(np.full(given.sources, given.bases), MOST_HASHES).tolist()
    sources = ((record.id, [record.sequence]) for record in _records(file))
    return sketch_sources(sources, DNA, scaled=dict(zip(names, scaled, strict=True)), threads=given.threads)


def _pairs(sketches: Sketches) -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    for near in SketchIndex(sketches).near(None, LEAST_DNA, least_shared=LEAST_SHARED, of="smaller"):
        found.update(zip(near.first.tolist(), near.second.tolist(), strict=True))
    return found


def _timed(run: Callable[[], T]) -> tuple[T, dict[str, float]]:
    started, used = time.perf_counter(), time.process_time()
    result = run()
    seconds, processor = time.perf_counter() - started, time.process_time() - used
    return result, {"seconds": rounded(seconds), "processor_seconds": rounded(processor)}


if __name__ == "__main__":
    main()
