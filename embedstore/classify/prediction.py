"""Prediction: from sequences to calls, in one pass over each of a few files, in memory that does not grow with them.

    inputs ─ cut ─▶ samples.tsv, dna.fna, protein.faa, sources (in a hidden folder of the output)
           ─ fill ─▶ the store: only missing vectors are computed, so a run that was killed can resume
           ─ view, network ─▶ batch by batch ─▶ predictions.tsv, contigs.tsv, predict.json

The classifier's schema is compared with the spaces and the preparation before any of it begins.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedstore.classify.blocks import fill_spaces, find_spaces, require_schema
from embedstore.classify.classifier import Classifier, load_classifier
from embedstore.classify.metrics import Probabilities
from embedstore.classify.tables import PIECE_ROWS, ContigGatherer, SourceCounts, Tables, Tally, open_tables
from embedstore.errors import InputError
from embedstore.features import FillFrom, Preparation, Samples, collect, is_missing, view
from embedstore.filling import FillOptions, FillReport, SpaceTarget
from embedstore.filling.filler import OnProgress
from embedstore.models.resolution import ModelOptions
from embedstore.records import Rejection
from embedstore.samples import LabelledInput, PrepareCounts, PrepareOptions, cut_samples, read_samples
from embedstore.samples.outputs import SAMPLES_NAME, OutputFolder, SampleFiles
from embedstore.samples.sources import SourceReader, find_files, parse_input
from embedstore.store.store import SpaceStore

REPORT_NAME = "predict.json"
_SOURCES_NAME = "sources.jsonl"
_WORK_PREFIX = ".predict-"

OnCut = Callable[[PrepareCounts], object]
OnScored = Callable[[int, int], object]
"""Called with how many samples are scored, of how many."""


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """How to predict.

    Attributes
    ----------
    models : names or directories, one a block of the classifier; none: those that it names.
    length_bases, genetic_code : None: as the classifier was trained; anything else is refused.
    min_length_bases : shorter sequences are not cut; None: 60.
    compat : "virnucpro" writes VirNucPro's two tables too.
    """

    models: Sequence[str] = ()
    length_bases: int | None = None
    genetic_code: int | None = None
    min_length_bases: int | None = None
    compat: Literal["virnucpro"] | None = None
    fill: FillOptions = field(default_factory=FillOptions)
    model_options: Mapping[str, ModelOptions] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PredictProgress:
    """Functions that are told the progress of a prediction."""

    on_cut: OnCut | None = None
    on_fill: OnProgress | None = None
    on_scored: OnScored | None = None


@dataclass(frozen=True, slots=True)
class PredictReport:
    """What a prediction did.

    Attributes
    ----------
    tally : how many sequences were called what.
    rejected : records that are not DNA sequences.
    """

    output: Path
    classifier: str
    counts: PrepareCounts
    tally: Tally
    filled: tuple[FillReport, ...]
    rejected: tuple[Rejection, ...]
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether every record could be read, and every sample has a vector."""
        return not self.rejected and not self.tally.samples_without_vector

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "output": str(self.output),
            "classifier": self.classifier,
            **self.counts.to_json(),
            **self.tally.to_json(),
            "filled": [report.to_json() for report in self.filled],
            "rejected": [rejection._asdict() for rejection in self.rejected],
            "seconds": round(self.seconds, 3),
        }


def predict(
    inputs: Sequence[str | PathLike[str] | LabelledInput],
    classifier: Classifier | str | Path,
    output: str | Path,
    store: SpaceStore,
    options: PredictOptions | None = None,
    progress: PredictProgress | None = None,
) -> PredictReport:
    """Classify sequences: cut, fill what is missing, score, and write tables.

    Parameters
    ----------
    inputs : files and folders as for `prepare`; `-` is standard input.
    output : folder for `predictions.tsv`, `contigs.tsv` and `predict.json`, which appear together at the end. Only one
        prediction may write into it at a time.

    Raises
    ------
    SchemaError : the spaces, their order, or the preparation are not those of the classifier; both sides are named.
    InputError, SequenceFileError, MoleculeError : as `prepare`. ModelError, StoreError : as `fill`.
    """
    started = time.monotonic()
    options, progress, output = options or PredictOptions(), progress or PredictProgress(), Path(output)
    classifier = classifier if isinstance(classifier, Classifier) else load_classifier(classifier)
    preparing = prepare_options(classifier, options)
    targets = find_spaces(classifier, store, options.models, options.model_options)
    require_schema(classifier, targets, Preparation(**preparing.preparation()), "this prediction")
    files = find_files([parse_input(one) for one in inputs]).files
    reader = SourceReader(files)
    with OutputFolder(output) as folder, _work_folder(output) as work:
        tables = open_tables(folder, classifier, preparing, _sources(work), compat=options.compat)
        counts = _cut(reader, preparing, work, progress.on_cut)
        targets, filled = fill_spaces(targets, FillFrom(work, options.fill, progress.on_fill))
        tally = _score(classifier, targets, work, tables, counts.samples, progress.on_scored)
        report = PredictReport(
            output=output,
            classifier=classifier.name,
            counts=counts,
            tally=tally,
            filled=tuple(filled),
            rejected=tuple(reader.rejected),
            seconds=time.monotonic() - started,
        )
        folder.create(REPORT_NAME).write((json.dumps(report.to_json(), indent=1) + "\n").encode())
        folder.publish(REPORT_NAME)
    return report


