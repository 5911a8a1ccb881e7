"""From sources to samples: which frames of which chunks, with their sequences and keys, and why others are dropped.

In this order: `PrepareOptions`, what a user chooses, checked once; `Frame`, the frames of a window's chunks that become
samples; `Window`, chunks of one long source or of many short ones, translated at once; the rules of VirNucPro; and
`cut_samples`, which brings them together.

A frame becomes a sample if it has a codon, no stop, and a known residue. Its DNA is exactly the codons of its protein,
on its own strand. A chunk without such a frame is dropped and counted with its reason.

With `coding_only` it is not sources that are cut into chunks, but their coding sequences, spliced and without the last
stop, at codons; and of a chunk only the frame that is translated may become a sample.

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
from embedstore.samples.codes import AUTO, STANDARD_CODE, CodeChoice, CodeTable, choose_codes
from embedstore.samples.sources import ChosenCode, GroupBy, Source
from embedstore.samples.table import SampleBatch
from embedstore.sequences.genbank import CodingSequence
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
    may_end,
    reverse_complement,
    same_code,
    virnucpro_chunks,
)

Compat = Literal["virnucpro"]

MIN_LENGTH_BASES = 60
"""What Prodigal asks of a gene that the end of a contig cuts: a shorter frame is free of stops by chance."""

STOP_FREE, CODING = "stop-free", "coding"
"""What a preparation calls the frames that may become samples."""


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """How samples are cut.

    Parameters
    ----------
    length_bases : of a chunk, at least 3.
    genetic_code : number of NCBI's translation table; "auto": for each source what GenBank states, or an estimate;
        a table of them; None: 1, or "auto" with `coding_only`.
    min_length_bases : shorter sequences give no sample, and are counted; None: 60, or none with `compat`.
    group_by : "file" or "record"; None: a file that was named is grouped by record, the files of a folder by file.
    compat : "virnucpro" cuts and translates as VirNucPro does, quirks included.
    coding_only : cut only the coding sequences that GenBank states, and translate these only in their frame.
    keep_closed : write the chunks without an open frame too, as `closed.fna`, for a head on DNA alone.

    Raises
    ------
    InputError : a number is out of range, there is no such genetic code, or VirNucPro has no such option.
    """

    length_bases: int = 500
    genetic_code: CodeChoice | None = None
    min_length_bases: int | None = None
    group_by: GroupBy | None = None
    compat: Compat | None = None
    coding_only: bool = False
    keep_closed: bool = False

    def __post_init__(self) -> None:
        if self.length_bases < CODON_BASES:
            raise InputError(
                f"Cannot cut chunks of {self.length_bases} bases: expected at least {CODON_BASES}, a codon. "
                "Choose another length."
            )
        if self.compat is not None and (
            self.codes != STANDARD_CODE or self.min_length_bases is not None or self.coding_only
        ):
            raise InputError(
                "Cannot cut samples: compat='virnucpro' requires genetic code 1, no minimal length and all frames, "
                f"found code {self.codes}, a minimal length of {self.min_length_bases} and coding_only="
                f"{self.coding_only}. Leave these options out, or prepare without compat."
            )
        if not 0 <= self.shortest_bases <= self.length_bases:
            raise InputError(
                f"Cannot cut samples: expected a minimal length between 0 and the chunk length, found "
                f"{self.shortest_bases} and {self.length_bases}. Choose a smaller minimal length."
            )
        if isinstance(self.codes, int):
            genetic_code(self.codes)
        elif self.codes != AUTO and not isinstance(self.codes, CodeTable):
            raise InputError(f"Cannot translate with genetic code {self.codes}: expected a number, 'auto' or a table.")

    @property
    def shortest_bases(self) -> int:
        """Sequences must have at least as many bases."""
        if self.min_length_bases is not None:
            return self.min_length_bases
        return 0 if self.compat else min(MIN_LENGTH_BASES, self.length_bases)

    @property
    def codes(self) -> CodeChoice:
        """What sources are translated with."""
        if self.genetic_code is not None:
            return self.genetic_code
        return "auto" if self.coding_only else STANDARD_CODE

    @property
    def code(self) -> GeneticCode:
        """Tables of the genetic code of all sources.

        Raises
        ------
        InputError : sources have their own.
        """
        if not isinstance(self.codes, int):
            raise InputError(f"Cannot name one genetic code: expected a number, found {self.codes}.")
        return genetic_code(self.codes)

    @property
    def reads_coding(self) -> Literal["ignore", "read", "require"]:
        """What a `SourceReader` has to do with coding sequences."""
        if self.coding_only:
            return "require"
        return "read" if self.codes == AUTO else "ignore"

    @property
    def cut(self) -> Callable[[int, int], Bounds]:
        """Function that tells where a sequence is cut, see `embedstore.sequences.translation`."""
        return virnucpro_chunks if self.compat == "virnucpro" else even_chunks

    def to_json(self) -> dict[str, Any]:
        """The options as JSON values."""
        return {
            "length": self.length_bases,
            "genetic_code": self.codes if not isinstance(self.codes, CodeTable) else self.codes.file,
            "min_length": self.shortest_bases,
            "group_by": self.group_by,
            "compat": self.compat,
            **({"coding_only": True} if self.coding_only else {}),
            **({"keep_closed": True} if self.keep_closed else {}),
        }

    def preparation(self) -> dict[str, Any]:
        """What a schema compares: samples that differ in it do not belong together."""
        codes = self.codes.numbers if isinstance(self.codes, CodeTable) else ()
        return {
            "chunk_length": self.length_bases,
            "genetic_code": listed_codes(codes) if codes else self.codes,
            "frames": CODING if self.coding_only else STOP_FREE,
            "compat": self.compat,
        }


def listed_codes(numbers: Iterable[int]) -> int | str:
    """Write genetic codes as a preparation does: one as its number, several as "1,4"."""
    different = sorted(set(numbers))
    return different[0] if len(different) == 1 else ",".join(map(str, different))


class Frame(NamedTuple):
    """A frame of a chunk that becomes a sample.

    Attributes
    ----------
    id : of the sample.
    name : of its sequences in FASTA.
    start : of its DNA in the source, 0-based, on the forward strand; of spliced exons, of the leftmost base.
    end : behind its DNA; of spliced exons, behind the rightmost base.
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


