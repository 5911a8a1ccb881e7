"""FASTQ of four lines a record: `@` and the id, the sequence, `+`, the quality.

`@` and `+` may begin a quality line too, so a record is recognised by its place. After a malformed record, reading
continues at the next `@` line that has a `+` two lines below it.
"""

from __future__ import annotations

from embedstore.records import Record, Rejection
from embedstore.sequences.compression import LONGEST_ID_BYTES, LONGEST_RECORD_BYTES, LineBuffer, id_fault, id_text

_RECORD_LINES = 4
_SHOWN_BYTES = 20
_AT = ord("@")


class FastqParser:
    r"""Takes blocks cut anywhere, with `\n` line ends.

    Parameters
    ----------
    file : name to put into the records.
    line : 1-based number of the first block's first line.
    longest_bytes : of a line.
    """

    def __init__(self, file: str, line: int, longest_bytes: int = LONGEST_RECORD_BYTES) -> None:
        self._file = file
        self._line = line  # of the first of _lines
        self._lines: list[bytes] = []  # not used yet
        self._buffer = LineBuffer(longest_bytes)
        self._malformed: Rejection | None = None  # held until it is known where reading goes on

    def feed(self, block: bytes) -> list[Record | Rejection]:
        """Return the records that are complete now."""
        text = self._buffer.feed(block)
        if not text:
            return []
        self._lines += text.split(b"\n")[:-1]
        return self._take_records()

    def finish(self) -> list[Record | Rejection]:
        """Return the last records: the input ends here."""
        self._lines.append(self._buffer.rest())
        records = self._take_records()
        if self._malformed is not None:
            return [*records, _with_continuation(self._malformed, "no further record was found")]
        if self._lines:
            records.append(self._rejection("incomplete record: the file ends within it", 0))
        return records

    def damaged(self, reason: str) -> list[Record | Rejection]:
        """Reject the record that was being read: the input breaks off here."""
        self._lines.append(self._buffer.rest())
        malformed = [] if self._malformed is None else [self._malformed]
        return [*malformed, self._rejection(reason, 0)]

    def _take_records(self) -> list[Record | Rejection]:
        records: list[Record | Rejection] = []
        lines = self._lines
        place = 0
        while True:
            if self._malformed is None:
                place = self._take_regular_records(place, records)
            place = self._next_header(place, records)
            if self._malformed is not None or place + _RECORD_LINES > len(lines):
                break
            header, sequence, plus, quality = lines[place : place + _RECORD_LINES]
            fault = _fault(header, sequence, plus, quality)
            if fault is not None:
                self._malformed = self._rejection(fault, place)
                place += 1
                continue
            if len(_word(header)) > LONGEST_ID_BYTES:
                records.append(self._rejection(id_fault(len(_word(header))), place))
            elif sequence.strip():
                records.append(Record(_id(header), sequence, self._file, self._line + place))
            else:
                records.append(self._rejection("empty record: no sequence", place))
            place += _RECORD_LINES
        del lines[:place]
        self._line += place
        return records

    def _take_regular_records(self, place: int, records: list[Record | Rejection]) -> int:
        """Take records while they are regular, as nearly all are; return where that ends."""
        file, line = self._file, self._line
        columns = (self._lines[place + column :: _RECORD_LINES] for column in range(_RECORD_LINES))
        for header, sequence, plus, quality in zip(*columns, strict=False):
            words = header.split(None, 1)
            is_regular = words and 1 < len(words[0]) <= LONGEST_ID_BYTES and header[0] == _AT and plus[:1] == b"+"
            if not is_regular or len(sequence) != len(quality) or not sequence or sequence.isspace():
                break
            # Record(…) is a Python function that calls this; calling it directly takes half the time.
            row = (words[0][1:].decode("utf-8", "replace"), sequence, file, line + place)
            records.append(tuple.__new__(Record, row))
            place += _RECORD_LINES
        return place

    def _next_header(self, place: int, records: list[Record | Rejection]) -> int:
        """Return where the next record begins, or what is left to look at when more lines are needed to tell."""
        lines = self._lines
        if self._malformed is None:
            while place < len(lines) and not lines[place].strip():
                place += 1
            return place
        for header in range(place, len(lines) - 2):
            if lines[header].startswith(b"@") and lines[header + 2].startswith(b"+"):
                records.append(_with_continuation(self._malformed, f"reading went on at line {self._line + header}"))
                self._malformed = None
                return header
        return max(place, len(lines) - 2)

    def _rejection(self, reason: str, place: int) -> Rejection:
        return Rejection(self._file, self._line + place, _id(self._lines[place]), reason)


def _fault(header: bytes, sequence: bytes, plus: bytes, quality: bytes) -> str | None:
    if not header.startswith(b"@"):
        return f"malformed FASTQ record: expected a header that begins with '@', found {_shown(header)}"
    if not plus.startswith(b"+"):
        return f"malformed FASTQ record: expected '+' two lines below its header, found {_shown(plus)}"
    residues, scores = len(sequence.rstrip()), len(quality.rstrip())
    if residues != scores:
        return f"malformed FASTQ record: expected {residues} quality scores, one a base, found {scores}"
    return None


def _with_continuation(rejection: Rejection, continuation: str) -> Rejection:
    return rejection._replace(reason=f"{rejection.reason}; {continuation}")


def _id(header: bytes) -> str:
    return id_text(_word(header))


def _word(header: bytes) -> bytes:
    words = header[1:].split(None, 1) if header.startswith(b"@") else []
    return words[0] if words else b""


def _shown(line: bytes) -> str:
    return repr(line[:_SHOWN_BYTES].decode("utf-8", "replace"))
