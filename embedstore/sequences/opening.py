"""Open an input, see through its compression, and find its format and where its first record begins.

The format is recognised by the first bytes; a text in no known format is refused with a guess at what it is instead.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal

from embedstore.errors import SequenceFileError
from embedstore.sequences.compression import DamagedDataError, compression_of, decompressed, with_unix_line_ends
from embedstore.sequences.genbank import RELEASE_HEADER

Format = Literal["fasta", "fastq", "genbank"]

SNIFFED_BYTES = 512
"""As many bytes from the first line that counts settle the format, where there are so many: a tar header needs 262."""

EXPECTED = (
    "expected FASTA (its first line begins with '>'), FASTQ ('@') or GenBank ('LOCUS'), "
    "plain or compressed with gzip, bzip2, xz or zstd"
)

_SHOWN_BYTES = 40
_PREAMBLE = re.compile(rb"(?:[ \t\v\f]*+\n|[#;][^\n]*+\n)*+")
_OPEN_PREAMBLE = re.compile(rb"(?:[ \t\v\f]*|[#;][^\n]*)\Z")
_FORMATS: tuple[tuple[re.Pattern[bytes], Format], ...] = (
    (re.compile(rb">"), "fasta"),
    (re.compile(rb"@(?!(?:HD|SQ|RG|PG|CO)\t)"), "fastq"),
    (re.compile(rb"LOCUS[ \t]"), "genbank"),
    (RELEASE_HEADER, "genbank"),
)
_OTHERS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"PK(?:\x03\x04|\x05\x06|\x07\x08)"), "a zip archive: unpack it and name the files in it"),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "a 7-Zip archive: unpack it and name the files in it"),
    (re.compile(rb"Rar!\x1a\x07"), "a RAR archive: unpack it and name the files in it"),
    (re.compile(rb"(?s).{257}ustar"), "a tar archive: unpack it and name the files in it"),
    (re.compile(rb"\x1f\x9d"), "compressed with compress (.Z): decompress it first"),
    (re.compile(rb"\x04\x22\x4d\x18"), "compressed with lz4: decompress it first"),
    (re.compile(rb"%PDF-"), "a PDF document"),
    (re.compile(rb"\x89HDF\r?\n"), "an HDF5 file"),
    (re.compile(rb"BAM\x01"), "a BAM file: convert it, for example with samtools fasta"),
    (re.compile(rb"@(?:HD|SQ|RG|PG|CO)\t"), "a SAM file: convert it, for example with samtools fasta"),
    (re.compile(rb"(?i)\s*<(?:!doctype html|html|head|body)\b"), "an HTML page, perhaps saved instead of the file"),
    (re.compile(rb"\s*<\?xml"), "an XML document"),
    (re.compile(rb"ID   \S"), "an EMBL or UniProt flat file: convert it to FASTA"),
    (re.compile(rb"\xff\xfe|\xfe\xff|\0+[>@L]|[>@L]\0"), "UTF-16 or UTF-32 text: save it as UTF-8"),
    (re.compile(rb"(?s).*\0"), "binary data"),
)


def skip_preamble(head: bytes) -> tuple[bytes, int]:
    """Drop blank lines and comment lines from the head of a text.

    Returns
    -------
    rest : what is left; b"" or one character when all of it may still be preamble.
    lines : how many line ends were dropped.
    """
    size = _PREAMBLE.match(head).end()  # type: ignore[union-attr]  # it matches everything
    rest = head[size:]
    if _OPEN_PREAMBLE.match(rest):
        rest = rest[:1]  # a comment may be longer than memory; its first character says all
    return rest, head.count(b"\n", 0, size)


def is_preamble(rest: bytes) -> bool:
    """Tell whether what `skip_preamble` left may still be a blank line or a comment."""
    return _OPEN_PREAMBLE.match(rest) is not None


def format_of(head: bytes) -> Format | None:
    """Name the format of a text whose first line that counts begins with `head`; None: it is not sequences."""
    if _other(head) is not None:
        return None
    return next((name for pattern, name in _FORMATS if pattern.match(head)), None)


def refusal(head: bytes, line: int) -> str:
    """Describe a text that is not sequences: what it begins with at `line`, and what was expected."""
    first_line = head.partition(b"\n")[0]
    shown = first_line[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
    other = _other(head)
    if other is not None:
        return f"it is {other} (it begins with {shown!r}); {EXPECTED}."
    if re.fullmatch(rb"(?:[A-Z*-]{10,}|[a-z*-]{10,})[ \t]*", first_line):
        return f"line {line} is {shown!r}, perhaps a sequence whose header line is missing; {EXPECTED}."
    return f"line {line} begins with {shown!r}; {EXPECTED}."


def _other(head: bytes) -> str | None:
    compression = compression_of(head)
    if compression is not None:
        return f"compressed more than once (with {compression} inside): decompress it first"
    return next((name for pattern, name in _OTHERS if pattern.match(head, 0, SNIFFED_BYTES)), None)


STANDARD_INPUT = "-"
STANDARD_INPUT_NAME = "<stdin>"

BLOCK_BYTES = 1 << 17
"""What is read and parsed at once: small enough for the processor's cache, large enough for numpy."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, eq=False)
class SequenceText:
    r"""The decompressed text of an input, from its first record on.

    Attributes
    ----------
    file : name for records and messages.
    format : None when it holds only blank lines and comments.
    line : 1-based line of the first record.
    blocks : cut anywhere, with `\n` line ends; raises DamagedDataError where compressed data breaks off.
    """

    file: str
    format: Format | None
    line: int
    blocks: Iterator[bytes]


