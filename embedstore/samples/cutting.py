"""From sources to samples: which frames of which chunks, with their sequences and keys, and why others are dropped.

In this order: `PrepareOptions`, what a user chooses, checked once; `Frame`, the frames of a window's chunks that become
samples; `Window`, chunks of one long source or of many short ones, translated at once; the rules of VirNucPro; and
`cut_samples`, which brings them together.

A frame becomes a sample if it has a codon, no stop, and a known residue. Its DNA is exactly the codons of its protein,
on its own strand. A chunk without such a frame is dropped and counted with its reason.

`compat="virnucpro"` makes samples as `prediction.py` of Li-Jing-1997/VirNucPro (at 0f93f27) does, for users who must
reproduce its runs. It differs from the rules above: chunks overlap more than they need to at the front and too little
at the end, so that the last one may be short; codons with a base other than A, C, G, T are left out of the protein,
which is then shorter than its frame; the DNA of a frame has three bases for each residue that is left, and one more
where the chunk has one; only A, C, G, T are complemented; U is not read as T. Case does not matter, except that chunks
are written as they were read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import InputError
from embedstore.identity import Molecule, canonical, key_array, sequence_key
from embedstore.samples.sources import GroupBy, Source
from embedstore.samples.table import SampleBatch
from embedstore.sequences.translation import (
    CODON_BASES,
    FRAMES,
    UNKNOWN,
    Bounds,
    GeneticCode,
    SixFrames,
    Spans,
    even_chunks,
    frame_spans,
    genetic_code,
    reverse_complement,
    virnucpro_chunks,
)

Compat = Literal["virnucpro"]

MIN_LENGTH_BASES = 60
"""What Prodigal asks of a gene that the end of a contig cuts: a shorter frame is free of stops by chance."""

_STANDARD_CODE = 1


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """How samples are cut.

    Parameters
    ----------
    length_bases : of a chunk, at least 3.
    genetic_code : number of NCBI's translation table.
    min_length_bases : shorter sequences give no sample, and are counted; None: 60, or none with `compat`.
    group_by : "file" or "record"; None: a file that was named is grouped by record, the files of a folder by file.
    compat : "virnucpro" cuts and translates as VirNucPro does, quirks included.
    keep_closed : write the chunks without an open frame too, as `closed.fna`, for a head on DNA alone.

    Raises
    ------
    InputError : a number is out of range, there is no such genetic code, or VirNucPro has no such option.
    """

    length_bases: int = 500
    genetic_code: int = _STANDARD_CODE
    min_length_bases: int | None = None
    group_by: GroupBy | None = None
    compat: Compat | None = None
    keep_closed: bool = False

    def __post_init__(self) -> None:
        if self.length_bases < CODON_BASES:
            raise InputError(
                f"Cannot cut chunks of {self.length_bases} bases: expected at least {CODON_BASES}, a codon. "
                "Choose another length."
            )
        if self.compat is not None and (self.genetic_code != _STANDARD_CODE or self.min_length_bases is not None):
            raise InputError(
                "Cannot cut samples: compat='virnucpro' requires genetic code 1 and no minimal length, found code "
                f"{self.genetic_code} and a minimal length of {self.min_length_bases}. "
                "Leave these options out, or prepare without compat."
            )
        if not 0 <= self.shortest_bases <= self.length_bases:
            raise InputError(
                f"Cannot cut samples: expected a minimal length between 0 and the chunk length, found "
                f"{self.shortest_bases} and {self.length_bases}. Choose a smaller minimal length."
            )
        genetic_code(self.genetic_code)

    @property
    def shortest_bases(self) -> int:
        """Sequences must have at least as many bases."""
        if self.min_length_bases is not None:
            return self.min_length_bases
        return 0 if self.compat else min(MIN_LENGTH_BASES, self.length_bases)

    @property
    def code(self) -> GeneticCode:
        """Tables of the genetic code."""
        return genetic_code(self.genetic_code)

    @property
    def cut(self) -> Callable[[int, int], Bounds]:
        """Function that tells where a sequence is cut, see `embedstore.sequences.translation`."""
        return virnucpro_chunks if self.compat == "virnucpro" else even_chunks

    def to_json(self) -> dict[str, Any]:
        """The options as JSON values."""
        return {
            "length": self.length_bases,
            "genetic_code": self.genetic_code,
            "min_length": self.shortest_bases,
            "group_by": self.group_by,
            "compat": self.compat,
            **({"keep_closed": True} if self.keep_closed else {}),
        }

    def preparation(self) -> dict[str, Any]:
        """What a schema compares: samples that differ in it do not belong together."""
        return {
            "chunk_length": self.length_bases,
            "genetic_code": self.genetic_code,
            "frames": "stop-free",
            "compat": self.compat,
        }


class Frame(NamedTuple):
    """A frame of a chunk that becomes a sample.

    Attributes
    ----------
    id : of the sample.
    name : of its sequences in FASTA.
    start : of its DNA in the source, 0-based, on the forward strand.
    end : behind its DNA.
    """

    source: Source
    id: str
    name: str
    start: int
    end: int
    strand: str
    number: int
    dna: bytes
    protein: bytes


def stop_free_frames(window: Window, frames: SixFrames, spans: Spans, is_sample: NDArray[np.bool_]) -> Iterator[Frame]:
    """Give the frames that are samples, named `SOURCE:START-END:STRANDFRAME`, chunk by chunk.

    Their DNA is exactly the codons of their protein, on the frame's strand.

    Parameters
    ----------
    window : the chunks.
    frames : the translations of the window's DNA.
    spans : (n, 6, 2) int64, in the window.
    is_sample : (n, 6) bool.
    """
    chunks, places = np.nonzero(is_sample)
    pieces = window.pieces_of_chunks[chunks].tolist()
    for piece, (start, end), place in zip(pieces, spans[chunks, places].tolist(), places.tolist(), strict=True):
        strand, number = FRAMES[place]
        source, shift = window.pieces[piece].source, window.shifts[piece]
        forward = window.dna[start:end]
        dna = forward if strand == "+" else reverse_complement(forward)
        id_ = f"{source.id}:{start + shift + 1}-{end + shift}:{strand}{number}"
        protein = frames.protein(start, end, strand)
        yield Frame(source, id_, id_, start + shift, end + shift, strand, number, dna, protein)


WINDOW_BASES = 1 << 19
"""Small enough that tables of a few bytes a base stay in the processor's cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Consecutive chunks of one source.

    Attributes
    ----------
    bounds : (k, 2) int64, in the source.
    first_chunk : number of the first of them in the source, from 0.
    is_last : the source's last chunk is among them.
    """

    source: Source
    bounds: Bounds
    first_chunk: int
    is_last: bool

    @property
    def start(self) -> int:
        """Where it begins in the source."""
        return int(self.bounds[0, 0])

    @property
    def dna(self) -> bytes:
        """What its chunks cover."""
        return self.source.dna[self.start : int(self.bounds[-1, 1])]


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Pieces end to end.

    Attributes
    ----------
    dna : of all pieces.
    bounds : (n, 2) int64, of all chunks in `dna`.
    pieces_of_chunks : (n,) int64, which piece each chunk is from.
    shifts : place in the source less place in `dna`, one a piece.
    """

    pieces: tuple[Piece, ...]
    dna: bytes
    bounds: Bounds
    pieces_of_chunks: NDArray[np.int64]
    shifts: tuple[int, ...]


