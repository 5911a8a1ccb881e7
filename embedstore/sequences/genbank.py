"""GenBank and GenPept flat files: a record from its `LOCUS` line to its `//` line, parsed by Biopython.

The cut is made here, so that every record has its line number and a broken one does not take the next ones with it.
The sequence is the record's own, as its ORIGIN gives it, not that of its features. Where coding sequences are asked
for, records are `AnnotatedRecord`s: what Biopython makes of their CDS features, less those that cannot be cut out of
this record, each with the reason.
"""

from __future__ import annotations

import re
import warnings
from io import StringIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from embedstore.records import Record, Rejection
from embedstore.sequences.compression import (
    LONGEST_ID_BYTES,
    LONGEST_RECORD_BYTES,
    DamagedDataError,
    LineBuffer,
    id_fault,
    id_text,
)

if TYPE_CHECKING:
    from Bio.SeqFeature import SeqFeature
    from Bio.SeqRecord import SeqRecord

RELEASE_HEADER = re.compile(rb"GB[A-Z]+[0-9]*\.SEQ[ \t]+Genetic Sequence Data Bank")
"""First line of the files of a GenBank release (gbvrl1.seq), some lines before the first LOCUS."""

_SHOWN_CHARACTERS = 100
_RECORD_START = re.compile(rb"^LOCUS[ \t]", re.MULTILINE)
_RECORD_END = re.compile(rb"^//[ \t]*\n", re.MULTILINE)
_ACCESSION = re.compile(rb"^(?:VERSION|ACCESSION|LOCUS)[ \t]+(\S+)", re.MULTILINE)


class Part(NamedTuple):
    """One exon: a stretch of the record, 0-based and half-open on its forward strand."""

    start: int
    end: int
    strand: str


class CodingSequence(NamedTuple):
    """What a CDS feature says.

    Attributes
    ----------
    number : of the CDS feature in its record, from 1.
    parts : in the order in which they are translated.
    skipped_bases : before the first whole codon: `codon_start` less 1.
    table : number of the genetic code, `transl_table`; None where it is not stated.
    """

    number: int
    parts: tuple[Part, ...]
    skipped_bases: int
    table: int | None


class AnnotatedRecord(Record):
    """A record of a file that says what is coding.

    Attributes
    ----------
    coding : the coding sequences that can be cut out of it.
    unusable : name of each other CDS feature, and why it cannot.
    """

    coding: tuple[CodingSequence, ...] = ()
    unusable: tuple[tuple[str, str], ...] = ()


class GenbankParser:
    r"""Takes blocks cut anywhere, with `\n` line ends.

    Parameters
    ----------
    file : name to put into the records.
    line : 1-based number of the first block's first line.
    longest_bytes : of a record.
    with_coding : records are annotated; reading takes several times as long.
    """

    def __init__(
        self, file: str, line: int, longest_bytes: int = LONGEST_RECORD_BYTES, *, with_coding: bool = False
    ) -> None:
        self._with_coding = with_coding
        self._file = file
        self._line = line  # of the first line in _parts
        self._parts: list[bytes] = []  # whole lines of the record that has not ended yet
        self._buffer = LineBuffer(longest_bytes)
        self._left_bytes = self._longest_bytes = longest_bytes
        self._is_first = True

    def feed(self, block: bytes) -> list[Record | Rejection]:
        """Return the records that are complete now."""
        text = self._buffer.feed(block)
        records: list[Record | Rejection] = []
        start = 0
        for end in _RECORD_END.finditer(text):
            self._parts.append(text[start : end.end()])
            records += self._take_record("", has_end=True)
            start = end.end()
            self._left_bytes = self._longest_bytes
        self._parts.append(text[start:])
        self._left_bytes -= len(text) - start
        if self._left_bytes < 0:
            del self._parts[1:]
            raise DamagedDataError(f"it has a record of more than {self._longest_bytes} bytes")
        return records

    def finish(self) -> list[Record | Rejection]:
        """Return the last record, where only the final line end is missing: the input ends here."""
        last_line = self._buffer.rest()
        self._parts.append(last_line)
        has_end = last_line.rstrip() == b"//"
        return self._take_record("the record does not end with a line //: the file is cut off", has_end)

    def damaged(self, reason: str) -> list[Record | Rejection]:
        """Reject the record that was being read: the input breaks off here."""
        self._parts.append(self._buffer.rest())
        return self._take_record(reason, has_end=False) or [Rejection(self._file, self._line, "", reason)]

    def _take_record(self, reason: str, has_end: bool) -> list[Record | Rejection]:
        """Parse what has been gathered; `reason` is why its last record is rejected when it has no end."""
        text = b"".join(self._parts)
        self._parts = []
        line, self._line = self._line, self._line + text.count(b"\n")
        is_first, self._is_first = self._is_first, False

        starts = [start.start() for start in _RECORD_START.finditer(text)]
        before = text[: starts[0]] if starts else text
        records: list[Record | Rejection] = []
        if before.strip(b"/ \t\n") and not (is_first and RELEASE_HEADER.match(before)):
            lost = "not a GenBank record: expected a line that begins with LOCUS" if has_end else reason
            records.append(Rejection(self._file, line, _accession(before), lost))
        line += before.count(b"\n")
        for start, end in pairwise([*starts, len(text)]):
            record = text[start:end]
            if end < len(text):
                lost = "the record does not end with a line //: the next LOCUS follows"
                records.append(Rejection(self._file, line, _accession(record), lost))
            elif not has_end:
                records.append(Rejection(self._file, line, _accession(record), reason))
            else:
                records.append(_parsed(record, self._file, line, with_coding=self._with_coding))
            line += record.count(b"\n")
        return records


