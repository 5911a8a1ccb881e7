"""From files to sources: canonical DNA with a unique id, a group and a label. Other records are kept aside.

`find_files` turns the inputs of a user (files and folders, each with or without a label) into files, `SourceReader`
turns their records into sources, and `UniqueNames` makes the names that a table needs of names that may repeat.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path, PurePath
from typing import Literal, NamedTuple

from embedstore.errors import InputError, MoleculeError, SequenceError
from embedstore.identity import canonical, looks_like_dna
from embedstore.records import Record, Rejection
from embedstore.sequences import read
from embedstore.sequences.genbank import AnnotatedRecord, CodingSequence

UNNAMED = "unnamed"
"""Stands for a record that has no id."""


class UniqueNames:
    """Hands out every name once: the second `x` becomes `x~2`, the third `x~3`.

    Only a 64-bit digest of each name is kept, so that millions of contigs take little memory. Should two names ever
    share one, the later gets a suffix that it would not have needed.
    """

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._repeats: dict[str, int] = {}

    def unique(self, name: str) -> str:
        """Return the name, with a suffix if it was handed out before."""
        name = name or UNNAMED
        if self._take(name):
            return name
        number = self._repeats.get(name, 1) + 1
        while not self._take(f"{name}~{number}"):
            number += 1
        self._repeats[name] = number
        return f"{name}~{number}"

    def _take(self, name: str) -> bool:
        digest = int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest())
        if digest in self._taken:
            return False
        self._taken.add(digest)
        return True


GroupBy = Literal["file", "record"]

STANDARD_INPUT = "-"

_COMPRESSED = {".gz", ".bgz", ".bz2", ".xz", ".zst"}
_NUCLEOTIDES = {".fa", ".fna", ".fasta", ".ffn", ".fas", ".fsa", ".fq", ".fastq", ".gb", ".gbk", ".gbff", ".genbank"}


@dataclass(frozen=True, slots=True)
class LabelledInput:
    """A file, a folder, or `-` for standard input; "" is none.

    Raises
    ------
    InputError : the label holds a tab, a line end or something else that cannot be printed.
    """

    path: str
    label: str = ""

    def __post_init__(self) -> None:
        if not self.label.isprintable():
            raise InputError(
                f"Cannot label {self.path} {self.label!r}: expected printable characters, no tabs or line ends."
            )

    def __str__(self) -> str:
        return f"{self.label}={self.path}" if self.label else self.path


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to read, with what its records are called.

    Attributes
    ----------
    group_by : whether the file is one group ("file") or each of its records is one ("record").
    """

    path: str
    label: str
    group_by: GroupBy

    @property
    def stem(self) -> str:
        """Name without folder, compression suffix and format suffix."""
        return stem_of(self.path)


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """The files of all inputs, in order; `skipped` are those of a folder that are not called like DNA files."""

    files: tuple[SourceFile, ...]
    skipped: tuple[str, ...]


def parse_input(text: str | os.PathLike[str] | LabelledInput) -> LabelledInput:
    """Read `LABEL=PATH` or `PATH`. A path that exists is a path even if it holds a `=`."""
    if isinstance(text, LabelledInput):
        return text
    path = os.fspath(text)
    label, separator, rest = path.partition("=")
    if isinstance(text, str) and separator and label and rest and not Path(path).exists():
        return LabelledInput(rest, label)
    return LabelledInput(path)


def find_files(inputs: Sequence[LabelledInput], group_by: GroupBy | None = None) -> SourceFiles:
    """List the files of inputs: a file stands for itself, a folder for all DNA files below it, sorted by path.

    In a folder, DNA files are known by their names (`.fna`, `.fa`, `.gbk`, …, compressed or not); hidden ones are left
    out.

    Parameters
    ----------
    inputs : files, folders, or `-`.
    group_by : None: each record of a file that was named is a group; each file of a folder is one.

    Raises
    ------
    InputError : there is no input, or a folder has no DNA file.
    """
    if not inputs:
        raise InputError("Cannot prepare samples: found no input. Give at least one file or folder.")
    files: list[SourceFile] = []
    skipped: list[str] = []
    for one in inputs:
        if one.path == STANDARD_INPUT or not Path(one.path).is_dir():
            files.append(SourceFile(one.path, one.label, group_by or "record"))
            continue
        below = sorted(path for path in Path(one.path).rglob("*") if path.is_file() and not _is_hidden(path, one.path))
        found = [path for path in below if _is_dna_file(path)]
        if not found:
            suffixes = " ".join(sorted(_NUCLEOTIDES))
            raise InputError(
                f"Cannot prepare the folder {one.path}: found no file in it that ends with one of {suffixes}."
            )
        files += [SourceFile(str(path), one.label, group_by or "file") for path in found]
        skipped += [str(path) for path in below if not _is_dna_file(path)]
    return SourceFiles(tuple(files), tuple(skipped))


