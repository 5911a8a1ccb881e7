"""The tables of a prediction: one row per sample and one per sequence, or the two files of VirNucPro for users who have
scripts for them; and the tally of calls.
"""

from __future__ import annotations

import heapq
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, Protocol

import numpy as np

from embedstore.atomic import cell
from embedstore.classify.classifier import Classifier
from embedstore.classify.contigs import Contig, ContigTable, SourceCounts
from embedstore.classify.metrics import Probabilities
from embedstore.errors import InputError
from embedstore.features import Samples
from embedstore.samples import PrepareOptions
from embedstore.samples.outputs import OutputFolder
from embedstore.sequences.translation import Bounds

PREDICTIONS_NAME = "predictions.tsv"
CONTIGS_NAME = "contigs.tsv"
CALLED_NAME = "called.fna"
VIRNUCPRO_CHUNKS_NAME = "prediction_results.txt"
VIRNUCPRO_CONSENSUS_NAME = "prediction_results_highestscore.csv"

NO_VECTOR = "no vector"
_VIRUS = "virus"
_RUN_ROWS = 1 << 20


@dataclass(slots=True)
class Tally:
    """Numbers of sequences and samples by call.

    Attributes
    ----------
    contigs : call, or why there is none -> sequences.
    contigs_from_dna : call -> sequences without a sample, which are not among the others.
    known : sequences that the classifier knows.
    """

    labels: tuple[str, ...]
    samples: Counter[str] = field(default_factory=Counter)
    contigs: Counter[str] = field(default_factory=Counter)
    contigs_from_dna: Counter[str] = field(default_factory=Counter)
    samples_without_vector: int = 0
    known: int = 0

    def add(self, scores: Probabilities) -> None:
        """Add a batch of samples."""
        present = scores[~np.isnan(scores[:, 0])]
        self.samples_without_vector += len(scores) - len(present)
        for place, count in enumerate(np.bincount(present.argmax(axis=1), minlength=len(self.labels)).tolist()):
            self.samples[self.labels[place]] += count

    def add_contigs(self, contigs: Iterable[Contig]) -> None:
        """Add a batch of sequences."""
        for contig in contigs:
            counter = self.contigs_from_dna if contig.from_dna else self.contigs
            counter[contig.outcome(self.labels)] += 1
            self.known += bool(contig.counts.known_as)

    def to_json(self) -> dict[str, Any]:
        """The tally as JSON values."""
        return {
            "samples_called": dict(self.samples),
            "sequences_called": dict(self.contigs),
            "sequences_called_from_dna": dict(self.contigs_from_dna),
            "samples_without_vector": self.samples_without_vector,
        }


class Tables(Protocol):
    """Takes all scored samples, and then all sequences with their calls."""

    def write(self, samples: Samples, scores: Probabilities) -> None: ...

    def write_contigs(self, contigs: Sequence[Contig]) -> None: ...

    def finish(self) -> None: ...


def open_tables(
    folder: OutputFolder,
    classifier: Classifier,
    options: PrepareOptions,
    sources: Iterator[SourceCounts],
    *,
    compat: Literal["virnucpro"] | None,
    says_from: bool = False,
    with_known: bool = False,
    called: CalledSequences | None,
) -> Tables:
    """Create the requested tables.

    Parameters
    ----------
    sources : what was cut, drawn from when the first samples come.
    says_from, with_known : see `ContigTable`.
    called : also write the sequences of one call.

    Raises
    ------
    InputError : VirNucPro's tables are wanted of a classifier that is not one of viruses and others.
    """
    ours = OwnTables(folder, classifier.labels, says_from=says_from, with_known=with_known)
    tables: list[Tables] = [ours]
    if compat == "virnucpro":
        tables.append(VirnucproTables(folder, classifier, options, sources))
    if called is not None:
        tables.append(CalledFasta(folder, called))
    return Several(tuple(tables))


