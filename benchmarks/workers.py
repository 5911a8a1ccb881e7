"""Filling with worker processes, against one process that uses as many threads: the whole command, from start to end.

    python -m benchmarks.workers --json

Random weights in the shape of a real model, real proteins, an empty store each time. Both are given the same cores,
they take turns, and the store must hold the same at the end. Workers pay for starting: each loads torch and the model.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.extraction_workload import SHAPES, real_sequences, write_checkpoint
from benchmarks.timing import Task, environment, interleaved, parser, print_report, rounded, scratch_folder
from embedstore.store import SpaceStore

_COMMAND = [sys.executable, "-c", "from embedstore_cli.main import run; run()"]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; print and return the report."""
    options = parser("workers", __doc__)
    options.add_argument("--model-shape", choices=[name for name in SHAPES if name != "dnabert_s"], default="8m")
    options.add_argument("--residues", type=int, default=600_000, help="in all proteins (default: %(default)s)")
    options.add_argument("--workers", type=int, default=2, help="and threads of the one process (default: %(default)s)")
    options.add_argument("--rounds", type=int, default=2, help="(default: %(default)s)")
    given = options.parse_args(arguments)
    described = environment("embedstore", "torch")
    shape = SHAPES[given.model_shape]
    sequences = real_sequences(shape, "real", given.residues, given.seed)
    with scratch_folder(given.directory, 4 << 30) as folder:
        checkpoint, fasta = folder / "checkpoint", folder / "proteins.fasta"
        checkpoint.mkdir()
        write_checkpoint(checkpoint, shape, given.seed)
        fasta.write_bytes(b"".join(b">%d\n%s\n" % numbered for numbered in enumerate(sequences)))
        report = {
            "benchmark": "workers",
            "environment": described,
            "model_shape": given.model_shape,
            "proteins": len(sequences),
            "residues": sum(map(len, sequences)),
            "workers": given.workers,
            "rounds": given.rounds,
            **_measured(folder, fasta, checkpoint, given.workers, given.rounds),
        }
    print_report(report, as_json=given.json)
    return report


def _measured(folder: Path, fasta: Path, checkpoint: Path, workers: int, rounds: int) -> dict[str, Any]:
    numbers = itertools.count()
    loads: list[float] = []
    last: dict[str, Path] = {}
    reports: dict[str, dict[str, Any]] = {}

    def fill(name: str, options: Sequence[str]) -> None:
        loads.append(rounded(os.getloadavg()[0]))
        last[name] = folder / f"store-{next(numbers)}"
        arguments = ["fill", str(fasta), "--model", str(checkpoint), "--store", str(last[name]), "--device", "cpu"]
        command = [*_COMMAND, *arguments, *options, "--json", "--quiet"]
        surroundings = {**os.environ, "OMP_NUM_THREADS": str(workers)}
        output = subprocess.run(command, env=surroundings, check=True, stdout=subprocess.PIPE).stdout
        reports[name] = json.loads(output)

    tasks = {
        "one_process": Task(lambda _: fill("one_process", [])),
        "workers": Task(lambda _: fill("workers", ["--workers", str(workers)])),
    }
    timings = interleaved(tasks, rounds)
    return {
        "workers_to_one_process": timings.ratio("workers", "one_process"),
        "seconds": {name: [rounded(seconds) for seconds in found] for name, found in timings.seconds.items()},
        "compute_seconds": {name: report["compute_seconds"] for name, report in reports.items()},
        "computed": {name: report["computed"] for name, report in reports.items()},
        "load_1_minute_before_each": loads,
        "largest_relative_difference": _largest_difference(last["one_process"], last["workers"]),
    }


def _largest_difference(one: Path, other: Path) -> float:
    """Of any value, relative to the largest of its vector.

    Raises
    ------
    SystemExit : the stores hold vectors of different sequences.
    """
    (first,), (second,) = (SpaceStore.open(place).spaces() for place in (one, other))
    if not np.array_equal(first.keys(), second.keys()):
        raise SystemExit("Expected the same sequences in both stores.")
    vectors, others = (space.read(space.keys()).astype(np.float32) for space in (first, second))
    return rounded(float((np.abs(vectors - others).max(axis=1) / np.abs(vectors).max(axis=1)).max()))


if __name__ == "__main__":
    main()
