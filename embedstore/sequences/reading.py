"""Read records from files of sequences, one after the other, whatever their format and compression."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Protocol

from embedstore.errors import SequenceFileError
from embedstore.records import Record, Rejection
from embedstore.sequences.compression import LONGEST_RECORD_BYTES, DamagedDataError
from embedstore.sequences.fasta import FastaParser
from embedstore.sequences.fastq import FastqParser
from embedstore.sequences.genbank import GenbankParser
from embedstore.sequences.opening import BLOCK_BYTES, STANDARD_INPUT, STANDARD_INPUT_NAME, Format, check, open_text


class _Parser(Protocol):
    """Is given the blocks of one text, then told once how it ended. What is too long for it is a DamagedDataError."""

    def feed(self, block: bytes) -> list[Record | Rejection]: ...
    def finish(self) -> list[Record | Rejection]: ...
    def damaged(self, reason: str) -> list[Record | Rejection]: ...


_PARSERS: dict[Format, Callable[[str, int, int], _Parser]] = {
    "fasta": FastaParser,
    "fastq": FastqParser,
    "genbank": GenbankParser,
}
_ANNOTATING: dict[Format, Callable[[str, int, int], _Parser]] = {"genbank": partial(GenbankParser, with_coding=True)}


def read(inputs: str | Path | Sequence[str | Path], *, with_coding: bool = False) -> Iterator[Record | Rejection]:
    """Read the records of one input, or of several in order.

    FASTA, FASTQ and GenBank, plain or compressed with gzip, bzip2, xz or zstd, recognised by content. Residues are
    checked later, by `identity.canonical`. Memory is bounded by the longest record, not by the input, and a
    record by `compression.LONGEST_RECORD_BYTES`.

    Parameters
    ----------
    inputs : a path, or paths; `-` is standard input, named `<stdin>` in records.
    with_coding : records of GenBank are `genbank.AnnotatedRecord`s; others say nothing of what is coding.

    Returns
    -------
    Records, and in their place a rejection for each one that cannot be used: an empty or malformed one, and the one at
    which compressed data ends early or is damaged, or that is too long, or has an id that is.

    Raises
    ------
    SequenceFileError : at once, before any record, when an input cannot be opened or is not a file of sequences; while
        iterating, when that can only be told later (a stream), or reading fails.
    """
    sources = [str(source) for source in ([inputs] if isinstance(inputs, (str, Path)) else inputs)]
    if sources.count(STANDARD_INPUT) > 1:
        raise SequenceFileError(STANDARD_INPUT_NAME, "it is named more than once, and can be read only once.")
    for source in sources:
        check(source)
    return chain.from_iterable(batch for source in sources for batch in read_batches(source, with_coding=with_coding))


def read_batches(
    source: str,
    block_bytes: int = BLOCK_BYTES,
    longest_bytes: int = LONGEST_RECORD_BYTES,
    *,
    with_coding: bool = False,
) -> Iterator[list[Record | Rejection]]:
    """Read one input, a list of records for each block of it; faster to pass on than single records."""
    with open_text(source, block_bytes) as text:
        if text.format is None:
            return
        make = _ANNOTATING.get(text.format, _PARSERS[text.format]) if with_coding else _PARSERS[text.format]
        parser = make(text.file, text.line, longest_bytes)
        try:
            yield from _parsed(parser, text.blocks)
        except MemoryError as error:
            raise SequenceFileError(text.file, "a record of it is too long for the memory of this machine.") from error


def _parsed(parser: _Parser, blocks: Iterator[bytes]) -> Iterator[list[Record | Rejection]]:
    try:
        for block in blocks:
            yield parser.feed(block)
    except DamagedDataError as error:
        yield parser.damaged(f"{error}; this record and all that follow in the file were not read")
    else:
        yield parser.finish()