@dataclass(frozen=True, slots=True)
class Several:
    """Several kinds of tables at once."""

    tables: tuple[Tables, ...]

    def write(self, samples: Samples, scores: Probabilities) -> None:
        for table in self.tables:
            table.write(samples, scores)

    def write_contigs(self, contigs: Sequence[Contig]) -> None:
        for table in self.tables:
            table.write_contigs(contigs)

    def finish(self) -> None:
        for table in self.tables:
            table.finish()


class OwnTables:
    """`predictions.tsv` and `contigs.tsv`."""

    def __init__(self, folder: OutputFolder, labels: tuple[str, ...], *, says_from: bool, with_known: bool) -> None:
        self._labels = labels
        self._predictions = folder.create(PREDICTIONS_NAME)
        stream = folder.create(CONTIGS_NAME)
        self._contigs = ContigTable(stream, labels, says_from=says_from, with_known=with_known)
        scores = (f"score_{cell(label)}" for label in labels)
        names = ("sample", "source", "start", "end", "strand", "frame", *scores, "call")
        self._predictions.write(("\t".join(names) + "\n").encode())

    def write(self, samples: Samples, scores: Probabilities) -> None:
        """Append rows of samples."""
        self._predictions.write("".join(self._lines(samples, scores)).encode())

    def write_contigs(self, contigs: Sequence[Contig]) -> None:
        """Append rows of sequences."""
        self._contigs.write(contigs)

    def finish(self) -> None:
        """Nothing is left to write."""

    def _lines(self, samples: Samples, scores: Probabilities) -> Iterable[str]:
        ids, sources = samples.ids.tolist(), samples.sources.texts().tolist()
        places = zip(
            samples.start.tolist(), samples.end.tolist(), samples.strand.tolist(), samples.frame.tolist(), strict=True
        )
        calls = np.where(np.isnan(scores[:, 0]), -1, scores.argmax(axis=1)).tolist()
        empty, labels = "\t" * (len(self._labels) - 1), [cell(label) for label in self._labels]
        rows = zip(ids, sources, places, scores.tolist(), calls, strict=True)
        for id_, source, (start, end, strand, frame), numbers, call in rows:
            texts = empty if call < 0 else "\t".join([f"{number:.6f}" for number in numbers])
            sign = "+" if strand > 0 else "-"
            name = NO_VECTOR if call < 0 else labels[call]
            yield f"{cell(id_)}\t{cell(source)}\t{start}\t{end}\t{sign}\t{frame}\t{texts}\t{name}\n"


@dataclass(frozen=True, slots=True)
class CalledSequences:
    """The sequences of one call.

    Attributes
    ----------
    positive : place of the class.
    records : id and sequence of all, as they were read, in the order of the sequences; drawn from at the end.
    """

    positive: int | None
    records: Iterator[tuple[bytes, bytes]]


class CalledFasta:
    """`called.fna`: the sequences that are called the class that is looked for, as they were read."""

    def __init__(self, folder: OutputFolder, called: CalledSequences) -> None:
        self._called = called
        self._fasta = folder.create(CALLED_NAME)

    def write(self, samples: Samples, scores: Probabilities) -> None:
        """Samples are not written."""

    def write_contigs(self, contigs: Sequence[Contig]) -> None:
        """Append those that are called so."""
        for contig, (name, sequence) in zip(contigs, self._called.records, strict=False):
            if contig.call == self._called.positive:
                self._fasta.write(b">%b\n%b\n" % (name, sequence))

    def finish(self) -> None:
        """Nothing is left to write."""