def check(source: str) -> None:
    """Check that an input can be opened and holds sequences, as far as possible without reading from a stream.

    Raises
    ------
    SequenceFileError : it cannot be opened, or does not begin like a file of sequences.
    """
    if source == STANDARD_INPUT:
        return
    try:
        mode = Path(source).stat().st_mode
    except OSError as error:
        raise SequenceFileError(source, _why(error)) from error
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        with open_text(source):
            pass


@contextmanager
def open_text(source: str, block_bytes: int = BLOCK_BYTES) -> Iterator[SequenceText]:
    """Open a file, or standard input for `-`, and sniff its head.

    Raises
    ------
    SequenceFileError : it cannot be opened or read, or is not a file of sequences.
    """
    if source == STANDARD_INPUT:
        if sys.stdin is None:
            raise SequenceFileError(STANDARD_INPUT_NAME, "there is no standard input")
        yield _sniffed(STANDARD_INPUT_NAME, sys.stdin.buffer, block_bytes)
        return
    try:
        stream = FileIO(source)
    except OSError as error:
        raise SequenceFileError(source, _why(error)) from error
    with stream:
        yield _sniffed(source, stream, block_bytes)


def _sniffed(file: str, stream: BinaryIO, block_bytes: int) -> SequenceText:
    raw = _raw_blocks(file, stream, block_bytes)
    blocks = with_unix_line_ends(_without_byte_order_mark(decompressed(raw, block_bytes)))
    head, line, damage = _head(blocks)
    if damage is not None:
        blocks = _breaking_off(damage)
    if is_preamble(head):
        if damage is not None:
            raise SequenceFileError(file, f"{damage}, before its first record. {damage.advice}")
        return SequenceText(file, None, line, iter(()))
    text_format = format_of(head)
    if text_format is None:
        reason = refusal(head, line) if damage is None else f"{refusal(head, line)} Also, {damage}."
        raise SequenceFileError(file, reason)
    return SequenceText(file, text_format, line, chain([head], blocks))


def _head(blocks: Iterator[bytes]) -> tuple[bytes, int, DamagedDataError | None]:
    """Read up to where the format can be told: the text from its first line that counts, and that line's number."""
    head, line = b"", 1
    try:
        while is_preamble(head) or len(head) < SNIFFED_BYTES:
            block = next(blocks, b"")
            if not block:
                break
            head, lines = skip_preamble(head + block)
            line += lines
    except DamagedDataError as damage:
        return head, line, damage
    return head, line, None


def _breaking_off(damage: DamagedDataError) -> Iterator[bytes]:
    yield from ()
    raise damage


def _raw_blocks(file: str, stream: BinaryIO, block_bytes: int) -> Iterator[bytes]:
    """Yield the bytes of a file.

    Raises
    ------
    SequenceFileError : reading fails, or the file has another size at the end than at the beginning: then its last
        record may be cut off, and would pass for a whole one.
    """
    size_bytes, read_bytes = _size_bytes(stream), 0
    try:
        while block := stream.read(block_bytes):
            read_bytes += len(block)
            yield block
    except OSError as error:
        raise SequenceFileError(file, f"reading stopped: {_why(error)}") from error
    now_bytes = _size_bytes(stream)
    if size_bytes is not None and (read_bytes < size_bytes or now_bytes != size_bytes):
        raise SequenceFileError(
            file,
            f"it changed while it was read: it had {size_bytes} bytes at first, has {now_bytes} now, and {read_bytes} "
            "were read. Start again when nothing writes it.",
        )


def _size_bytes(stream: BinaryIO) -> int | None:
    """Return the size of a regular file, None of a stream."""
    if not isinstance(stream, FileIO):
        return None  # standard input may have been read from before
    status = os.fstat(stream.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _without_byte_order_mark(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Drop the mark that some editors put before UTF-8 text."""
    head = b""
    while len(head) < len(_BYTE_ORDER_MARK) and (block := next(blocks, b"")):
        head += block
    yield head.removeprefix(_BYTE_ORDER_MARK)
    yield from blocks


def _why(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file."
    if isinstance(error, IsADirectoryError):
        return "it is a directory; name the files in it."
    return f"{error.strerror or error}."
