r"""FASTA: a `>` in column one begins a record; lines that begin with `#` or `;` are comments.

The text between two headers is taken as it is, line ends and blanks included. Most text is regular, and is cut up with
numpy, all records of a block at once; text with any oddity in it is read record by record.
"""

from __future__ import annotations

from itertools import repeat
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedstore.records import Record, Rejection
from embedstore.sequences.compression import LONGEST_ID_BYTES, LONGEST_RECORD_BYTES, id_fault, id_text

_Text = TypeVar("_Text", bytes, str)

_BEGINS_COMMENT = np.isin(np.arange(256), list(b"#;"))
_ENDS_WORD = np.isin(np.arange(256), list(b" \t\n\v\f"))
_LONG_TEXT_BYTES = 1 << 22
"""Text that is longer holds a record longer than a block; cutting it up at once would cost memory and gain nothing."""


class FastaParser:
    r"""Takes blocks cut anywhere, with `\n` line ends, the first of them beginning with `>`.

    Parameters
    ----------
    file : name to put into the records.
    line : 1-based number of the first block's first line.
    longest_bytes : a record of more is rejected, and skipped without being kept.
    """

    def __init__(self, file: str, line: int, longest_bytes: int = LONGEST_RECORD_BYTES) -> None:
        self._file = file
        self._line = line  # of the first header in _parts
        self._parts: list[bytes] = []  # the unfinished record, with the line end before its header
        self._held = b"\n"  # a line end whose next character is not known yet
        self._left_bytes = self._longest_bytes = longest_bytes
        self._skipped: Rejection | None = None  # of the record that is skipped

    def feed(self, block: bytes) -> list[Record | Rejection]:
        """Return the records that are complete now."""
        block = self._held + block
        self._held = b""
        if block.endswith(b"\n"):
            block, self._held = block[:-1], b"\n"
        records = []
        if self._skipped is not None:
            end = block.find(b"\n>")
            self._line += block.count(b"\n", 0, len(block) if end < 0 else end)
            if end < 0:
                return []
            block, records, self._skipped = block[end:], [self._skipped], None
        cut = block.rfind(b"\n>")
        if cut < 0:
            self._parts.append(block)
            self._left_bytes -= len(block)
            if self._left_bytes < 0:
                self._skip()
            return []
        text = b"".join([*self._parts, memoryview(block)[:cut]])
        self._parts = [block[cut:]]
        self._left_bytes = self._longest_bytes - len(self._parts[0])
        return [*records, *self._cut_up(text)]

    def finish(self) -> list[Record | Rejection]:
        """Return the last record: the input ends here."""
        if self._skipped is not None:
            return [self._skipped]
        return self._cut_up(b"".join(self._parts))

    def damaged(self, reason: str) -> list[Record | Rejection]:
        """Reject the record that was being read: the input breaks off here."""
        if self._skipped is not None:
            return [self._skipped._replace(reason=f"{self._skipped.reason}; also, {reason}")]
        return [Rejection(self._file, self._line, self._unfinished_id(), reason)]

    def _unfinished_id(self) -> str:
        head = b""
        for part in self._parts:
            head += part
            if len(head) > 2 * LONGEST_ID_BYTES:
                break
        return id_text(_first_word(head[len(b"\n>") :].partition(b"\n")[0]))

    def _skip(self) -> None:
        """Drop the record that is being read, and the rest of it, and note that it is rejected."""
        reason = f"expected a record of at most {self._longest_bytes} bytes, found more"
        lines = sum(part.count(b"\n") for part in self._parts)
        self._skipped = Rejection(self._file, self._line, self._unfinished_id(), reason)
        self._line += lines
        self._parts = []

    def _cut_up(self, text: bytes) -> list[Record | Rejection]:
        if not text:
            return []
        places = None if len(text) > _LONG_TEXT_BYTES else _find_regular_records(text)
        if places is None:
            records = _records_one_by_one(text, self._file, self._line)
            self._line += text.count(b"\n")
            return records
        if text.isascii():
            ids = _slices(text.decode("ascii"), places.id_starts, places.id_ends)
        else:
            ids = [id_.decode("utf-8", "replace") for id_ in _slices(text, places.id_starts, places.id_ends)]
        sequences = _slices(text, places.sequence_starts, places.sequence_ends)
        rows = zip(ids, sequences, repeat(self._file), (places.lines + self._line).tolist(), strict=False)
        self._line += places.line_count
        # Record(…) is a Python function that calls this; calling it directly takes half the time.
        return list(map(tuple.__new__, repeat(Record), rows))


