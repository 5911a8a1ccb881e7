"""Prediction: from sequences to calls, in one pass over each of a few files, in memory that does not grow with them.

    inputs ─ cut ─▶ samples.tsv, sequences with their keys, sources (in a hidden folder of the output)
           ─ fill ─▶ the store: only missing vectors are computed, so a run that was killed can resume
           ─ view, network ─▶ batch by batch ─▶ predictions.tsv, track; scored sequences (in the hidden folder)
           ─ calls ─▶ contigs.tsv, called.fna, predict.json

Several classifiers are averaged: each reads its own columns of the same samples (`averaging`).

The classifier's schema is compared with the spaces and the preparation before any of it begins. Sequences are parsed,
canonicalised and hashed once, when they are cut. A space looks up each batch when it is filled and when it is read.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import Counter
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
from embedstore.classify.averaging import average_log_odds, class_order, require_alike, sequences_of
from embedstore.classify.blocks import find_spaces, require_schema
from embedstore.classify.calling import Called, Calling, calling_of
from embedstore.classify.classifier import Classifier, load_classifier
from embedstore.classify.contigs import Contig, ContigGatherer, HeldContigs, SourceCounts
from embedstore.classify.fallback import DnaCaller, fallback_of
from embedstore.classify.known import NO_SKETCHES, KnownAs, SourceRecogniser
from embedstore.classify.metrics import Floats, Probabilities
from embedstore.classify.scores import PIECE_ROWS
from embedstore.classify.tables import CALLED_NAME, CalledSequences, Tables, Tally, open_tables
from embedstore.classify.track import SEGMENTS_NAME, TRACK_NAME, Track
from embedstore.errors import InputError
from embedstore.features import FillFrom, Preparation, Samples, collect, fill_spaces, is_missing, view
from embedstore.filling import FillOptions, FillReport, SpaceTarget
from embedstore.filling.intake import WINDOW_RECORDS, WINDOW_RESIDUES, Window
from embedstore.filling.summary import OnProgress
from embedstore.identity import Molecule, sequence_key
from embedstore.models.resolution import ModelOptions
from embedstore.records import Record, Rejection
from embedstore.samples import LabelledInput, PrepareCounts, PrepareOptions, cut_samples, read_samples
from embedstore.samples.codes import AUTO, STANDARD_CODE, CodeChoice
from embedstore.samples.cutting import CutSamples, closed_chunks
from embedstore.samples.outputs import SAMPLES_NAME, OutputFolder
from embedstore.samples.sources import Source, SourceReader, find_files, parse_input
from embedstore.samples.table import SampleWriter
from embedstore.sequences.translation import Bounds
from embedstore.store.store import SpaceStore

REPORT_NAME = "predict.json"
_SOURCES_NAME = "sources.jsonl"
_CLOSED_KEYS_NAME = "closed.keys"
_RECORDS_NAME = "records"
_CONTIGS_NAME = "contigs"
_ON_REQUEST = (CALLED_NAME, TRACK_NAME, SEGMENTS_NAME)
"""Files that not every prediction writes."""
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
    genetic_code : NCBI's table, "auto" or a table of codes; None: as the classifier was trained; a code is refused that
        does not translate as the classifier's, or is none of its codes.
    min_length_bases : shorter sequences are not cut; None: 60.
    compat : "virnucpro" writes VirNucPro's two tables too.
    dna_only_fallback : call sequences without an open frame from their DNA alone, by the classifier's fallback.
    positive : the class that is looked for; None: as in the training, or of two classes the one called "virus".
    min_score, fdr, prevalence : how sequences are called that class, see `calling`.
    write_called : write the sequences that are called so to `called.fna`.
    track : write scores along the sequences, and parts of one call, see `track`.
    fill : device, and when segments are committed.
    model_options : model -> weights, precision and so on, where not the defaults.
    """

    models: Sequence[str] = ()
    length_bases: int | None = None
    genetic_code: CodeChoice | None = None
    min_length_bases: int | None = None
    compat: Literal["virnucpro"] | None = None
    dna_only_fallback: bool = False
    positive: str | None = None
    min_score: float | None = None
    fdr: float | None = None
    prevalence: float | None = None
    write_called: bool = False
    track: bool = False
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
    called : of the class that is looked for, and by which threshold.
    rejected : records that are not DNA sequences.
    recognises : whether the classifier has sketches to know sequences by.
    """

    output: Path
    classifier: str
    counts: PrepareCounts
    tally: Tally
    called: Called
    filled: tuple[FillReport, ...]
    rejected: tuple[Rejection, ...]
    seconds: float
    recognises: bool = False

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
            "sequences_known": self.tally.known if self.recognises else None,
            **({} if self.recognises else {"why_not_known": NO_SKETCHES}),
            "calling": self.called.to_json(),
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
    output : folder for `predictions.tsv`, `contigs.tsv`, `predict.json` and what else is asked for, which appear
        together at the end. Only one prediction may write into it at a time.
    store : holds the vectors, and gets those that are missing.
    options : models, and how to cut; None: as the classifier was trained.
    progress : functions that are told how far it is.

    Raises
    ------
    SchemaError : the spaces, their order, or the preparation are not those of the classifier, or several classifiers
        were trained on samples that were prepared otherwise; both sides are named.
    InputError : several classifiers tell other classes, or models are named for them; or calls or files are asked for
        that a classifier has no class or no calibration for.
    EmbedStoreError : as `prepare` and `fill`.
    """
    started = time.monotonic()
    options, progress, output = options or PredictOptions(), progress or PredictProgress(), Path(output)
    given = [classifier] if isinstance(classifier, Classifier | str | Path) else classifier
    members = [one if isinstance(one, Classifier) else load_classifier(one) for one in given]
    _require_averageable(members, options)
    first = members[0]
    fallback = fallback_of(first) if options.dna_only_fallback else None
    preparing = prepare_options(first, options)
    calling, *_ = [_calling(one, options) for one in members]  # what one of them has no calibration for is refused
    recalls = [one.recall for one in members if one.recall is not None]
    recogniser = SourceRecogniser(recalls[0]()) if recalls else None
    targets_of = [find_spaces(one, store, options.models, options.model_options) for one in members]
    for one, found in zip(members, targets_of, strict=True):
        require_schema(one, found, Preparation(**preparing.preparation()), "this prediction")
    targets = list({target.recipe.id: target for found in targets_of for target in found}.values())
    files = find_files([parse_input(one) for one in sequences]).files
    reader = SourceReader(files, preparing.reads_coding)
    with OutputFolder(output) as folder, _work_folder(output) as work:
        tables = open_tables(
            folder,
            first,
            preparing,
            _sources(work),
            compat=options.compat,
            says_from=fallback is not None,
            with_known=recogniser is not None,
            called=CalledSequences(calling.positive, _records(work)) if options.write_called else None,
        )
        track = None
        if options.track and calling.positive is not None:
            bounds = partial(_chunks, preparing)
            track = Track(folder.create, first.labels, calling.positive, bounds, sequences_of(members))
        molecules = {target.recipe.molecule for target in targets}
        kept = _Kept(closed=fallback is not None, records=options.write_called)
        counts = _cut(reader, preparing, molecules, work, progress.on_cut, recogniser, kept)
        windows = partial(_CutWindows, work, preparing.length_bases)
        filled_targets, filled = fill_spaces(targets, FillFrom(work, options.fill, progress.on_fill), windows)
        by_id = {target.recipe.id: target for target in filled_targets}
        own = [[by_id[target.recipe.id] for target in found] for found in targets_of]
        scorer = _Scorer(members, own, filled)
        with (work / _CLOSED_KEYS_NAME).open("rb") as keys:
            caller = None if fallback is None else DnaCaller(fallback, own[0], keys)
            held = HeldContigs(work / _CONTIGS_NAME, calling)
            tally = _score(scorer, caller, work, tables, held, track, counts.samples, progress.on_scored)
        called = _call(held, work, tables, tally)
        report = PredictReport(
            output=output,
            classifier=" & ".join(one.name for one in members),
            counts=counts,
            tally=tally,
            called=called,
            filled=tuple(filled),
            rejected=tuple(reader.rejected),
            seconds=time.monotonic() - started,
            recognises=recogniser is not None,
        )
        folder.create(REPORT_NAME).write((json.dumps(report.to_json(), indent=1) + "\n").encode())
        for name in _ON_REQUEST:  # of an earlier run
            (output / name).unlink(missing_ok=True)
        folder.publish(REPORT_NAME)
    return report