class VirnucproTables:
    """What `prediction.py` of Li-Jing-1997/VirNucPro (at 0f93f27) writes.

    A row a sample (`Sequence_ID Prediction score1 score2`, the second score is virus), and one a chunk (`Modified_ID
    Is_Virus`): whether its best virus score is at least its best other score; sorted by id, as pandas groups.
    """

    def __init__(
        self, folder: OutputFolder, classifier: Classifier, options: PrepareOptions, sources: Iterator[SourceCounts]
    ) -> None:
        if len(classifier.labels) != 2 or _VIRUS not in classifier.labels:
            raise InputError(
                f"Cannot write VirNucPro's tables with {classifier.owner}: expected two classes, one of them {_VIRUS}, "
                f"found {', '.join(classifier.labels)}. Leave out --compat."
            )
        self._names = _Names(options, sources)
        self._virus = classifier.labels.index(_VIRUS)
        self._chunks = folder.create(VIRNUCPRO_CHUNKS_NAME)
        self._consensus = folder.create(VIRNUCPRO_CONSENSUS_NAME)
        self._chunks.write(b"Sequence_ID\tPrediction\tscore1\tscore2\n")
        self._best: dict[str, tuple[np.float32, np.float32]] = {}
        self._sorted = SortedLines(folder.hidden)

    def write(self, samples: Samples, scores: Probabilities) -> None:
        """Append rows of samples; those without a vector are left out, as VirNucPro has none."""
        ours, others = scores[:, self._virus].astype(np.float32), scores[:, 1 - self._virus].astype(np.float32)
        lines = []
        for (chunk, frame), virus, other in zip(self._names.of(samples), ours, others, strict=True):
            if np.isnan(virus):
                continue
            lines.append(f"{cell(chunk)}{frame}\t{'virus' if virus > other else 'others'}\t{other!s}\t{virus!s}\n")
            if chunk not in self._best:
                self._settle()
            best = self._best.get(chunk, (other, virus))
            self._best[chunk] = (max(best[0], other), max(best[1], virus))
        self._chunks.write("".join(lines).encode())

    def write_contigs(self, contigs: Sequence[Contig]) -> None:
        """VirNucPro has no table of sequences."""

    def finish(self) -> None:
        """Write the consensus."""
        self._settle()
        self._consensus.write(b"Modified_ID\tIs_Virus\n")
        self._sorted.write_to(self._consensus)

    def _settle(self) -> None:
        """Keep the last chunk's result: the samples of a chunk follow each other."""
        for chunk, (other, virus) in self._best.items():
            self._sorted.add(f"{cell(chunk)}\t{virus >= other}\n")
        self._best.clear()


class _Names:
    """Names samples as VirNucPro does: `RECORD_chunk_NUMBER`, and F1 to R3."""

    def __init__(self, options: PrepareOptions, sources: Iterator[SourceCounts]) -> None:
        self._options = options
        self._sources = sources
        self._source = ""
        self._bounds: Bounds = np.empty((0, 2), np.int64)

    def of(self, samples: Samples) -> Iterator[tuple[str, str]]:
        """Yield chunk and frame of each sample; samples come in the order of the sources."""
        if self._options.compat == "virnucpro":  # they are called so already
            yield from ((id_[:-2], id_[-2:]) for id_ in samples.ids.tolist())
            return
        places = (samples.start.tolist(), samples.end.tolist(), samples.strand.tolist(), samples.frame.tolist())
        for source, start, end, strand, frame in zip(samples.sources.texts().tolist(), *places, strict=True):
            while source != self._source:
                counts = next(self._sources)
                self._source = counts.source
                self._bounds = self._options.cut(counts.length_bases, self._options.length_bases)
            if strand > 0:
                number = np.searchsorted(self._bounds[:, 0], start - frame)
            else:
                number = np.searchsorted(self._bounds[:, 1], end + frame - 1)
            yield f"{source}_chunk_{number + 1}", f"{'F' if strand > 0 else 'R'}{frame}"


class SortedLines:
    """Lines that are written sorted, in bounded memory: sorted runs of them are kept in unnamed files of `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: list[str] = []
        self._runs: list[IO[str]] = []

    def add(self, line: str) -> None:
        """Add a line."""
        self._held.append(line)
        if len(self._held) >= _RUN_ROWS:
            run = tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=self._folder)  # noqa: SIM115
            run.writelines(sorted(self._held))
            run.seek(0)
            self._runs.append(run)
            self._held = []

    def write_to(self, stream: BinaryIO) -> None:
        """Write all lines."""
        with ExitStack() as files:
            for run in self._runs:
                files.enter_context(run)
            for line in heapq.merge(*self._runs, sorted(self._held)):
                stream.write(line.encode())
