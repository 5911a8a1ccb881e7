"""Tell by its first bytes which format a text is in, and say what it is instead when it is none of them."""

from __future__ import annotations

import re
from typing import Literal

from embedstore.sequences.compression import compression_of
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
    """Say what a text is that is not sequences: what it begins with at `line`, and what was expected."""
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
