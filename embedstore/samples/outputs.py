"""The files that samples are written to, which appear in their folder together once all of them are complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from embedstore.errors import InputError, StorageError
from embedstore.samples.cutting import CutSamples, Frame, PrepareOptions, chunk_records, chunks_at
from embedstore.samples.sources import SourceFile, repeated_stems
from embedstore.samples.table import SampleWriter


class OutputFolder:
    """Collects files in a hidden folder inside `path`, and moves them to their names at the end.

    Leaving the context without `publish` removes what was written. A killed process leaves the hidden folder behind,
    and no file under its name.

    Attributes
    ----------
    hidden : the folder inside, for temporary files too: where the results fit, these do, whatever $TMPDIR is.

    Raises
    ------
    InputError : the folder cannot be made or written.
    StorageError : writing fails later, as when the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_new = not path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
            self.hidden = Path(tempfile.mkdtemp(prefix=".prepare-", dir=path))
        except OSError as error:
            raise InputError(f"Cannot write into {path}: {error.strerror}. Choose another folder.") from error
        self._names: list[str] = []
        self._open_files = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # of no interest behind an error; without one, publish has closed them
            self._open_files.close()
        shutil.rmtree(self.hidden, ignore_errors=True)
        if kind is not None and self._is_new:
            with suppress(OSError):  # somebody else has put something there
                self._path.rmdir()
        if isinstance(error, OSError):
            raise StorageError(f"Cannot write into {self._path}: {error.strerror or error}.") from error

    def create(self, name: str) -> BinaryIO:
        """Open a new file; it is closed at the end."""
        self._names.append(name)
        return self._open_files.enter_context((self.hidden / name).open("xb"))

    def publish(self, marker: str) -> None:
        """Move all files to their names, `marker` last: where it is, the others belong to it and are complete."""
        self._open_files.close()
        for name in self._names:
            _flush_to_disk(self.hidden / name)
        (self._path / marker).unlink(missing_ok=True)
        for name in sorted(self._names, key=lambda name: name == marker):
            (self.hidden / name).replace(self._path / name)
        _flush_to_disk(self._path)


def _flush_to_disk(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


SAMPLES_NAME = "samples.tsv"
DNA_NAME = "dna.fna"
PROTEIN_NAME = "protein.faa"
CLOSED_NAME = "closed.fna"
SETTINGS_NAME = "prepare.json"


class Output(Protocol):
    """Takes the samples window by window."""

    def write(self, cut: CutSamples) -> None: ...

    def finish(self) -> None: ...


def open_outputs(folder: OutputFolder, files: Sequence[SourceFile], options: PrepareOptions) -> tuple[Output, ...]:
    """Create the requested outputs.

    Raises
    ------
    InputError : two input files would need an output of one name.
    """
    outputs: list[Output] = [SampleFiles(folder)]
    if options.keep_closed:
        outputs.append(ClosedFile(folder))
    if options.compat == "virnucpro":
        outputs.append(VirnucproFiles(folder, files, options))
    return tuple(outputs)


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


class ClosedFile:
    """The chunks without an open frame as FASTA, named `SOURCE:START-END`, on the forward strand."""

    def __init__(self, folder: OutputFolder) -> None:
        self._stream = folder.create(CLOSED_NAME)

    def write(self, cut: CutSamples) -> None:
        """Append the chunks of a window."""
        chunks = chunks_at(cut.window, cut.closed)
        self._stream.write(b"".join([b">%b\n%b\n" % (name.encode(), dna) for _, dna, name in chunks]))

    def finish(self) -> None:
        """Nothing is left to write."""


class VirnucproFiles:
    """For each input file the three files that VirNucPro makes of it, named as it names them."""

    def __init__(self, folder: OutputFolder, files: Sequence[SourceFile], options: PrepareOptions) -> None:
        for stem, paths in repeated_stems(files).items():
            raise InputError(
                f"Cannot name VirNucPro's files: expected inputs with different names, found {' and '.join(paths)}, "
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