def prepare_options(classifier: Classifier, options: PredictOptions) -> PrepareOptions:
    """Cut as the classifier's training samples were cut, or as asked, which is compared with that afterwards.

    Raises
    ------
    InputError : the classifier does not say how its samples were cut, nor do the options.
    """
    stated = classifier.schema.preparation
    length = options.length_bases if options.length_bases is not None else stated.chunk_length
    if length is None:
        raise InputError(
            f"Cannot predict with {classifier.owner}: expected a chunk length in its schema, found none: it was "
            "trained on samples without prepare.json. Prepare samples, merge and train again."
        )
    code = options.genetic_code if options.genetic_code is not None else stated.genetic_code
    return PrepareOptions(
        length_bases=length,
        genetic_code=1 if code is None else code,
        min_length_bases=options.min_length_bases,
        compat="virnucpro" if stated.compat == "virnucpro" else None,
    )


def _cut(reader: SourceReader, options: PrepareOptions, work: Path, on_cut: OnCut | None) -> PrepareCounts:
    """Write samples, their sequences, and a line a source."""
    counts = PrepareCounts()
    with OutputFolder(work) as folder:
        samples, sources = SampleFiles(folder), folder.create(_SOURCES_NAME)
        for cut in cut_samples(reader, options):
            samples.write(cut)
            for one in cut.finished:
                line = SourceCounts(one.source, one.length_bases, one.chunks, one.samples, one.dropped)
                sources.write(json.dumps(line).encode() + b"\n")
            counts.add(cut, reader.read)
            if on_cut is not None:
                on_cut(counts)
        folder.publish(SAMPLES_NAME)
    return replace(counts, records=reader.read)


def _score(
    classifier: Classifier,
    targets: Sequence[SpaceTarget],
    work: Path,
    tables: Tables,
    expected: int,
    on_scored: OnScored | None,
) -> Tally:
    """Score samples batch by batch and write the tables."""
    gatherer = ContigGatherer(_sources(work), len(classifier.labels))
    tally = Tally(classifier.labels)
    preparation = classifier.schema.preparation
    done = 0
    for batch in read_samples(work / SAMPLES_NAME, PIECE_ROWS):
        samples = collect([batch], preparation, "the input")
        scores = _scored(classifier, targets, samples)
        contigs = list(gatherer.add(scores))
        tables.write(samples, scores, contigs)
        tally.add(scores, contigs)
        done += len(samples)
        if on_scored is not None:
            on_scored(done, expected)
    contigs = list(gatherer.finish())
    tables.write(None, np.empty((0, len(classifier.labels))), contigs)
    tally.add(np.empty((0, len(classifier.labels))), contigs)
    tables.finish()
    return tally


def _scored(classifier: Classifier, targets: Sequence[SpaceTarget], samples: Samples) -> Probabilities:
    """(n, classes); a row of NaN for a sample that a model has no vector for."""
    absent: NDArray[np.bool_] = np.zeros(len(samples), np.bool_)
    for target in targets:
        absent |= is_missing(samples, target)
    scores = np.full((len(samples), len(classifier.labels)), np.nan)
    present = np.flatnonzero(~absent)
    if len(present):
        rows = view(samples.take(present), targets).rows()
        scores[present] = classifier.calibration.probabilities(classifier.head.logits(rows))
    return scores


def _sources(work: Path) -> Iterator[SourceCounts]:
    with (work / _SOURCES_NAME).open("rb") as lines:
        for line in lines:
            yield SourceCounts(*json.loads(line))


@contextmanager
def _work_folder(output: Path) -> Iterator[Path]:
    """Make a hidden folder in the output folder; what a killed run left there is removed first."""
    for old in output.glob(f"{_WORK_PREFIX}*"):
        shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_WORK_PREFIX, dir=output) as folder:
        yield Path(folder)