def coding_frames(window: Window, frames: SixFrames, spans: Spans, is_sample: NDArray[np.bool_]) -> Iterator[Frame]:
    """Give the chunks of coding sequences that are samples, named `SOURCE:START-END:STRAND1:CDSNUMBER.CHUNK`.

    Parameters
    ----------
    window : the chunks.
    frames : the translations of the window's DNA.
    spans : (n, 6, 2) int64, in the window.
    is_sample : (n, 6) bool, true only in the first frame.
    """
    chunks = np.flatnonzero(is_sample[:, 0])
    pieces = window.pieces_of_chunks[chunks].tolist()
    for chunk, index, (start, end) in zip(chunks.tolist(), pieces, spans[chunks, 0].tolist(), strict=True):
        piece, shift = window.pieces[index], window.shifts[index]
        first, behind, strand = _place(piece, start + shift, end + shift)
        number = chunk - int(np.searchsorted(window.pieces_of_chunks, index)) + piece.first_chunk + 1
        of_cds = 0 if piece.coding is None else piece.coding.number
        id_ = f"{piece.source.id}:{first + 1}-{behind}:{strand}1:CDS{of_cds}.{number}"
        dna, protein = window.dna[start:end], frames.protein(start, end, "+")
        yield Frame(piece.source, id_, id_, first, behind, strand, 1, dna, protein)


def spliced(coding: CodingSequence, dna: bytes) -> bytes:
    """Return the exons of a coding sequence end to end, on its strand, from its first whole codon on."""
    exons = [dna[part.start : part.end] for part in coding.parts]
    strands = [part.strand for part in coding.parts]
    whole = b"".join(
        exon if strand == "+" else reverse_complement(exon) for exon, strand in zip(exons, strands, strict=True)
    )
    return whole[coding.skipped_bases :]


