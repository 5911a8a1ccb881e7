"""Cut genomes into samples: six frames against a dictionary of codons and Biopython; the whole command; its memory.

The dictionary is how VirNucPro translates: a look-up a codon, six strings a chunk, of which those without a stop are
kept. All contenders give the same proteins of the same chunks, which is checked. Half of the chunks are made of sense
codons, so that about as many frames are open as in virus genomes. Memory is that of fresh processes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from Bio.Data import CodonTable
from Bio.Seq import Seq

from benchmarks.memory import resident_bytes
from benchmarks.timing import Task, environment, interleaved, parser, print_report, rounded, scratch_folder
from embedstore.samples import prepare
from embedstore.sequences.translation import FRAMES, Bounds, SixFrames, frame_spans, genetic_code

_CHUNK_BASES = 500
_WINDOW_CHUNKS = 1000
_CONTIG_CHUNKS = 40
_CONTIG_BASES = _CONTIG_CHUNKS * _CHUNK_BASES
_BYTES_A_BASE = 6
_BIOPYTHON_SHARE = 0.05

_BASES = "TCAG"
_CODONS = [first + second + third for first in _BASES for second in _BASES for third in _BASES]
_STANDARD = CodonTable.unambiguous_dna_by_id[1]
_RESIDUES: dict[str, str] = {codon: _STANDARD.forward_table.get(codon, "*") for codon in _CODONS}
_COMPLEMENTS = str.maketrans("ACGT", "TGCA")

Proteins = list[bytes]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; print and return the report."""
    options = parser("preparing", __doc__)
    options.add_argument("--chunks", type=int, default=20_000, help="of 500 bases (default: %(default)s)")
    options.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    options.add_argument(
        "--memory-megabases",
        type=int,
        nargs="*",
        default=[10, 40, 160],
        help="sizes of the inputs whose peak memory is measured (default: %(default)s)",
    )
    options.add_argument(
        "--prepare", type=Path, nargs=2, metavar=("FASTA", "DIR"), help="only prepare, in this process"
    )
    given = options.parse_args(arguments)
    if given.prepare:
        peak = _prepare_as_process(*given.prepare)
        print(json.dumps(peak))
        return peak

    described = environment("embedstore", "numpy", "biopython")
    needed_bytes = _BYTES_A_BASE * max(given.chunks * _CHUNK_BASES, *(1_000_000 * n for n in given.memory_megabases), 0)
    with scratch_folder(given.directory, needed_bytes) as folder:
        report = {
            "benchmark": "preparing",
            "environment": described,
            "chunks": given.chunks,
            "chunk_bases": _CHUNK_BASES,
            "rounds": given.rounds,
            **_measured(folder, given.chunks, given.rounds, given.seed),
            "peak_memory": [_memory(folder, megabases, given.seed) for megabases in given.memory_megabases],
        }
    print_report(report, as_json=given.json)
    return report


def _measured(folder: Path, count: int, rounds: int, seed: int) -> dict[str, Any]:
    chunks = _chunks(count, np.random.default_rng(seed))
    fasta = folder / "chunks.fna"
    contigs = [b"".join(chunks[first : first + _CONTIG_CHUNKS]) for first in range(0, count, _CONTIG_CHUNKS)]
    fasta.write_bytes(b"".join([b">%d\n%b\n" % (number, contig) for number, contig in enumerate(contigs)]))
    few = chunks[: max(1, int(count * _BIOPYTHON_SHARE))]
    expected = _by_dictionary(chunks)
    for name, found in (("table", _by_table(chunks)), ("Biopython", _by_biopython(few))):
        if found != expected[: len(found)] or (name == "table" and len(found) != len(expected)):
            raise SystemExit(f"Expected one result, found that the {name} gives other proteins than the dictionary.")
    tasks = {
        "dictionary": Task(lambda _: _by_dictionary(chunks)),
        "biopython": Task(lambda _: _by_biopython(few), scale=len(chunks) / len(few), rounds=1),
        "table": Task(lambda _: _by_table(chunks)),
        "table_all_six_frames": Task(lambda _: _by_table(chunks, only_open=False)),
        "whole_prepare": Task(lambda _: prepare([fasta], folder / "prepared")),
    }
    timings = interleaved(tasks, rounds)
    return {
        "open_frames": len(expected),
        "dictionary_to_table": timings.ratio("dictionary", "table"),
        "dictionary_to_table_all_six_frames": timings.ratio("dictionary", "table_all_six_frames"),
        "dictionary_to_whole_prepare": timings.ratio("dictionary", "whole_prepare"),
        "biopython_to_table": timings.ratio("biopython", "table"),
        "milliseconds": timings.milliseconds(),
    }


