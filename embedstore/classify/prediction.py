"""Prediction: from sequences to calls, in one pass over each of a few files, in memory that does not grow with them.

    inputs ─ cut ─▶ samples.tsv, sequences with their keys, sources (in a hidden folder of the output)
           ─ fill ─▶ the store: only missing vectors are computed, so a run that was killed can resume
           ─ view, network ─▶ batch by batch ─▶ predictions.tsv, contigs.tsv, predict.json

Several classifiers are averaged: each reads its own columns of the same samples (`averaging`).

The classifier's schema is compared with the spaces and the preparation before any of it begins. Sequences are parsed,
canonicalised and hashed once, when they are cut. A space looks up each batch when it is filled and when it is read.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from embedstore.atomic import cell, from_cell
from embedstore.classify.averaging import AveragedSequences, average_log_odds, class_order, require_alike
from embedstore.classify.blocks import find_spaces, require_schema
from embedstore.classify.calibration import SequenceCalibration
from embedstore.classify.classifier import Classifier, load_classifier
from embedstore.classify.contigs import ContigGatherer, SourceCounts
from embedstore.classify.metrics import Floats, Probabilities
from embedstore.classify.scores import PIECE_ROWS
from embedstore.classify.tables import Tables, Tally, open_tables
from embedstore.errors import InputError
from embedstore.features import FillFrom, Preparation, Samples, collect, fill_spaces, is_missing, view
from embedstore.filling import FillOptions, FillReport, SpaceTarget
from embedstore.filling.intake import WINDOW_RECORDS, WINDOW_RESIDUES, Window
from embedstore.filling.summary import OnProgress
from embedstore.identity import Molecule
from embedstore.models.resolution import ModelOptions
from embedstore.records import Record, Rejection
from embedstore.samples import LabelledInput, PrepareCounts, PrepareOptions, cut_samples, read_samples
from embedstore.samples.cutting import CutSamples
from embedstore.samples.outputs import SAMPLES_NAME, OutputFolder
from embedstore.samples.sources import SourceReader, find_files, parse_input
from embedstore.samples.table import SampleWriter
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
    length_bases : of a chunk; None: as the classifier was trained; anything else is refused.
    genetic_code : NCBI's table; None: as the classifier was trained; anything else is refused.
    min_length_bases : shorter sequences are not cut; None: 60.
    compat : "virnucpro" writes VirNucPro's two tables too.
    fill : device, and when segments are committed.
    model_options : model -> weights, precision and so on, where not the defaults.
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
    sequences: Sequence[str | PathLike[str] | LabelledInput],
    classifier: Classifier | str | Path | Sequence[Classifier | str | Path],
    output: str | Path,
    *,
    store: SpaceStore,
    options: PredictOptions | None = None,
    progress: PredictProgress | None = None,
) -> PredictReport:
    """Classify sequences: cut, fill what is missing, score, and write tables.

    Parameters
    ----------
    sequences : files and folders as for `prepare`; `-` is standard input.
    classifier : as `train` returns it, or its folder; several are averaged.
    output : folder for `predictions.tsv`, `contigs.tsv` and `predict.json`, which appear together at the end. Only one
        prediction may write into it at a time.
    store : holds the vectors, and gets those that are missing.
    options : models, and how to cut; None: as the classifier was trained.
    progress : functions that are told how far it is.

    Raises
    ------
    SchemaError : the spaces, their order, or the preparation are not those of the classifier, or several classifiers
        were trained on samples that were prepared otherwise; both sides are named.
    InputError : several classifiers tell other classes, or models are named for them.
    EmbedStoreError : as `prepare` and `fill`.
    """
    started = time.monotonic()
    options, progress, output = options or PredictOptions(), progress or PredictProgress(), Path(output)
    given = [classifier] if isinstance(classifier, Classifier | str | Path) else classifier
    members = [one if isinstance(one, Classifier) else load_classifier(one) for one in given]
    _require_averageable(members, options)
    first = members[0]
    preparing = prepare_options(first, options)
    targets_of = [find_spaces(one, store, options.models, options.model_options) for one in members]
    for one, found in zip(members, targets_of, strict=True):
        require_schema(one, found, Preparation(**preparing.preparation()), "this prediction")
    targets = list({target.recipe.id: target for found in targets_of for target in found}.values())
    files = find_files([parse_input(one) for one in sequences]).files
    reader = SourceReader(files)
    with OutputFolder(output) as folder, _work_folder(output) as work:
        tables = open_tables(folder, first, preparing, _sources(work), compat=options.compat)
        counts = _cut(reader, preparing, {target.recipe.molecule for target in targets}, work, progress.on_cut)
        windows = partial(_CutWindows, work, preparing.length_bases)
        filled_targets, filled = fill_spaces(targets, FillFrom(work, options.fill, progress.on_fill), windows)
        by_id = {target.recipe.id: target for target in filled_targets}
        own = [[by_id[target.recipe.id] for target in found] for found in targets_of]
        tally = _score(_Scorer(members, own, filled), work, tables, counts.samples, progress.on_scored)
        report = PredictReport(
            output=output,
            classifier=" & ".join(one.name for one in members),
            counts=counts,
            tally=tally,
            filled=tuple(filled),
            rejected=tuple(reader.rejected),
            seconds=time.monotonic() - started,
        )
        folder.create(REPORT_NAME).write((json.dumps(report.to_json(), indent=1) + "\n").encode())
        folder.publish(REPORT_NAME)
    return report


def _require_averageable(members: Sequence[Classifier], options: PredictOptions) -> None:
    require_alike(members)
    if len(members) > 1 and options.models:
        raise InputError(
            f"Cannot use models {','.join(options.models)} with {len(members)} classifiers, each of which has its "
            "own columns. Leave out --models: the spaces that the classifiers name are used."
        )


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


def _cut(
    reader: SourceReader, options: PrepareOptions, molecules: Set[Molecule], work: Path, on_cut: OnCut | None
) -> PrepareCounts:
    """Write samples, their sequences of some molecules with the keys, and one line per source."""
    counts = PrepareCounts()
    with ExitStack() as stack:

        def create(name: str) -> BinaryIO:
            return stack.enter_context((work / name).open("xb"))

        samples, sources = SampleWriter(create(SAMPLES_NAME)), create(_SOURCES_NAME)
        sequences = {molecule: create(_sequences_name(molecule)) for molecule in molecules}
        for cut in cut_samples(reader, options):
            samples.write(cut.table)
            for molecule, stream in sequences.items():
                stream.write(b"".join(_sequence_lines(cut, molecule)))
            for one in cut.finished:
                line = SourceCounts(one.source, one.length_bases, one.chunks, one.samples, one.dropped)
                sources.write(json.dumps(line).encode() + b"\n")
            counts.add(cut, reader.read)
            if on_cut is not None:
                on_cut(counts)
    return replace(counts, records=reader.read)


def _sequences_name(molecule: Molecule) -> str:
    return f"{molecule}.tsv"


def _sequence_lines(cut: CutSamples, molecule: Molecule) -> Iterator[bytes]:
    """Write for each sample its key in hexadecimal, its sequence, and its id."""
    keys = cut.table.dna_keys if molecule == "dna" else cut.table.protein_keys
    for key, sequence, name in zip(keys, cut.sequences[molecule], cut.table.samples, strict=True):
        yield b"%b\t%b\t%b\n" % (key.tobytes().hex().encode(), sequence, cell(name).encode())


class _CutWindows:
    """What was cut, window by window; canonical form and keys are known.

    Parameters
    ----------
    work : the folder.
    length_bases : none of the sequences is longer.
    target : decides which molecule is read.
    """

    def __init__(self, work: Path, length_bases: int, target: SpaceTarget) -> None:
        self._path = work / _sequences_name(target.recipe.molecule)
        self._window_records = max(1, min(WINDOW_RECORDS, WINDOW_RESIDUES // length_bases))
        self.read = 0
        self.rejected: Sequence[Rejection] = ()

    def __iter__(self) -> Iterator[Window]:
        with self._path.open("rb") as lines:
            while some := [line[:-1].split(b"\t") for line in islice(lines, self._window_records)]:
                records = [
                    Record(from_cell(name.decode()), sequence, "", number)
                    for number, (_, sequence, name) in enumerate(some, start=self.read + 1)
                ]
                self.read += len(some)
                keys = [bytes.fromhex(key.decode()) for key, _, _ in some]
                yield Window(records, [sequence for _, sequence, _ in some], keys)


def _score(scorer: _Scorer, work: Path, tables: Tables, expected: int, on_scored: OnScored | None) -> Tally:
    """Score samples batch by batch and write the tables."""
    labels, preparation = scorer.labels, scorer.preparation
    gatherer = ContigGatherer(_sources(work), len(labels), scorer.sequences)
    tally = Tally(labels)
    done = 0
    for batch in read_samples(work / SAMPLES_NAME, PIECE_ROWS):
        samples = collect([batch], preparation, "the input")
        scores, logits = scorer.score(samples)
        contigs = list(gatherer.add(scores, logits))
        tables.write(samples, scores, contigs)
        tally.add(scores, contigs)
        done += len(samples)
        if on_scored is not None:
            on_scored(done, expected)
    contigs = list(gatherer.finish())
    tables.write(None, np.empty((0, len(labels))), contigs)
    tally.add(np.empty((0, len(labels))), contigs)
    tables.finish()
    return tally


class _Scorer:
    """Scores samples whose vectors are in spaces that have been filled.

    Parameters
    ----------
    members : classifiers that are averaged, or the one.
    targets : the spaces of each.
    """

    def __init__(
        self,
        members: Sequence[Classifier],
        targets: Sequence[Sequence[SpaceTarget]],
        reports: Sequence[FillReport],
    ) -> None:
        self.labels, self.preparation = members[0].labels, members[0].schema.preparation
        self._members = list(zip(members, targets, strict=True))
        self._orders = [class_order(one, self.labels) for one in members]
        self._all_targets = {target.recipe.id: target for some in targets for target in some}.values()
        self._complete = all(report.complete for report in reports)

    @property
    def sequences(self) -> SequenceCalibration | AveragedSequences | None:
        """Calibration of sequences, by the means of what `score` returns beside the probabilities."""
        calibrations = [classifier.sequences for classifier, _ in self._members]
        if len(calibrations) == 1:
            return calibrations[0]
        return AveragedSequences(tuple(calibrations), tuple(map(tuple, self._orders)))

    def score(self, samples: Samples) -> tuple[Probabilities, Floats]:
        """Return probabilities and logits, (n, classes); a row of NaN for a sample that a model has no vector for.

        Of several classifiers, the logits are side by side; of one without a calibration of sequences they are its
        probabilities.
        """
        present = np.arange(len(samples))
        scores = np.full((len(samples), len(self.labels)), np.nan)
        logits = np.full((len(samples), len(self.labels) * len(self._members)), np.nan)
        if not self._complete:
            present = np.flatnonzero(~np.any([is_missing(samples, target) for target in self._all_targets], axis=0))
            samples = samples.take(present)
        if len(present):
            each = [self._of_member(samples, *member) for member in self._members]
            logits[present] = np.concatenate([found for _, found in each], axis=1)
            ordered = [own[:, order] for (own, _), order in zip(each, self._orders, strict=True)]
            scores[present] = ordered[0] if len(ordered) == 1 else average_log_odds(ordered)
        return scores, logits

    def _of_member(
        self, samples: Samples, classifier: Classifier, targets: Sequence[SpaceTarget]
    ) -> tuple[Probabilities, Floats]:
        logits = classifier.head.logits(view(samples, targets, check=False).rows())
        probabilities = classifier.calibration.probabilities(logits)
        if len(self._members) > 1 and classifier.sequences is None:
            return probabilities, probabilities
        return probabilities, logits.astype(np.float64)


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