def _place(piece: Piece, start: int, end: int) -> tuple[int, int, str]:
    """Return where a stretch of a piece's text is in its source: leftmost base, behind the rightmost, strand.

    The strand is that of the exon that the stretch begins in.
    """
    coding = piece.coding
    if coding is None:
        return start, end, "+"
    start, end = start + coding.skipped_bases, end + coding.skipped_bases
    covered: list[tuple[int, int, str]] = []
    passed = 0
    for part in coding.parts:
        size = part.end - part.start
        low, high = max(start - passed, 0), min(end - passed, size)
        if low < high and part.strand == "+":
            covered.append((part.start + low, part.start + high, "+"))
        elif low < high:
            covered.append((part.end - high, part.end - low, "-"))
        passed += size
    return min(low for low, _, _ in covered), max(high for _, high, _ in covered), covered[0][2]


WINDOW_BASES = 1 << 19
"""Small enough that tables of a few bytes a base stay in the processor's cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Consecutive chunks of one source, or of one of its coding sequences.

    Attributes
    ----------
    text : the DNA of the source, or the coding sequence.
    bounds : (k, 2) int64, in `text`; none where a source has no coding sequence.
    first_chunk : number of the first of them in `text`, from 0.
    is_last : the source's last chunk is among them.
    code : number of the genetic code.
    coding : where `text` is in the source; None: it is the source.
    """

    source: Source
    text: bytes
    bounds: Bounds
    first_chunk: int
    is_last: bool
    code: int
    coding: CodingSequence | None = None

    @property
    def start(self) -> int:
        """Where it begins in `text`."""
        return int(self.bounds[0, 0]) if len(self.bounds) else 0

    @property
    def end(self) -> int:
        """Where it ends in `text`."""
        return int(self.bounds[-1, 1]) if len(self.bounds) else 0

    @property
    def dna(self) -> bytes:
        """What its chunks cover."""
        return self.text[self.start : self.end]


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Pieces of one genetic code, or of codes that translate alike, end to end.

    Attributes
    ----------
    dna : of all pieces.
    bounds : (n, 2) int64, of all chunks in `dna`.
    pieces_of_chunks : (n,) int64, which piece each chunk is from.
    shifts : place in the text of its piece less place in `dna`, one a piece.
    """

    pieces: tuple[Piece, ...]
    dna: bytes
    bounds: Bounds
    pieces_of_chunks: NDArray[np.int64]
    shifts: tuple[int, ...]

    @property
    def code(self) -> int:
        """Number of the genetic code."""
        return self.pieces[0].code


def windows(sources: Iterable[Source], options: PrepareOptions) -> Iterator[Window]:
    """Cut sources into chunks and gather these to windows of about `WINDOW_BASES`, in order."""
    gathered: list[Piece] = []
    bases = 0
    pieces_of = _coding_pieces if options.coding_only else _pieces
    for source in sources:
        for piece in pieces_of(source, options):
            if gathered and not same_code(piece.code, gathered[0].code):
                yield _window(gathered)
                gathered, bases = [], 0
            gathered.append(piece)
            bases += piece.end - piece.start
            if bases >= WINDOW_BASES:
                yield _window(gathered)
                gathered, bases = [], 0
    if gathered:
        yield _window(gathered)


def _pieces(source: Source, options: PrepareOptions) -> Iterator[Piece]:
    bounds = options.cut(len(source.dna), options.length_bases)
    code = _code_of(source, options, None)
    chunks_at_once = max(1, WINDOW_BASES // options.length_bases)
    for first in range(0, len(bounds), chunks_at_once):
        behind = first + chunks_at_once
        yield Piece(source, source.dna, bounds[first:behind], first, is_last=behind >= len(bounds), code=code)


def _coding_pieces(source: Source, options: PrepareOptions) -> Iterator[Piece]:
    """Cut each coding sequence evenly at codons, without the stop at its end."""
    last = len(source.coding) - 1
    if last < 0:
        nowhere = even_chunks(0, options.length_bases)
        yield Piece(source, b"", nowhere, 0, is_last=True, code=_code_of(source, options, None))
    for place, coding in enumerate(source.coding):
        code = _code_of(source, options, coding)
        text = spliced(coding, source.dna)
        codons = len(text) // CODON_BASES
        if codons and may_end(text[CODON_BASES * (codons - 1) : CODON_BASES * codons], code):
            codons -= 1
        bounds = even_chunks(codons, options.length_bases // CODON_BASES) * CODON_BASES
        yield Piece(source, text, bounds, 0, is_last=place == last, code=code, coding=coding)


def _code_of(source: Source, options: PrepareOptions, coding: CodingSequence | None) -> int:
    """Return the code of a source or a coding sequence; where a CDS states none, GenBank means the standard code."""
    if source.code is not None:
        return source.code.number
    if isinstance(options.codes, int):
        return options.codes
    return (coding.table if coding is not None else None) or STANDARD_CODE


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
    codes : numbers of the genetic codes that it was translated with: one, but for coding sequences that differ.
    code_origin : what they were chosen by; "" where one code was given for all.
    """

    source: str
    group: str
    label: str
    length_bases: int
    chunks: int
    samples: int
    dropped: dict[str, int]
    codes: tuple[int, ...] = (STANDARD_CODE,)
    code_origin: str = ""

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
    tally = _Tally(options)
    if options.compat == "virnucpro":
        sources = map(as_read_by_virnucpro, sources)
    elif not (options.coding_only and options.codes == AUTO):  # there each coding sequence has its own
        sources = choose_codes(sources, options.codes)
    cut = _frames_of(options)
    for window in windows(sources, options):
        frames = SixFrames(window.dna, genetic_code(window.code))
        spans = frame_spans(window.bounds)
        is_open = frames.open_frames(spans)
        if options.coding_only:
            is_open[:, 1:] = False
        is_sample = is_open & frames.known_frames(spans)
        outcomes = _outcomes(window, options, is_open, is_sample)
        is_sample &= (outcomes == _KEPT)[:, np.newaxis]
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
        is_open = SixFrames(window.dna, genetic_code(window.code)).open_frames(frame_spans(window.bounds))
        if options.coding_only:
            is_open[:, 1:] = False
        yield from chunks_at(window, np.flatnonzero(_outcomes(window, options, is_open, is_open) == _CLOSED))


