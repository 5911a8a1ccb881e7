"""GenBank and GenPept flat files: a record from its `LOCUS` line to its `//` line, parsed by Biopython.

The cut is made here, so that every record has its line number and a broken one does not take the next ones with it.
The sequence is the record's own, as its ORIGIN gives it, not that of its features.
"""

from __future__ import annotations

import re
import warnings
from io import StringIO
from itertools import pairwise

from embedstore.records import Record, Rejection
from embedstore.sequences.compression import (
    LONGEST_ID_BYTES,
    LONGEST_RECORD_BYTES,
    DamagedDataError,
    LineBuffer,
    id_fault,
    id_text,
)

RELEASE_HEADER = re.compile(rb"GB[A-Z]+[0-9]*\.SEQ[ \t]+Genetic Sequence Data Bank")
"""First line of the files of a GenBank release (gbvrl1.seq), some lines before the first LOCUS."""

_SHOWN_CHARACTERS = 100
_RECORD_START = re.compile(rb"^LOCUS[ \t]", re.MULTILINE)
_RECORD_END = re.compile(rb"^//[ \t]*\n", re.MULTILINE)
_ACCESSION = re.compile(rb"^(?:VERSION|ACCESSION|LOCUS)[ \t]+(\S+)", re.MULTILINE)


class GenbankParser:
    r"""Takes blocks cut anywhere, with `\n` line ends.

    Parameters
    ----------
    file : name to put into the records.
    line : 1-based number of the first block's first line.
    longest_bytes : of a record.
    """

    def __init__(self, file: str, line: int, longest_bytes: int = LONGEST_RECORD_BYTES) -> None:
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
                records.append(_parsed(record, self._file, line))
            line += record.count(b"\n")
        return records


def _parsed(text: bytes, file: str, line: int) -> Record | Rejection:
    # Biopython takes 0.1 s to import, which only readers of GenBank should pay.
    from Bio import BiopythonParserWarning
    from Bio.GenBank.Scanner import GenBankScanner
    from Bio.Seq import UndefinedSequenceError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BiopythonParserWarning)
            # What SeqIO.parse(…, "genbank") calls, less the features, which take most of its time.
            scanner = GenBankScanner()  # type: ignore[no-untyped-call]
            handle = StringIO(text.decode("utf-8", "replace"))
            parsed = scanner.parse(handle, do_features=False)  # type: ignore[no-untyped-call]
        if parsed is None:
            return Rejection(file, line, _accession(text), "GenBank record cannot be parsed: no LOCUS line")
        sequence = bytes(parsed.seq)
    except UndefinedSequenceError:
        sequence = b""
    except (ValueError, AssertionError, LookupError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())[:_SHOWN_CHARACTERS]
        return Rejection(file, line, _accession(text), f"GenBank record cannot be parsed (Biopython: {why})")
    if not sequence.strip():
        return Rejection(file, line, _accession(text), "GenBank record without a sequence (no ORIGIN)")
    id_bytes = len(parsed.id.encode("utf-8", "replace"))
    if id_bytes > LONGEST_ID_BYTES:
        return Rejection(file, line, id_text(parsed.id.encode("utf-8", "replace")), id_fault(id_bytes))
    return Record(parsed.id, sequence, file, line)


def _accession(text: bytes) -> str:
    """Id of a record that Biopython has not parsed: its VERSION, ACCESSION or LOCUS, whichever comes last."""
    found = _ACCESSION.findall(text)
    return id_text(found[-1]) if found else ""