def _parsed(text: bytes, file: str, line: int, *, with_coding: bool) -> Record | Rejection:
    from Bio.Seq import UndefinedSequenceError

    parsed, fault = _biopython_record(text, with_features=with_coding)
    fault_of_features = ""
    if parsed is None and with_coding:
        fault_of_features = fault
        parsed, fault = _biopython_record(text, with_features=False)
    if parsed is None:
        return Rejection(file, line, _accession(text), f"GenBank record cannot be parsed{fault}")
    try:
        sequence = bytes(parsed.seq or b"")
    except UndefinedSequenceError:
        sequence = b""
    if not sequence.strip():
        return Rejection(file, line, _accession(text), "GenBank record without a sequence (no ORIGIN)")
    id_ = str(parsed.id)
    id_bytes = len(id_.encode("utf-8", "replace"))
    if id_bytes > LONGEST_ID_BYTES:
        return Rejection(file, line, id_text(id_.encode("utf-8", "replace")), id_fault(id_bytes))
    if not with_coding:
        return Record(id_, sequence, file, line)
    record = AnnotatedRecord(id_, sequence, file, line)
    if fault_of_features:
        record.unusable = (("all features", f"they cannot be parsed{fault_of_features}"),)
    else:
        record.coding, record.unusable = _coding_sequences(parsed)
    return record


def _biopython_record(text: bytes, *, with_features: bool) -> tuple[SeqRecord | None, str]:
    """Parse a record; where that fails, None and why."""
    # Biopython takes 0.1 s to import, which only readers of GenBank should pay.
    from Bio import BiopythonParserWarning
    from Bio.GenBank.Scanner import GenBankScanner

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BiopythonParserWarning)
            # What SeqIO.parse(…, "genbank") calls; without the features, which take most of its time.
            scanner = GenBankScanner()  # type: ignore[no-untyped-call]
            handle = StringIO(text.decode("utf-8", "replace"))
            parsed = scanner.parse(handle, do_features=with_features)  # type: ignore[no-untyped-call]
    except (ValueError, AssertionError, LookupError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())[:_SHOWN_CHARACTERS]
        return None, f" (Biopython: {why})"
    return parsed, ": no LOCUS line"


def _coding_sequences(record: SeqRecord) -> tuple[tuple[CodingSequence, ...], tuple[tuple[str, str], ...]]:
    """Return the CDS features of a record that can be cut out of it, and the others with the reason."""
    usable, unusable, length = [], [], len(record.seq or "")
    features = [feature for feature in record.features if feature.type == "CDS"]
    for number, feature in enumerate(features, start=1):
        found = _coding_sequence(number, feature, length)
        if isinstance(found, str):
            unusable.append((_name(number, feature), found))
        else:
            usable.append(found)
    return tuple(usable), tuple(unusable)


def _coding_sequence(number: int, feature: SeqFeature, length: int) -> CodingSequence | str:
    """Read a CDS feature, or say why it cannot be cut out of its record of so many bases."""
    location: Any = feature.location  # None where Biopython could not parse it, whatever its annotations say
    if location is None:
        return "its location cannot be parsed"
    if "pseudo" in feature.qualifiers or "pseudogene" in feature.qualifiers:
        return "it is marked as a pseudogene"
    elsewhere = [part.ref for part in location.parts if part.ref is not None]
    if elsewhere:
        return f"it lies in another record too ({id_text(elsewhere[0].encode())})"
    parts = tuple(Part(int(part.start), int(part.end), "-" if part.strand == -1 else "+") for part in location.parts)
    if not all(0 <= part.start < part.end <= length for part in parts):
        return f"its location is not within the {length} bases of the record"
    start, table = _first(feature, "codon_start", "1"), _first(feature, "transl_table", "")
    if start not in ("1", "2", "3"):
        return f"expected 1, 2 or 3 as its codon_start, found {id_text(start.encode())}"
    if table and not _is_genetic_code(table):
        return f"expected one of NCBI's genetic codes as its transl_table, found {id_text(table.encode())}"
    return CodingSequence(number, parts, int(start) - 1, int(table) if table else None)


def _is_genetic_code(text: str) -> bool:
    from Bio.Data import CodonTable

    return text.isascii() and text.isdecimal() and int(text[:9]) in CodonTable.unambiguous_dna_by_id


def _first(feature: SeqFeature, qualifier: str, missing: str) -> str:
    values = feature.qualifiers.get(qualifier)
    return str(values[0]).strip() if values else missing


def _name(number: int, feature: SeqFeature) -> str:
    names = (_first(feature, qualifier, "") for qualifier in ("protein_id", "locus_tag", "gene", "product"))
    name = next((name for name in names if name), "")
    return f"CDS {number} ({id_text(name.encode())})" if name else f"CDS {number}"


def _accession(text: bytes) -> str:
    """Id of a record that Biopython has not parsed: its VERSION, ACCESSION or LOCUS, whichever comes last."""
    found = _ACCESSION.findall(text)
    return id_text(found[-1]) if found else ""