def chunks_at(window: Window, places: NDArray[np.int64]) -> Iterator[tuple[str, bytes, str]]:
    """Yield some chunks of a window: id of the source, canonical DNA (forward), and a name, `SOURCE:START-END`."""
    pieces = window.pieces_of_chunks[places].tolist()
    for piece, (start, end) in zip(pieces, window.bounds[places].tolist(), strict=True):
        source, shift = window.pieces[piece].source, window.shifts[piece]
        yield source.id, canonical(window.dna[start:end], "dna"), f"{source.id}:{start + shift + 1}-{end + shift}"


def _frames_of(
    options: PrepareOptions,
) -> Callable[[Window, SixFrames, Spans, NDArray[np.bool_]], Iterator[Frame]]:
    if options.coding_only:
        return coding_frames
    return virnucpro_frames if options.compat == "virnucpro" else stop_free_frames


def _outcomes(
    window: Window, options: PrepareOptions, is_open: NDArray[np.bool_], is_sample: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """(n,) place of each chunk's reason in `REASONS`, or `_KEPT`; the first that holds."""
    places_of_n = np.flatnonzero(np.frombuffer(window.dna, dtype=np.uint8) == ord("N"))
    starts, ends = window.bounds[:, 0], window.bounds[:, 1]
    count_of_n = np.searchsorted(places_of_n, ends) - np.searchsorted(places_of_n, starts)
    longest = options.length_bases // CODON_BASES * CODON_BASES if options.coding_only else options.length_bases
    conditions = [
        ends - starts < min(options.shortest_bases, longest),
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

    def __init__(self, options: PrepareOptions) -> None:
        self._has_one_code = isinstance(options.codes, int)
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
            self._codes.add(piece.code)
            if piece.is_last:
                finished.append(self._finish(piece.source))
        return tuple(finished)

    def _finish(self, source: Source) -> SourceSummary:
        *dropped, kept = self._chunks.tolist()
        reasons = {reason: number for reason, number in zip(REASONS, dropped, strict=True) if number}
        chunks = kept + sum(dropped)
        origin = "" if self._has_one_code else (source.code or ChosenCode(STANDARD_CODE, "transl_table")).origin
        codes = tuple(sorted(self._codes))
        summary = SourceSummary(
            source.id, source.group, source.label, len(source.dna), chunks, self._samples, reasons, codes, origin
        )
        self._reset()
        return summary

    def _reset(self) -> None:
        self._samples = 0
        self._codes: set[int] = set()
        self._chunks = np.zeros(_KEPT + 1, dtype=np.int64)