def _by_dictionary(chunks: Sequence[bytes]) -> Proteins:
    proteins = []
    for chunk in chunks:
        forward = chunk.decode()
        for strand in (forward, forward.translate(_COMPLEMENTS)[::-1]):
            for first in range(3):
                codons = (strand[place : place + 3] for place in range(first, len(strand) - 2, 3))
                protein = "".join(_RESIDUES.get(codon, "") for codon in codons)
                if "*" not in protein:
                    proteins.append(protein.encode())
    return proteins


def _by_biopython(chunks: Sequence[bytes]) -> Proteins:
    proteins = []
    for chunk in chunks:
        forward = Seq(chunk)
        for strand in (forward, forward.reverse_complement()):
            for first in range(3):
                protein = bytes(strand[first : first + (len(strand) - first) // 3 * 3].translate())
                if b"*" not in protein:
                    proteins.append(protein)
    return proteins


def _by_table(chunks: Sequence[bytes], *, only_open: bool = True) -> Proteins:
    code = genetic_code(1)
    proteins = []
    for first in range(0, len(chunks), _WINDOW_CHUNKS):
        part = chunks[first : first + _WINDOW_CHUNKS]
        spans = frame_spans(_bounds(part))
        frames = SixFrames(b"".join(part), code)
        is_wanted = frames.open_frames(spans) if only_open else np.ones(spans.shape[:2], dtype=np.bool_)
        which, places = np.nonzero(is_wanted)
        for (start, end), place in zip(spans[which, places].tolist(), places.tolist(), strict=True):
            proteins.append(frames.protein(start, end, FRAMES[place][0]))
    return proteins


def _bounds(chunks: Sequence[bytes]) -> Bounds:
    ends = np.cumsum([len(chunk) for chunk in chunks])
    return np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)


def _chunks(count: int, random: np.random.Generator) -> list[bytes]:
    sense = np.array([codon.encode() for codon in _CODONS if _RESIDUES[codon] != "*"])
    chunks = []
    for number in range(count):
        codons = sense if number % 2 else np.array([codon.encode() for codon in _CODONS])
        chunks.append(b"".join(random.choice(codons, size=_CHUNK_BASES // 3 + 1).tolist())[:_CHUNK_BASES])
    return chunks


def _memory(folder: Path, megabases: int, seed: int) -> dict[str, float]:
    """Peak memory of preparing contigs in a fresh process."""
    fasta, output = folder / "contigs.fna", folder / "contigs"
    random = np.random.default_rng(seed)
    bases = np.frombuffer(b"ACGT", dtype=np.uint8)
    with fasta.open("wb") as stream:
        for number in range(megabases * 1_000_000 // _CONTIG_BASES):
            stream.write(b">contig%d\n%b\n" % (number, bases[random.integers(0, 4, _CONTIG_BASES)].tobytes()))
    command = [sys.executable, "-m", "benchmarks.preparing", "--prepare", str(fasta), str(output)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    fasta.unlink()
    return {"megabases": megabases, **found}


def _prepare_as_process(fasta: Path, output: Path) -> dict[str, float]:
    report = prepare([fasta], output)
    return {"seconds": rounded(report.seconds), "peak_mib": rounded(resident_bytes().peak / 2**20)}


if __name__ == "__main__":
    main()