class _Places(NamedTuple):
    """Where the r records of a text are in it. All arrays are (r,) int64."""

    id_starts: NDArray[np.int64]
    id_ends: NDArray[np.int64]
    sequence_starts: NDArray[np.int64]
    sequence_ends: NDArray[np.int64]
    lines: NDArray[np.int64]
    """Of the headers, from 0."""
    line_count: int


def _find_regular_records(text: bytes) -> _Places | None:
    """Find the records of a text that begins with the line end before its first header.

    None if it is not plain that all are regular: no comment lines, an id directly behind the `>`, and residues in the
    sequence.
    """
    codes = np.frombuffer(text, dtype=np.uint8)
    blanks = np.flatnonzero(codes <= ord(" "))  # (b,) places of line ends, blanks, and control characters
    line_ends = np.flatnonzero(codes[blanks] == ord("\n"))  # (l,) in blanks
    first_codes = codes.take(blanks[line_ends] + 1, mode="clip")  # (l,) of the line behind each line end
    headers = np.flatnonzero(first_codes == ord(">"))  # (r,) in line_ends
    if headers[-1] + 1 == len(line_ends) or _BEGINS_COMMENT[first_codes].any():
        return None  # the last header has no line end, or there are comments

    starts, header_ends = line_ends[headers], line_ends[headers + 1]  # (r,) in blanks: line end before and behind
    ends = np.append(starts[1:], len(blanks))
    places = _Places(
        id_starts=blanks[starts] + len("\n>"),
        id_ends=blanks[starts + 1],
        sequence_starts=blanks[header_ends] + 1,
        sequence_ends=np.append(blanks[starts[1:]], len(text)),
        lines=headers,
        line_count=len(line_ends),
    )
    has_residues = places.sequence_ends - places.sequence_starts > ends - header_ends - 1
    sizes = places.id_ends - places.id_starts
    has_id = (sizes > 0) & (sizes <= LONGEST_ID_BYTES) & _ENDS_WORD[codes[places.id_ends]]
    return places if (has_residues & has_id).all() else None


def _slices(text: _Text, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> list[_Text]:
    return [text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def _records_one_by_one(text: bytes, file: str, line: int) -> list[Record | Rejection]:
    records: list[Record | Rejection] = []
    # Looking for the one character first is many times faster, and mostly settles it.
    has_comment_lines = (b"#" in text and b"\n#" in text) or (b";" in text and b"\n;" in text)
    start = 0  # of the line end before the header
    while start < len(text):
        end = text.find(b"\n>", start + 1)
        end = len(text) if end < 0 else end
        header_end = text.find(b"\n", start + 1, end)
        header_end = end if header_end < 0 else header_end
        word = _first_word(text[start + len("\n>") : header_end])
        id_ = id_text(word)
        sequence = text[header_end + 1 : end]
        if has_comment_lines:
            sequence = b"\n".join(line for line in sequence.split(b"\n") if not line.startswith((b"#", b";")))
        if len(word) > LONGEST_ID_BYTES:
            records.append(Rejection(file, line, id_, id_fault(len(word))))
        elif not sequence or sequence.isspace():
            records.append(Rejection(file, line, id_, "empty record: no sequence behind the header"))
        else:
            records.append(Record(id_, sequence, file, line))
        line += text.count(b"\n", start, end)
        start = end
    return records


def _first_word(header: bytes) -> bytes:
    words = header.split(None, 1)
    return words[0] if words else b""
