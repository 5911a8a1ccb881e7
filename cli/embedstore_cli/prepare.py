"""embedstore prepare: cut genomes and contigs into samples."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options

if TYPE_CHECKING:
    from embedstore.samples import PrepareCounts, PrepareReport
    from embedstore.samples.preparing import OnProgress

_LINE_EVERY_S = 30.0


class GroupBy(StrEnum):
    """What is one group: a genome."""

    file = "file"
    record = "record"


class Compat(StrEnum):
    """Whose output is reproduced."""

    virnucpro = "virnucpro"


def prepare(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="[LABEL=]INPUT...",
            help="A file or a folder of FASTA, FASTQ or GenBank, plain or compressed; - is standard input.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the samples.")],
    length: Annotated[int, typer.Option("--length", metavar="N", min=3, help="Bases of a chunk.")] = 500,
    genetic_code: Annotated[
        int, typer.Option("--genetic-code", metavar="N", help="NCBI translation table; 11: bacteria, phages.")
    ] = 1,
    min_length: Annotated[
        int | None,
        typer.Option("--min-length", metavar="N", min=0, help="Drop shorter sequences. Default: 60."),
    ] = None,
    group_by: Annotated[
        GroupBy | None,
        typer.Option("--group-by", help="What is one genome. Default: each file of a folder, each record of a file."),
    ] = None,
    compat: Annotated[
        Compat | None, typer.Option("--compat", help="Write what VirNucPro would write, byte for byte.")
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Cut genomes into chunks, and their stop-free frames into samples.

    Writes samples.tsv, dna.fna, protein.faa and prepare.json into DIR, all or none of them.
    """
    from embedstore.samples import PrepareOptions
    from embedstore.samples import prepare as prepare_samples
    from embedstore_cli.output import write_json

    choices = PrepareOptions(
        length_bases=length,
        genetic_code=genetic_code,
        min_length_bases=min_length,
        group_by=None if group_by is None else group_by.value,
        compat=None if compat is None else "virnucpro",
    )
    with _shown(quiet=quiet) as on_progress:
        report = prepare_samples(inputs, output, choices, on_progress=on_progress)
    if json:
        write_json(report.to_json())
    else:
        _write_text(report, quiet=quiet)
    raise typer.Exit(0 if report.complete else 3)


def _write_text(report: PrepareReport, *, quiet: bool) -> None:
    from embedstore_cli.output import count, duration, list_rejections, notice, write_facts

    list_rejections(report.rejected, "rejected")
    if quiet:
        return
    if report.skipped:
        notice(f"left out {count(len(report.skipped))} files of folders, not called like DNA, as {report.skipped[0]}")
    counts = report.counts
    facts = [
        ("read", f"{count(counts.sequences)} sequences, {count(counts.bases)} bases, {count(report.files)} files"),
        ("chunks", f"{count(counts.chunks)} of {count(report.options.length_bases)} bases"),
        *[(f"dropped, {reason}", count(number)) for reason, number in counts.dropped.items() if number],
        ("samples", count(counts.samples)),
        *[(f"labelled {label}", count(number)) for label, number in counts.samples_by_label.items() if label],
    ]
    if report.rejected:
        facts.append(("rejected", f"{count(len(report.rejected))} records"))
    write_facts([*facts, ("took", duration(report.seconds)), ("written to", str(report.output))])


@contextmanager
def _shown(*, quiet: bool) -> Iterator[OnProgress | None]:
    """Show how far it is on standard error: a line that changes on a terminal, otherwise one every 30 s."""
    if quiet or sys.stderr is None:
        yield None
    elif sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status("reading") as status:
            yield lambda counts: status.update(_text(counts))
    else:
        yield _Lines().show


class _Lines:
    def __init__(self) -> None:
        self._said = time.monotonic()

    def show(self, counts: PrepareCounts) -> None:
        now = time.monotonic()
        if now - self._said >= _LINE_EVERY_S:
            self._said = now
            print(_text(counts), file=sys.stderr, flush=True)


def _text(counts: PrepareCounts) -> str:
    return f"read {counts.records:,}, {counts.bases:,} bases, {counts.samples:,} samples"