def _calling(classifier: Classifier, options: PredictOptions) -> Calling:
    return calling_of(
        classifier,
        positive=options.positive,
        min_score=options.min_score,
        fdr=options.fdr,
        prevalence=options.prevalence,
        needs_positive=options.write_called or options.track,
    )


def _chunks(cut: PrepareOptions, length_bases: int) -> Bounds:
    return cut.cut(length_bases, cut.length_bases)


def _require_averageable(members: Sequence[Classifier], options: PredictOptions) -> None:
    require_alike(members)
    if len(members) > 1 and options.models:
        raise InputError(
            f"Cannot use models {','.join(options.models)} with {len(members)} classifiers, each of which has its "
            "own columns. Leave out --models: the spaces that the classifiers name are used."
        )
    if len(members) > 1 and options.dna_only_fallback:
        raise InputError(
            f"Cannot call from DNA alone with {len(members)} classifiers that are averaged: expected one. Predict with "
            "each alone."
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
        genetic_code=STANDARD_CODE if code is None else _one_choice(code, classifier),
        min_length_bases=options.min_length_bases,
        compat="virnucpro" if stated.compat == "virnucpro" else None,
    )


def _one_choice(code: CodeChoice | str, classifier: Classifier) -> CodeChoice:
    """Return a code to cut with; where a classifier was trained with several, only the user knows which is whose."""
    if code == AUTO:
        return "auto"
    if not isinstance(code, str):
        return code
    raise InputError(
        f"Cannot predict with {classifier.owner}: expected one genetic code, found that it was trained with {code}. "
        "State that of the input (--genetic-code N), or a table of them (--genetic-code FILE)."
    )


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is written besides samples and their sequences.

    Attributes
    ----------
    closed : the DNA of the chunks of sources that have no sample, with that of samples; their keys apart, too.
    records : the sources, as they were read.
    """

    closed: bool
    records: bool


def _cut(
    reader: SourceReader,
    options: PrepareOptions,
    molecules: Set[Molecule],
    work: Path,
    on_cut: OnCut | None,
    recogniser: SourceRecogniser | None,
    kept: _Kept,
) -> PrepareCounts:
    """Write samples, their sequences of some molecules with the keys, and one line per source.

    Parameters
    ----------
    kept : what else is written.
    """
    counts = PrepareCounts()
    with ExitStack() as stack:

        def create(name: str) -> BinaryIO:
            return stack.enter_context((work / name).open("xb"))

        samples, sources, keys = SampleWriter(create(SAMPLES_NAME)), create(_SOURCES_NAME), create(_CLOSED_KEYS_NAME)
        sequences = {molecule: create(_sequences_name(molecule)) for molecule in molecules}
        records = create(_RECORDS_NAME) if kept.records else None
        for cut in cut_samples(reader, options):
            samples.write(cut.table)
            for molecule, stream in sequences.items():
                stream.write(b"".join(_sequence_lines(cut, molecule)))
            chunks: Counter[str] = Counter()
            for source, dna, name in _closed_chunks(cut, options) if kept.closed else ():
                key = sequence_key(dna)
                sequences["dna"].write(_sequence_line(key, dna, name))
                keys.write(key)
                chunks[source] += 1
            known = _known(cut, recogniser)
            for one in cut.finished:
                known_as = known[one.source].group if one.source in known else ""
                closed_here = chunks[one.source]
                line = SourceCounts(
                    one.source, one.length_bases, one.chunks, one.samples, one.dropped, closed_here, known_as
                )
                sources.write(json.dumps(line).encode() + b"\n")
            if records is not None:
                for piece in cut.window.pieces:
                    if piece.is_last:
                        records.write(_record_lines(piece.source))
            counts.add(cut, reader.read)
            if on_cut is not None:
                on_cut(counts)
    return replace(counts, records=reader.read)


def _closed_chunks(cut: CutSamples, options: PrepareOptions) -> Iterator[tuple[str, bytes, str]]:
    """Yield the chunks of the sources that end in a window without a sample, see `closed_chunks`."""
    without = {one.source for one in cut.finished if not one.samples}
    ended = [piece.source for piece in cut.window.pieces if piece.is_last and piece.source.id in without]
    return closed_chunks(ended, options)


def _known(cut: CutSamples, recogniser: SourceRecogniser | None) -> dict[str, KnownAs]:
    """Return which of the sources that end in a window the classifier knows."""
    if recogniser is None:
        return {}
    ended = [one.source for one in cut.finished]
    return recogniser.add(cut.table.sources, cut.sequences["dna"], cut.sequences["protein"], ended)


def _record_lines(source: Source) -> bytes:
    """Write the id and the length of a record in a line, and then its sequence with its line ends."""
    raw = source.raw.strip(b"\n")
    return b"%b\t%d\n%b\n" % (cell(source.record_id).encode(), len(raw), raw)


def _records(work: Path) -> Iterator[tuple[bytes, bytes]]:
    with (work / _RECORDS_NAME).open("rb") as stream:
        while line := stream.readline():
            name, length_bytes = line.rstrip(b"\n").split(b"\t")
            yield name, stream.read(int(length_bytes))
            stream.read(1)


def _sequences_name(molecule: Molecule) -> str:
    return f"{molecule}.tsv"


def _sequence_lines(cut: CutSamples, molecule: Molecule) -> Iterator[bytes]:
    """Write for each sample its key in hexadecimal, its sequence, and its id."""
    keys = cut.table.dna_keys if molecule == "dna" else cut.table.protein_keys
    for key, sequence, name in zip(keys, cut.sequences[molecule], cut.table.samples, strict=True):
        yield _sequence_line(key.tobytes(), sequence, name)


def _sequence_line(key: bytes, sequence: bytes, name: str) -> bytes:
    return b"%b\t%b\t%b\n" % (key.hex().encode(), sequence, cell(name).encode())


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


def _score(
    scorer: _Scorer,
    caller: DnaCaller | None,
    work: Path,
    tables: Tables,
    held: HeldContigs,
    track: Track | None,
    expected: int,
    on_scored: OnScored | None,
) -> Tally:
    """Score samples batch by batch, write their tables, and hold the scores of sequences; those without a sample are
    scored by `caller`.
    """
    labels, preparation = scorer.labels, scorer.preparation
    gatherer = ContigGatherer(_sources(work), len(labels), scorer.sequences, track)
    tally = Tally(labels)
    done = 0

    def called(contigs: Iterator[Contig]) -> list[Contig]:
        return list(contigs if caller is None else caller.call(contigs))

    for batch in read_samples(work / SAMPLES_NAME, PIECE_ROWS):
        samples = collect([batch], preparation, "the input")
        scores, logits = scorer.score(samples)
        held.add(called(gatherer.add(scores, logits, samples.start)))
        tables.write(samples, scores)
        tally.add(scores)
        done += len(samples)
        if on_scored is not None:
            on_scored(done, expected)
    held.add(called(gatherer.finish()))
    return tally


def _call(held: HeldContigs, work: Path, tables: Tables, tally: Tally) -> Called:
    """Call the sequences, all of whose scores are known now, and write their tables."""
    contigs = held.called(_sources(work), len(tally.labels))
    while some := list(islice(contigs, PIECE_ROWS)):
        tables.write_contigs(some)
        tally.add_contigs(some)
    tables.finish()
    return held.outcome(tally.labels)


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
        self.sequences = sequences_of(members)
        """Calibration of sequences, by the means of what `score` returns beside the probabilities."""
        self._members = list(zip(members, targets, strict=True))
        self._orders = [class_order(one, self.labels) for one in members]
        self._all_targets = {target.recipe.id: target for some in targets for target in some}.values()
        self._complete = all(report.complete for report in reports)

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
