"""Genomes to samples: read, cut, translate, and write a folder that fill and merge take, with a report.

Memory holds only the longest sequence, one window of chunks, and a few bytes a record.

`prepare.json` is one JSON object. Its last field, `sources`, has one line a source, so that it can be written, and read
back (`read_settings`, `read_sources`), however many there are.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, BinaryIO

from embedstore.errors import InputError
from embedstore.records import Rejection
from embedstore.samples.cutting import (
    REASONS,
    CutSamples,
    PrepareOptions,
    SourceSummary,
    cut_samples,
    listed_codes,
)
from embedstore.samples.outputs import SETTINGS_NAME, OutputFolder, open_outputs
from embedstore.samples.seen import Seen
from embedstore.samples.sources import LabelledInput, SourceReader, find_files, parse_input
from embedstore.strict_json import MAX_BYTES, facts, integer, json_object, typed
from embedstore.strict_json import field as required


@dataclass(slots=True)
class PrepareCounts:
    """Counts of input and output, updated during a run.

    Attributes
    ----------
    records : read, rejected ones included.
    bases : of all sequences that were accepted and are cut up completely.
    chunks : those that gave samples, and those that were dropped.
    dropped : chunks that gave no sample, by reason.
    samples_by_label : "" is unlabelled.
    genetic_codes : sequences by the number of their genetic code; "1,4" where coding sequences of one differ.
    seen : chunks that gave samples, by label, group and length of the source.
    """

    records: int = 0
    sequences: int = 0
    bases: int = 0
    chunks: int = 0
    samples: int = 0
    samples_by_label: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(REASONS, 0)))
    genetic_codes: Counter[str] = field(default_factory=Counter)
    seen: Seen = field(default_factory=Seen)

    def add(self, cut: CutSamples, records: int) -> None:
        """Add the samples of one window, and how many records were read so far."""
        self.records = records
        self.samples += len(cut.table)
        self.samples_by_label.update(cut.table.labels)
        for summary in cut.finished:
            self.sequences += 1
            self.bases += summary.length_bases
            self.chunks += summary.chunks
            self.dropped.update(summary.dropped)
            self.genetic_codes[str(listed_codes(summary.codes))] += 1
            self.seen.add(summary)

    def to_json(self) -> dict[str, Any]:
        """The counts as JSON values."""
        return facts(self) | {"seen": self.seen.to_json()}


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """What prepare did.

    Attributes
    ----------
    output : folder of the files.
    skipped : files of input folders that are not called like DNA files.
    unusable : CDS features that cannot be cut out of their records, where coding sequences were read.
    """

    output: Path
    options: PrepareOptions
    inputs: tuple[LabelledInput, ...]
    files: int
    skipped: tuple[str, ...]
    counts: PrepareCounts
    rejected: tuple[Rejection, ...]
    seconds: float
    unusable: tuple[Rejection, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every record was a DNA sequence."""
        return not self.rejected

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "inputs": [{"path": one.path, "label": one.label} for one in self.inputs],
            "options": self.options.to_json(),
            "preparation": self.options.preparation(),
            "files": self.files,
            "skipped_files": list(self.skipped),
            **self.counts.to_json(),
            "rejected": [rejection._asdict() for rejection in self.rejected],
            "unusable_features": [feature._asdict() for feature in self.unusable],
            "seconds": round(self.seconds, 3),
        }


_SPOOLED_BYTES = 1 << 24
_COPIED_BYTES = 1 << 20

OnProgress = Callable[[PrepareCounts], object]


def prepare(
    inputs: Sequence[str | os.PathLike[str] | LabelledInput],
    output: str | os.PathLike[str],
    options: PrepareOptions | None = None,
    *,
    on_progress: OnProgress | None = None,
) -> PrepareReport:
    """Cut genomes or contigs into samples, and write `samples.tsv`, `dna.fna`, `protein.faa` and `prepare.json`.

    With `compat="virnucpro"` the two FASTA files are byte for byte what VirNucPro writes, and for each input file
    `FILE_chunkedLENGTH.fa`, `FILE_identified_nucleotide.fa` and `FILE_identified_protein.faa` are written too.

    Parameters
    ----------
    inputs : files and folders; a text may be `LABEL=PATH`. `-` is standard input.
    output : folder, created if missing; files of these names in it are replaced once all new ones are complete.
    options : how to cut; None: the defaults.
    on_progress : called after every window of chunks.

    Raises
    ------
    InputError : an input or an option is wrong; nothing is written, as for the others.
    SequenceFileError : a file holds no sequences.
    MoleculeError : the input is proteins.
    """
    started = time.monotonic()
    options = options or PrepareOptions()
    labelled = tuple(parse_input(one) for one in inputs)
    sources = find_files(labelled, options.group_by)
    reader = SourceReader(sources.files, options.reads_coding)
    counts = PrepareCounts()
    with (
        OutputFolder(Path(output)) as folder,
        tempfile.SpooledTemporaryFile(_SPOOLED_BYTES, dir=str(folder.hidden)) as summaries,
    ):
        files = open_outputs(folder, sources.files, options)
        for cut in cut_samples(reader, options):
            for file in files:
                file.write(cut)
            summaries.write(b"".join(map(_summary_line, cut.finished)))
            counts.add(cut, reader.read)
            if on_progress is not None:
                on_progress(counts)
        for file in files:
            file.finish()
        report = PrepareReport(
            output=Path(output),
            options=options,
            inputs=labelled,
            files=len(sources.files),
            skipped=sources.skipped,
            counts=replace(counts, records=reader.read),
            rejected=tuple(reader.rejected),
            seconds=time.monotonic() - started,
            unusable=tuple(reader.unusable),
        )
        _write_settings(report, summaries, folder.create(SETTINGS_NAME))
        folder.publish(SETTINGS_NAME)
    return report