def windows(sources: Iterable[Source], options: PrepareOptions) -> Iterator[Window]:
    """Cut sources into chunks and gather these to windows of about `WINDOW_BASES`, in order."""
    gathered: list[Piece] = []
    bases = 0
    for source in sources:
        for piece in _pieces(source, options):
            gathered.append(piece)
            bases += int(piece.bounds[-1, 1]) - piece.start
            if bases >= WINDOW_BASES:
                yield _window(gathered)
                gathered, bases = [], 0
    if gathered:
        yield _window(gathered)


def _pieces(source: Source, options: PrepareOptions) -> Iterator[Piece]:
    bounds = options.cut(len(source.dna), options.length_bases)
    chunks_at_once = max(1, WINDOW_BASES // options.length_bases)
    for first in range(0, len(bounds), chunks_at_once):
        behind = first + chunks_at_once
        yield Piece(source, bounds[first:behind], first, is_last=behind >= len(bounds))


def _window(pieces: list[Piece]) -> Window:
    parts = [piece.dna for piece in pieces]
    ends = np.cumsum([len(part) for part in parts])
    places = [int(end) - len(part) for end, part in zip(ends, parts, strict=True)]
    shifts = tuple(piece.start - place for piece, place in zip(pieces, places, strict=True))
    bounds = [piece.bounds - shift for piece, shift in zip(pieces, shifts, strict=True)]
    which = np.repeat(np.arange(len(pieces)), [len(piece.bounds) for piece in pieces])
    return Window(tuple(pieces), b"".join(parts), np.concatenate(bounds), which, shifts)


_WHITESPACE = b" \t\r\n\v\f"
_COMPLEMENTS = bytes.maketrans(b"ACGT", b"TGCA")
_STRAND_SUFFIXES = {"+": "F", "-": "R"}
_LINE_BASES = 60


def as_read_by_virnucpro(source: Source) -> Source:
    """Return the source with the bases that VirNucPro would translate, and `raw` without blanks."""
    bare = source.raw.translate(None, _WHITESPACE)
    return replace(source, dna=bare.upper(), raw=bare)


def virnucpro_frames(window: Window, frames: SixFrames, spans: Spans, is_sample: NDArray[np.bool_]) -> Iterator[Frame]:
    """Give the frames that are samples, named `RECORD_chunk_NUMBER` and F1 to R3, chunk by chunk.

    Parameters
    ----------
    window : the chunks.
    frames : the translations of the window's DNA.
    spans : (n, 6, 2) int64, in the window.
    is_sample : (n, 6) bool.
    """
    chunks, places = np.nonzero(is_sample)
    pieces = window.pieces_of_chunks[chunks]
    numbers = chunks - np.searchsorted(window.pieces_of_chunks, pieces)  # in the piece
    places_in_window = zip(spans[chunks, places].tolist(), window.bounds[chunks].tolist(), strict=True)
    rows = zip(pieces.tolist(), numbers.tolist(), places.tolist(), places_in_window, strict=True)
    for index, chunk, place, ((span_start, span_end), (chunk_start, chunk_end)) in rows:
        strand, number = FRAMES[place]
        piece, shift = window.pieces[index], window.shifts[index]
        protein = frames.protein(span_start, span_end, strand).replace(UNKNOWN, b"")
        bases = min(len(protein) * CODON_BASES + 1, chunk_end - chunk_start - (number - 1))
        start = chunk_start + number - 1 if strand == "+" else chunk_end - (number - 1) - bases
        forward = window.dna[start : start + bases]
        dna = forward if strand == "+" else forward.translate(_COMPLEMENTS)[::-1]
        suffix = f"_chunk_{piece.first_chunk + chunk + 1}{_STRAND_SUFFIXES[strand]}{number}"
        source = piece.source
        id_, name = source.id + suffix, source.record_id + suffix
        yield Frame(source, id_, name, start + shift, start + shift + bases, strand, number, dna, protein)


def chunk_records(piece: Piece) -> bytes:
    """Write the chunks of a piece as FASTA in lines of 60, in the case in which they were read."""
    lines = []
    for number, (start, end) in enumerate(piece.bounds.tolist(), start=piece.first_chunk + 1):
        lines.append(f">{piece.source.record_id}_chunk_{number}".encode())
        chunk = piece.source.raw[start:end]
        lines += [chunk[place : place + _LINE_BASES] for place in range(0, len(chunk), _LINE_BASES)]
    return b"\n".join([*lines, b""])


TOO_SHORT = "shorter than the minimal length"
ALL_N = "all N"
NO_OPEN_FRAME = "no open frame"
ALL_X = "only X in its open frames"

REASONS = (TOO_SHORT, ALL_N, NO_OPEN_FRAME, ALL_X)
"""Why a chunk gives no sample."""

_KEPT = len(REASONS)
_CLOSED = REASONS.index(NO_OPEN_FRAME)


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """Outcome of one source.

    Attributes
    ----------
    dropped : chunks by reason; reasons that did not occur are left out.
    """

    source: str
    group: str
    label: str
    length_bases: int
    chunks: int
    samples: int
    dropped: dict[str, int]

    @property
    def chunks_seen(self) -> int:
        """Chunks that gave samples."""
        return self.chunks - sum(self.dropped.values())


@dataclass(frozen=True, slots=True, eq=False)
class CutSamples:
    """The samples of one window, and the sources that end in it.

    Attributes
    ----------
    table : their rows.
    frames : the same with their sequences as they are written, in the order of the rows.
    sequences : the same in canonical form, of which the keys in `table` are.
    finished : summaries of the sources whose last chunk is in this window, with or without a sample.
    closed : places of the chunks that have no open frame, in the window.
    """

    window: Window
    table: SampleBatch
    frames: tuple[Frame, ...]
    sequences: Mapping[Molecule, Sequence[bytes]]
    finished: tuple[SourceSummary, ...]
    closed: NDArray[np.int64]


def cut_samples(sources: Iterable[Source], options: PrepareOptions) -> Iterator[CutSamples]:
    """Cut sources into samples, a window at a time; memory is bounded by the longest source."""
    tally = _Tally()
    if options.compat == "virnucpro":
        sources = map(as_read_by_virnucpro, sources)
    for window in windows(sources, options):
        frames = SixFrames(window.dna, options.code)
        spans = frame_spans(window.bounds)
        is_open = frames.open_frames(spans)
        is_sample = is_open & frames.known_frames(spans)
        outcomes = _outcomes(window, options, is_open, is_sample)
        is_sample &= (outcomes == _KEPT)[:, np.newaxis]
        cut = virnucpro_frames if options.compat == "virnucpro" else stop_free_frames
        rows = tuple(cut(window, frames, spans, is_sample))
        dna = [frame.dna for frame in rows]  # of canonical sources, so it is canonical unless it is VirNucPro's
        sequences: dict[Molecule, list[bytes]] = {
            "dna": dna if options.compat is None else [canonical(each, "dna") for each in dna],
            "protein": [frame.protein for frame in rows],
        }
        finished = tally.add(window, outcomes, is_sample.sum(axis=1))
        closed = np.flatnonzero(outcomes == _CLOSED)
        yield CutSamples(window, _table(rows, sequences), rows, sequences, finished, closed)


def closed_chunks(sources: Sequence[Source], options: PrepareOptions) -> Iterator[tuple[str, bytes, str]]:
    """Yield the chunks that have a stop in every frame: id of the source, canonical DNA (forward), and a name.

    Parameters
    ----------
    sources : each as `CutSamples.window` has it.
    options : as for `cut_samples`.
    """
    for window in windows(sources, options):
        is_open = SixFrames(window.dna, options.code).open_frames(frame_spans(window.bounds))
        yield from chunks_at(window, np.flatnonzero(_outcomes(window, options, is_open, is_open) == _CLOSED))


def chunks_at(window: Window, places: NDArray[np.int64]) -> Iterator[tuple[str, bytes, str]]:
    """Yield some chunks of a window: id of the source, canonical DNA (forward), and a name, `SOURCE:START-END`."""
    pieces = window.pieces_of_chunks[places].tolist()
    for piece, (start, end) in zip(pieces, window.bounds[places].tolist(), strict=True):
        source, shift = window.pieces[piece].source, window.shifts[piece]
        yield source.id, canonical(window.dna[start:end], "dna"), f"{source.id}:{start + shift + 1}-{end + shift}"


def _outcomes(
    window: Window, options: PrepareOptions, is_open: NDArray[np.bool_], is_sample: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """(n,) place of each chunk's reason in `REASONS`, or `_KEPT`; the first that holds."""
    places_of_n = np.flatnonzero(np.frombuffer(window.dna, dtype=np.uint8) == ord("N"))
    starts, ends = window.bounds[:, 0], window.bounds[:, 1]
    count_of_n = np.searchsorted(places_of_n, ends) - np.searchsorted(places_of_n, starts)
    conditions = [
        ends - starts < options.shortest_bases,
        count_of_n == ends - starts,
        ~is_open.any(axis=1),
        ~is_sample.any(axis=1),
    ]
    return np.select(conditions, list(range(len(REASONS))), default=_KEPT)


def _table(frames: Sequence[Frame], sequences: Mapping[Molecule, Sequence[bytes]]) -> SampleBatch:
    return SampleBatch(
        tuple([frame.id for frame in frames]),
        tuple([frame.source.id for frame in frames]),
        tuple([frame.source.group for frame in frames]),
        tuple([frame.source.label for frame in frames]),
        np.array([frame.start + 1 for frame in frames], dtype=np.int64),
        np.array([frame.end for frame in frames], dtype=np.int64),
        tuple([frame.strand for frame in frames]),
        np.array([frame.number for frame in frames], dtype=np.int64),
        key_array(map(sequence_key, sequences["dna"])),
        key_array(map(sequence_key, sequences["protein"])),
    )


class _Tally:
    """Counts chunks and samples of sources whose chunks come in several windows."""

    def __init__(self) -> None:
        self._reset()

    def add(self, window: Window, outcomes: NDArray[np.int64], samples: NDArray[np.int64]) -> tuple[SourceSummary, ...]:
        """Add one window's chunks; return the summaries of the sources that end in it."""
        count = len(window.pieces)
        places = window.pieces_of_chunks * (_KEPT + 1) + outcomes
        chunks = np.bincount(places, minlength=count * (_KEPT + 1)).reshape(count, _KEPT + 1)
        samples_of_pieces = np.bincount(window.pieces_of_chunks, weights=samples, minlength=count).astype(np.int64)
        finished = []
        for piece, piece_chunks, piece_samples in zip(window.pieces, chunks, samples_of_pieces.tolist(), strict=True):
            self._chunks += piece_chunks
            self._samples += piece_samples
            if piece.is_last:
                finished.append(self._finish(piece.source))
        return tuple(finished)

    def _finish(self, source: Source) -> SourceSummary:
        *dropped, kept = self._chunks.tolist()
        reasons = {reason: number for reason, number in zip(REASONS, dropped, strict=True) if number}
        chunks = kept + sum(dropped)
        summary = SourceSummary(source.id, source.group, source.label, len(source.dna), chunks, self._samples, reasons)
        self._reset()
        return summary

    def _reset(self) -> None:
        self._samples = 0
        self._chunks = np.zeros(_KEPT + 1, dtype=np.int64)
