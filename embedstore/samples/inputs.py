"""What was given to prepare: files and folders, each with a label or without."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from embedstore.errors import InputError

GroupBy = Literal["file", "record"]

STANDARD_INPUT = "-"

_COMPRESSED = {".gz", ".bgz", ".bz2", ".xz", ".zst"}
_NUCLEOTIDES = {".fa", ".fna", ".fasta", ".ffn", ".fas", ".fsa", ".fq", ".fastq", ".gb", ".gbk", ".gbff", ".genbank"}


@dataclass(frozen=True, slots=True)
class LabelledInput:
    """A file, a folder, or `-` for standard input; "" is no label.

    Raises
    ------
    InputError : the label holds a tab, a line end or something else that cannot be printed.
    """

    path: str
    label: str = ""

    def __post_init__(self) -> None:
        if not self.label.isprintable():
            raise InputError(
                f"Cannot label {self.path} {self.label!r}: expected letters that can be printed, no tabs or line ends."
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
    group_by : None: each record of a file that was named is a group; each file of a folder is one.

    Raises
    ------
    InputError : there is no input, or a folder has no DNA file.
    """
    if not inputs:
        raise InputError("Cannot prepare nothing: give at least one file or folder.")
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
    return "".join(letter if letter.isprintable() else "_" for letter in name.name)


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
