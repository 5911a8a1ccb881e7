"""Bytes of an input: decompressed, and divided into lines.

Compression is recognised by the first bytes, never by a file name: gzip (also of many members, as bgzip writes), bzip2,
xz and zstd (also of many streams or frames). Data that ends early or is damaged raises `DamagedDataError` after
everything that could still be decompressed.

Lines have one kind of line end, are whole where a format needs that, and have a maximal length.
"""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain
from typing import Protocol

from embedstore.errors import InputError

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


if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_HEADER_BYTES = 18
"""Enough of a member's head to tell all of them, and bgzip from gzip."""

_BZIP2_FIRST_BLOCK = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")
"""What follows `BZh` and the level: digits of pi before a block, of its root at the end of an empty file."""

_DAMAGE = (zlib.error, lzma.LZMAError, zstd.ZstdError, OSError, EOFError)
"""What the decompressors raise; OSError comes from bzip2."""


_XZ_MEMORY_BYTES = 272 << 20
_ZSTD_WINDOW_LOG = 27
"""What a stream may ask for to be decompressed: four times as much as `xz -9` makes it need, and what zstd allows by
itself. A stream of a few bytes can ask for 4 GiB."""


class DamagedDataError(InputError):
    """Data cannot be read on: compressed data ends early, is damaged or asks for too much memory; a line is too long.

    The message is a clause that says which, `advice` a sentence. Stays within this package.
    """

    def __init__(self, reason: str, advice: str = "Get the file again.") -> None:
        super().__init__(reason)
        self.advice = advice


class _Decompressor(Protocol):
    """What the decompressors of bz2, lzma and zstd have in common: one member, with bounded output."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _GzipDecompressor:
    """One gzip member, zlib's decompressor with the interface of the others."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        block = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        # zlib may hold more output back even when it has taken in all of the input.
        self.needs_input = not self._stream.unconsumed_tail and len(block) < max_length
        return block


_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    "gzip": _GzipDecompressor,
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES),
    "zstd": lambda: zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}),
}


def compression_of(head: bytes) -> str | None:
    """Name the compression of data that begins with `head` (at least 18 bytes, or all there is)."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"BZh") and head[4:10] in _BZIP2_FIRST_BLOCK:
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    is_skippable_frame = head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F
    if head.startswith(b"\x28\xb5\x2f\xfd") or is_skippable_frame:
        return "zstd"
    return None


def decompressed(raw: Iterator[bytes], block_bytes: int) -> Iterator[bytes]:
    """Return the content of `raw`, which passes through as it is when it is not compressed.

    Parameters
    ----------
    raw : the bytes of a file, no block of them empty.
    block_bytes : at most this much is decompressed at once.

    Raises
    ------
    DamagedDataError : while iterating; the data ends early or is damaged.
    """
    head = _at_least(_HEADER_BYTES, b"", raw)
    compression = compression_of(head)
    if compression is None:
        return chain([head] if head else [], raw)
    return _members(compression, head, raw, block_bytes)


def _members(compression: str, data: bytes, raw: Iterator[bytes], block_bytes: int) -> Iterator[bytes]:
    cut_off = False
    while data:
        is_bgzip = compression == "gzip" and data[3:4] == b"\x04" and data[12:14] == b"BC"
        size_bytes, data = yield from _member(compression, data, raw, block_bytes)
        # bgzip ends with an empty member, so that a cut between two members shows too.
        cut_off = is_bgzip and size_bytes > 0
        data = _next_member(data, raw)
    if cut_off:
        raise DamagedDataError("its gzip data ends early: the empty block that ends bgzip data is missing")


def _member(
    compression: str, data: bytes, raw: Iterator[bytes], block_bytes: int
) -> Generator[bytes, None, tuple[int, bytes]]:
    """Yield the content of one member; return its size, and what has been read beyond it."""
    decompressor = _DECOMPRESSORS[compression]()
    size_bytes = 0
    while not decompressor.eof:
        if decompressor.needs_input and not data:
            data = next(raw, b"")
            if not data:
                raise DamagedDataError(f"its {compression} data ends early: the file is cut off")
        try:
            block = decompressor.decompress(data, block_bytes)
        except _DAMAGE as error:
            raise _damage(compression, error) from error
        data = b""
        size_bytes += len(block)
        if block:
            yield block
    return size_bytes, decompressor.unused_data


def _damage(compression: str, error: Exception) -> DamagedDataError:
    if "memory" in str(error).lower():
        return DamagedDataError(
            f"its {compression} data asks for too much memory ({error})",
            "Compress it with a smaller window (zstd without --long, xz -9 at most).",
        )
    return DamagedDataError(
        f"its {compression} data is damaged ({error}), so what was read of it before may be wrong too"
    )


def _next_member(data: bytes, raw: Iterator[bytes]) -> bytes:
    """Return data that begins with the next member, or b"" at the end; zeros between are padding, as on tapes."""
    data = data.lstrip(b"\0")
    while not data:
        block = next(raw, b"")
        if not block:
            return b""
        data = block.lstrip(b"\0")
    return _at_least(_HEADER_BYTES, data, raw)


def _at_least(size_bytes: int, data: bytes, raw: Iterator[bytes]) -> bytes:
    while len(data) < size_bytes and (block := next(raw, b"")):
        data += block
    return data
