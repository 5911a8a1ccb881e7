"""The files that samples are written to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO, Protocol

from embedstore.errors import InputError
from embedstore.samples.cutting import CutSamples
from embedstore.samples.folder import OutputFolder
from embedstore.samples.frames import Frame
from embedstore.samples.inputs import SourceFile, repeated_stems
from embedstore.samples.options import PrepareOptions
from embedstore.samples.table import SampleWriter
from embedstore.samples.virnucpro import chunk_records

SAMPLES_NAME = "samples.tsv"
DNA_NAME = "dna.fna"
PROTEIN_NAME = "protein.faa"
SETTINGS_NAME = "prepare.json"


class Output(Protocol):
    """Takes the samples window by window."""

    def write(self, cut: CutSamples) -> None: ...

    def finish(self) -> None: ...


def open_outputs(folder: OutputFolder, files: Sequence[SourceFile], options: PrepareOptions) -> tuple[Output, ...]:
    """Create what is to be written.

    Raises
    ------
    InputError : two input files would need an output of one name.
    """
    table = SampleFiles(folder)
    return (table, VirnucproFiles(folder, files, options)) if options.compat == "virnucpro" else (table,)


class SampleFiles:
    """The table of samples, and their DNA and proteins as FASTA, a record a sample, in the order of the table."""

    def __init__(self, folder: OutputFolder) -> None:
        self._table = SampleWriter(folder.create(SAMPLES_NAME))
        self._dna = folder.create(DNA_NAME)
        self._proteins = folder.create(PROTEIN_NAME)

    def write(self, cut: CutSamples) -> None:
        """Append the samples of a window."""
        self._table.write(cut.table)
        self._dna.write(_dna_records(cut.frames))
        self._proteins.write(_protein_records(cut.frames))

    def finish(self) -> None:
        """Nothing is left to write."""


class VirnucproFiles:
    """For each input file the three files that VirNucPro makes of it, named as it names them."""

    def __init__(self, folder: OutputFolder, files: Sequence[SourceFile], options: PrepareOptions) -> None:
        for stem, paths in repeated_stems(files).items():
            raise InputError(
                f"Cannot name VirNucPro's files: expected input files of different names, found {' and '.join(paths)}, "
                f"which would all give {stem}_chunked{options.length_bases}.fa. Prepare them one by one."
            )
        self._folder = folder
        self._length_bases = options.length_bases
        self._waiting = list(reversed(files))
        self._current: SourceFile | None = None
        self._streams: tuple[BinaryIO, ...] = ()

    def write(self, cut: CutSamples) -> None:
        """Append the chunks and samples of a window, which may be of several files."""
        frames: dict[SourceFile, list[Frame]] = {}
        for frame in cut.frames:
            frames.setdefault(frame.source.file, []).append(frame)
        chunks: dict[SourceFile, list[bytes]] = {}
        for piece in cut.window.pieces:
            chunks.setdefault(piece.source.file, []).append(chunk_records(piece))
        for file, records in chunks.items():
            while self._current is not file:
                self._next_file()
            chunked, dna, proteins = self._streams
            chunked.write(b"".join(records))
            dna.write(_dna_records(frames.get(file, ())))
            proteins.write(_protein_records(frames.get(file, ())))

    def finish(self) -> None:
        """Create the files of inputs that had no record; VirNucPro writes empty ones."""
        while self._waiting:
            self._next_file()

    def _next_file(self) -> None:
        for stream in self._streams:
            stream.close()
        file = self._current = self._waiting.pop()
        names = (f"_chunked{self._length_bases}.fa", "_identified_nucleotide.fa", "_identified_protein.faa")
        self._streams = tuple(self._folder.create(file.stem + name) for name in names)


def _dna_records(frames: Sequence[Frame]) -> bytes:
    return b"".join([b">%b\n%b\n" % (frame.name.encode(), frame.dna) for frame in frames])


def _protein_records(frames: Sequence[Frame]) -> bytes:
    return b"".join([b">%b\n%b\n" % (frame.name.encode(), frame.protein) for frame in frames])
