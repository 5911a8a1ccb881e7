"""Lines in a stream of blocks: one kind of line end, whole lines where a format needs them, and how long one may be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from embedstore.sequences.compression import DamagedDataError

LONGEST_RECORD_BYTES = (1 << 31) - 1
"""Of a record's text in the file, ten times the longest human chromosome. What is longer is rejected, so that a bomb of
a few kB cannot ask for all memory; up to four times the longest record is in memory at once."""

LONGEST_ID_BYTES = 4096
"""A record with a longer id is rejected: ids are kept for all records, and are shown to people."""

_ID_SHOWN = 80


def id_text(word: bytes) -> str:
    """Return the id of a record; of one that is too long, the beginning and `…`."""
    if len(word) > LONGEST_ID_BYTES:
        return f"{word[:_ID_SHOWN].decode('utf-8', 'replace')}…"
    return word.decode("utf-8", "replace")


def id_fault(size_bytes: int) -> str:
    """Say why a record with an id of so many bytes is rejected."""
    return f"expected an id of at most {LONGEST_ID_BYTES} bytes, found {size_bytes}"


def with_unix_line_ends(blocks: Iterable[bytes]) -> Iterator[bytes]:
    r"""Yield the blocks with `\r\n` and lone `\r` as `\n`."""
    held = b""
    for block in blocks:
        text, held = held + block, b""
        if b"\r" in text:
            if text.endswith(b"\r"):  # the next block may begin with its \n
                text, held = text[:-1], b"\r"
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if text:
            yield text
    if held:
        yield b"\n"


class LineBuffer:
    """Turns blocks cut anywhere into texts of whole lines. A line may be longer than many blocks."""

    def __init__(self, longest_bytes: int = LONGEST_RECORD_BYTES) -> None:
        self._parts: list[bytes] = []
        self._left_bytes = self._longest_bytes = longest_bytes

    def feed(self, block: bytes) -> bytes:
        r"""Return the lines that are complete now, each with its `\n`; b"" if there is none.

        Raises
        ------
        DamagedDataError : a line is longer than may be.
        """
        size = block.rfind(b"\n") + 1
        if not size:
            self._parts.append(block)
            self._left_bytes -= len(block)
            if self._left_bytes < 0:
                del self._parts[1:]
                raise DamagedDataError(f"it has a line of more than {self._longest_bytes} bytes")
            return b""
        lines = b"".join([*self._parts, block[:size]])
        self._parts = [block[size:]]
        self._left_bytes = self._longest_bytes - len(self._parts[0])
        return lines

    def rest(self) -> bytes:
        """Return the line that has no end yet."""
        return b"".join(self._parts)