def _summary_line(summary: SourceSummary) -> bytes:
    facts: dict[str, Any] = {
        "group": summary.group,
        "label": summary.label,
        "length": summary.length_bases,
        "chunks": summary.chunks,
        "samples": summary.samples,
        "dropped": summary.dropped,
    }
    if summary.code_origin:
        facts |= {"genetic_code": listed_codes(summary.codes), "genetic_code_by": summary.code_origin}
    return f"  {json.dumps(summary.source)}: {json.dumps(facts)},\n".encode()


def _write_settings(report: PrepareReport, summaries: IO[bytes], stream: BinaryIO) -> None:
    """Write the report, and after it one line a source; these lines need not fit in memory together."""
    head = json.dumps(report.to_json(), indent=1)
    stream.write(head.removesuffix("\n}").encode() + b',\n "sources": {\n')
    size_bytes = summaries.tell()
    summaries.seek(0)
    copied_bytes = max(size_bytes - len(b",\n"), 0)
    _copy(summaries, stream, copied_bytes)
    stream.write((b"\n" if size_bytes else b"") + b" }\n}\n")


def _copy(source: IO[bytes], target: BinaryIO, size_bytes: int) -> None:
    while size_bytes and (block := source.read(min(size_bytes, _COPIED_BYTES))):
        target.write(block)
        size_bytes -= len(block)


_SOURCES_LINE = b' "sources": {\n'
_END_LINE = b" }\n"


def read_settings(path: Path) -> dict[str, Any]:
    """Read what `prepare.json` says of the whole run; `sources` is left empty where these have lines of their own.

    Parameters
    ----------
    path : of `prepare.json`.

    Raises
    ------
    OSError : it cannot be read.
    ValueError : it is not a JSON object.
    """
    with path.open("rb") as stream:
        return _settings(stream)


def _settings(stream: BinaryIO) -> dict[str, Any]:
    """Read up to the lines of sources, if there are any."""
    lines: list[bytes] = []
    size_bytes = 0
    for line in iter(lambda: stream.readline(MAX_BYTES), b""):
        if line == _SOURCES_LINE:
            return json_object(b"".join(lines) + line.rstrip() + b"}}")
        lines.append(line)
        size_bytes += len(line)
        if size_bytes > MAX_BYTES:
            raise ValueError(f"expected at most {MAX_BYTES} bytes of JSON before the lines of sources, found more")
    return json_object(b"".join(lines))


def read_sources(path: Path) -> list[SourceSummary] | None:
    """Read the sources of a preparation; None if there is no such file, or an earlier version wrote it without groups.

    Parameters
    ----------
    path : of `prepare.json`.

    Raises
    ------
    InputError : the file is not such a one.
    """
    try:
        with path.open("rb") as stream:
            settings = _settings(stream)
            found = list(_source_lines(stream)) or list(typed("sources", settings.get("sources", {}), dict).items())
        if not all(isinstance(one, dict) and "group" in one for _, one in found):
            return None
        return [_summary(name, one) for name, one in found]
    except FileNotFoundError:
        return None
    except KeyError as error:
        raise InputError(f"Cannot read {path}: a source has no {error}. Prepare the samples again.") from error
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"Cannot read {path}: {error}. Prepare the samples again.") from error


def _source_lines(stream: BinaryIO) -> Iterator[tuple[str, Any]]:
    """Yield name and facts of each source, where these have lines of their own."""
    line = b""
    for line in iter(lambda: stream.readline(MAX_BYTES), b""):
        if line == _END_LINE:
            return
        yield from json_object(b"{" + line.rstrip(b",\n") + b"}").items()
    if line:
        raise ValueError("expected the end of the sources, found the end of the file")


def _summary(source: str, found: Mapping[str, Any]) -> SourceSummary:
    dropped = required(found, "dropped", dict)
    chunks = integer(found, "chunks")
    counts = {reason: integer(dropped, reason, least=1) for reason in dropped}
    if not set(counts) <= set(REASONS) or sum(counts.values()) > chunks:
        raise ValueError(f"{source}: expected at most {chunks} chunks dropped for known reasons, found {counts}")
    return SourceSummary(
        source=source,
        group=required(found, "group", str),
        label=required(found, "label", str),
        length_bases=integer(found, "length"),
        chunks=chunks,
        samples=integer(found, "samples"),
        dropped=counts,
    )