def stem_of(path: str) -> str:
    """Return the name of a file without its suffixes; `-` is `stdin`."""
    if path == STANDARD_INPUT:
        return "stdin"
    name = PurePath(path)
    if name.suffix.lower() in _COMPRESSED:
        name = name.with_suffix("")
    if name.suffix.lower() in _NUCLEOTIDES:
        name = name.with_suffix("")
    return "".join(character if character.isprintable() else "_" for character in name.name)


def _is_dna_file(path: Path) -> bool:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return bool(suffixes) and suffixes[-1] in _NUCLEOTIDES


def _is_hidden(path: Path, folder: str) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def repeated_stems(files: Iterable[SourceFile]) -> dict[str, list[str]]:
    """Return the stems that several files share, with their paths."""
    paths: dict[str, list[str]] = {}
    for file in files:
        paths.setdefault(file.stem, []).append(file.path)
    return {stem: shared for stem, shared in paths.items() if len(shared) > 1}


_JUDGED_RECORDS = 1000
"""Records by which it is judged whether the input is DNA at all."""


class ChosenCode(NamedTuple):
    """The genetic code of one source.

    Attributes
    ----------
    number : NCBI's `transl_table`.
    origin : what it was chosen by: "table", "transl_table", "stops", "group" or "default".
    """

    number: int
    origin: str


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One sequence that chunks are cut from.

    Attributes
    ----------
    id : unique in the table.
    record_id : as it was read.
    dna : canonical DNA.
    raw : as it was read: blanks and case are still there, and U.
    coding : its coding sequences, where they were asked for.
    code : its genetic code; None: that of all.
    """

    id: str
    record_id: str
    file: SourceFile
    group: str
    label: str
    dna: bytes
    raw: bytes
    coding: tuple[CodingSequence, ...] = ()
    code: ChosenCode | None = None


@dataclass(slots=True)
class SourceReader:
    """Iterates over the sources of files, and keeps other records aside.

    Every file is opened before the first source is given out, so that a wrong name is reported immediately.

    Parameters
    ----------
    files : to read.
    coding : "ignore" leaves coding sequences aside, which is faster; "read" reads those of GenBank; "require" refuses
        files that do not say what is coding.

    Raises
    ------
    SequenceFileError : see `embedstore.sequences.read`.
    MoleculeError : more than half of the first 1 000 records are proteins.
    InputError : coding sequences are required of a file that is not GenBank.
    """

    files: Sequence[SourceFile]
    coding: Literal["ignore", "read", "require"] = "ignore"
    read: int = 0
    """Records, rejected ones included."""
    unusable: list[Rejection] = field(default_factory=list)
    """CDS features that cannot be cut out of their records; the records are read all the same."""
    rejected: list[Rejection] = field(default_factory=list)
    _proteins: int = 0

    def __iter__(self) -> Iterator[Source]:
        read([file.path for file in self.files])
        ids, groups = UniqueNames(), UniqueNames()
        for file in self.files:
            file_group = groups.unique(file.stem)
            for record in read([file.path], with_coding=self.coding != "ignore"):
                self.read += 1
                coding = () if self.coding == "ignore" else self._coding(record, file)
                dna = self._dna(record)
                if self.read == _JUDGED_RECORDS:
                    self._judge_molecule()
                if dna is None or isinstance(record, Rejection):
                    continue
                id_ = ids.unique(record.id)
                group = file_group if file.group_by == "file" else id_
                yield Source(id_, record.id, file, group, file.label, dna, record.sequence, coding)
        if self.read < _JUDGED_RECORDS:
            self._judge_molecule()

    def _coding(self, record: Record | Rejection, file: SourceFile) -> tuple[CodingSequence, ...]:
        if isinstance(record, AnnotatedRecord):
            for name, reason in record.unusable if self.coding == "require" else ():
                self.unusable.append(Rejection(record.file, record.line, f"{record.id}: {name}", reason))
            return record.coding
        if self.coding == "require" and isinstance(record, Record):
            raise InputError(
                f"Cannot take the coding sequences of {file.path}: expected GenBank with CDS features, found FASTA or "
                "FASTQ, which do not say where genes are and in which frame. Give the GenBank file (.gbff, .gb), or "
                "leave out coding_only (--coding-only)."
            )
        return ()

    def _dna(self, record: Record | Rejection) -> bytes | None:
        if isinstance(record, Rejection):
            self.rejected.append(record)
            return None
        try:
            return canonical(record.sequence, "dna")
        except SequenceError as error:
            self.rejected.append(Rejection(record.file, record.line, record.id, error.reason))
            if self.read <= _JUDGED_RECORDS and _is_protein(record.sequence):
                self._proteins += 1
            return None

    def _judge_molecule(self) -> None:
        if self._proteins * 2 > self.read:
            raise MoleculeError(
                f"Cannot prepare samples from this input: expected DNA, found that {self._proteins} of the first "
                f"{self.read} records are proteins. Give the genomes that they come from; proteins need no "
                "preparation, and can be filled as they are."
            )


def _is_protein(sequence: bytes) -> bool:
    try:
        return not looks_like_dna(canonical(sequence, "protein"))
    except SequenceError:
        return False
