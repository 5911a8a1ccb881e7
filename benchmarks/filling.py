"""Fill a store from a file of proteins: all in the store already, and nothing; and the peak memory of fills.

The limit of a fill that finds everything is a bare loop that parses, makes canonical and hashes: once with Biopython,
once with our own parts. The uncached fill computes `aac_dpc`, which costs next to nothing, and
stores the vectors durably. Memory is that of fresh processes that fill stores from ever longer files.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from Bio.SeqIO.FastaIO import SimpleFastaParser

from benchmarks.memory import resident_bytes, with_peak_own
from benchmarks.proteins import write_proteins
from benchmarks.timing import Task, environment, interleaved, parser, print_report, rounded, scratch_folder
from embedstore.filling import FillReport, fill, find_target
from embedstore.identity import canonical, sequence_key
from embedstore.models.resolution import ModelOptions
from embedstore.records import Record
from embedstore.sequences.reading import read
from embedstore.store import SpaceStore

_MODEL = "aac_dpc"
_PROTEIN_RESIDUES = b"ACDEFGHIKLMNPQRSTVWYBJOUXZ"
_SHORT_LENGTH_RESIDUES = 50
_BYTES_A_PROTEIN = 4000


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; print and return the report."""
    options = parser("filling", __doc__)
    options.add_argument("--proteins", type=int, default=200_000, help="in the file (default: %(default)s)")
    options.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    options.add_argument(
        "--memory-proteins",
        type=int,
        nargs="*",
        default=[20_000, 200_000, 1_000_000],
        help="short proteins in the files whose fills' memory is measured (default: %(default)s)",
    )
    options.add_argument("--fill", type=Path, nargs=2, metavar=("STORE", "FASTA"), help="only fill, as a fresh process")
    given = options.parse_args(arguments)
    if given.fill:
        peak = _fill_as_process(*given.fill)
        print(json.dumps(peak))
        return peak

    described = environment("embedstore", "numpy", "biopython")
    needed_bytes = _BYTES_A_PROTEIN * max(given.proteins, *given.memory_proteins, 0)
    with scratch_folder(given.directory, needed_bytes) as folder:
        report = {
            "benchmark": "filling",
            "environment": described,
            "proteins": given.proteins,
            "rounds": given.rounds,
            **_measured(folder, given.proteins, given.rounds, given.seed),
            "peak_memory": [_memory(folder, count, given.seed) for count in given.memory_proteins],
        }
    print_report(report, as_json=given.json)
    return report


def _measured(folder: Path, proteins: int, rounds: int, seed: int) -> dict[str, Any]:
    fasta = folder / "proteins.fasta"
    write_proteins(fasta, proteins, seed)
    full = folder / "full"
    if _fill(full, fasta).computed != proteins:
        raise SystemExit(f"Expected {proteins} distinct proteins.")
    numbers = itertools.count()
    tasks = {
        "bare_loop_biopython": Task(lambda _: _bare_loop_biopython(fasta)),
        "bare_loop_own_parts": Task(lambda _: _bare_loop_own_parts(fasta)),
        "cached_fill": Task(lambda _: _fill(full, fasta)),
        "uncached_fill": Task(
            lambda _: _fill(folder / f"empty-{next(numbers)}", fasta),
            clean=lambda: [shutil.rmtree(place) for place in folder.glob("empty-*")],
        ),
    }
    timings = interleaved(tasks, rounds)
    shutil.rmtree(full)
    return {
        "cached_to_bare_loop": timings.ratio("cached_fill", "bare_loop_biopython"),
        "cached_to_bare_loop_own_parts": timings.ratio("cached_fill", "bare_loop_own_parts"),
        "uncached_to_cached": timings.ratio("uncached_fill", "cached_fill"),
        "milliseconds": timings.milliseconds(),
    }


def _bare_loop_biopython(fasta: Path) -> list[bytes]:
    keys = []
    with fasta.open(encoding="ascii") as file:
        for _, sequence in SimpleFastaParser(file):
            residues = sequence.upper().encode("ascii")
            if not residues or residues.translate(None, _PROTEIN_RESIDUES):
                raise ValueError(sequence)
            keys.append(hashlib.sha512(residues).digest()[:24])
    return keys


def _bare_loop_own_parts(fasta: Path) -> list[bytes]:
    records = (record for record in read([fasta]) if isinstance(record, Record))
    return [sequence_key(canonical(record.sequence, "protein")) for record in records]


def _fill(store: Path, fasta: Path) -> FillReport:
    """Fill as the command does: the store is opened first."""
    opened = SpaceStore.open(store, create=True)
    return fill(read([fasta]), find_target(opened, _MODEL, ModelOptions()))


def _memory(folder: Path, count: int, seed: int) -> dict[str, float]:
    """Peak memory of an uncached and of a cached fill of short proteins, each in a fresh process."""
    fasta, store = folder / "short.fasta", folder / "short"
    write_proteins(fasta, count, seed, median_length_residues=_SHORT_LENGTH_RESIDUES)
    command = [sys.executable, "-m", "benchmarks.filling", "--fill", str(store), str(fasta)]
    found: dict[str, float] = {"proteins": count, "input_mib": rounded(fasta.stat().st_size / 2**20)}
    for name in ("uncached", "cached"):
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        found |= {f"{name}_{fact}": value for fact, value in json.loads(output).items()}
    fasta.unlink()
    shutil.rmtree(store)
    return found


def _fill_as_process(store: Path, fasta: Path) -> dict[str, float]:
    report, peak_own = with_peak_own(lambda: _fill(store, fasta))
    return {
        "seconds": rounded(report.seconds),
        "peak_own_mib": rounded(peak_own / 2**20),
        "peak_with_mapped_files_mib": rounded(resident_bytes().peak / 2**20),
    }


if __name__ == "__main__":
    main()
